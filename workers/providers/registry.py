"""Which adapter serves which provider. Only the adapters that a worker serves are imported: SDKs are heavy."""

from importlib import import_module

from runtime.egress import Egress
from workers.providers.base import Provider

_ADAPTERS = {
    "anthropic": "Anthropic",
    "azure": "Azure",
    "google": "Google",
    "mock": "Mock",
    "ollama": "Ollama",
    "openai": "OpenAI",
}


def available() -> tuple[str, ...]:
    """The providers that have an adapter."""
    return tuple(_ADAPTERS)


def load(provider: str, egress: Egress) -> Provider:
    """The adapter of `provider`, which reaches its vendor through `egress`. Raises ValueError when there is none."""
    if provider not in _ADAPTERS:
        raise ValueError(f"there is no adapter for {provider[:80]!r}; there are: {', '.join(available())}")
    return getattr(import_module(f".{provider}.adapter", __package__), _ADAPTERS[provider])(egress)
