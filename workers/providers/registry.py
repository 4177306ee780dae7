"""What there is of each provider: its adapter, and what is known of its models.

A provider is a folder here. Its `adapter.py` holds its adapter as `ADAPTER`, its `models.py` a `Models` as `MODELS`. An
adapter is imported when a worker serves it, and not before: SDKs are heavy.
"""

from functools import cache
from importlib import import_module

from contracts.subjects import Provider as ProviderName
from runtime.egress import Egress
from workers.providers.base import Provider
from workers.providers.shared.models import Models


def available() -> tuple[str, ...]:
    """The providers that have an adapter: all."""
    return tuple(name.value for name in ProviderName)


def load(provider: str, egress: Egress) -> Provider:
    """The adapter of `provider`, which reaches its vendor through `egress`. Raises ValueError when there is none."""
    if provider not in available():
        raise ValueError(f"there is no adapter for {provider[:80]!r}; there are: {', '.join(available())}")
    return import_module(f".{provider}.adapter", __package__).ADAPTER(egress)


@cache
def models_of(provider: str) -> Models:
    """What is known of a provider's models, whether its adapter is loaded or not. Raises ValueError."""
    return import_module(f".{ProviderName(provider)}.models", __package__).MODELS


def vendor_named_by(model: str) -> str | None:
    """The vendor whose models have names like this one; None for a name that tells none."""
    return next((name for name in available() if model.startswith(models_of(name).name_prefixes)), None)
