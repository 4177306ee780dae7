"""What the price catalogue (genai-prices, bundled, offline) knows of a model: its window and its price today."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cache, lru_cache

from genai_prices import data_snapshot
from genai_prices.types import ModelInfo, TieredPrices
from genai_prices.types import Provider as Vendor

from contracts.subjects import Provider

_VENDORS = frozenset({Provider.OPENAI, Provider.ANTHROPIC, Provider.GOOGLE, Provider.AZURE})
"""Those that the catalogue lists, under the names that we use."""


@dataclass(frozen=True, slots=True)
class Rates:
    """USD per million tokens, of the shortest prompts where longer ones cost more. `output` None: no price by token."""

    input: Decimal
    output: Decimal | None


def context_window(provider: str, model: str) -> int | None:
    """Input tokens that the model takes; None: the catalogue does not say."""
    found = _find(provider, model)
    return found.context_window if found else None


def rates(provider: str, model: str, *, at: datetime) -> Rates | None:
    """None: no price is known, which is not the same as free."""
    found = _find(provider, model)
    if found is None:
        return None
    prices = found.get_prices(at)
    charged = _base(prices.input_mtok)
    return Rates(charged, _base(prices.output_mtok)) if charged is not None else None


def _base(price: Decimal | TieredPrices | None) -> Decimal | None:
    return price.base if isinstance(price, TieredPrices) else price


@cache
def _vendor(provider: str) -> Vendor | None:
    if provider not in _VENDORS:
        return None
    return data_snapshot.find_provider_by_id(data_snapshot.get_snapshot().providers, provider)


# The catalogue's own lookup remembers every name that it was ever asked for; this one forgets.
@lru_cache(maxsize=4096)
def _find(provider: str, model: str) -> ModelInfo | None:
    vendor = _vendor(provider)
    if vendor is None or not model:
        return None
    return vendor.find_model(model, all_providers=data_snapshot.get_snapshot().providers)
