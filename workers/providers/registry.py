"""What there is of each provider: its adapter, and what is known of its models.

Only the adapters that a worker serves are imported: SDKs are heavy. A folder's `models.py` needs none.
"""

from functools import cache
from importlib import import_module

from contracts.subjects import Provider as ProviderName
from runtime.egress import Egress
from workers.providers.base import Provider
from workers.providers.shared.models import Models

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


@cache
def models_of(provider: str) -> Models:
    """What is known of a provider's models, whether its adapter is loaded or not. Raises ValueError."""
    return import_module(f".{ProviderName(provider)}.models", __package__).MODELS


def vendor_named_by(model: str) -> str | None:
    """The vendor whose models have names like this one; None for a name that tells none."""
    return next((name for name in available() if model.startswith(models_of(name).name_prefixes)), None)
