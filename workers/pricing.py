"""What an attempt cost: the tenant's own price, else the catalogue's (genai-prices, bundled, offline)."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cache, lru_cache

from genai_prices import Usage as CatalogueUsage
from genai_prices import data_snapshot
from genai_prices.types import ModelInfo
from genai_prices.types import Provider as Vendor

from contracts.providers import Price
from contracts.subjects import Provider
from contracts.usage import PriceSource, Usage

_MILLION = 1_000_000

_PRICED_VENDORS = frozenset({Provider.OPENAI, Provider.ANTHROPIC, Provider.GOOGLE, Provider.AZURE})
"""Those that the catalogue lists, under the names that we use."""

_MODEL_VENDORS = (Provider.OPENAI, Provider.ANTHROPIC, Provider.GOOGLE)
"""Those that a bare model name can mean, in this order (Google's cloud resells Anthropic's models)."""

_DEFAULT_MODELS: dict[str, str] = {
    Provider.OPENAI: "gpt-6.1-terra",
    Provider.ANTHROPIC: "claude-sonnet-5-5",
    Provider.GOOGLE: "gemini-3.8-flash",
}


@dataclass(frozen=True, slots=True)
class Priced:
    """USD. `amount` is None, and `source` NONE, when no price is known; that is not the same as free."""

    amount: Decimal | None
    source: PriceSource


UNPRICED = Priced(None, PriceSource.NONE)


@dataclass(frozen=True, slots=True)
class _Split:
    """Token counts that add up: cached parts never exceed the input, reasoning never the output."""

    input: int
    output: int
    cache_read: int
    cache_write: int
    reasoning: int

    @classmethod
    def of(cls, usage: Usage) -> "_Split":
        cache_read = min(usage.cache_read_tokens, usage.input_tokens)
        return cls(
            input=usage.input_tokens,
            output=usage.output_tokens,
            cache_read=cache_read,
            cache_write=min(usage.cache_write_tokens, usage.input_tokens - cache_read),
            reasoning=min(usage.reasoning_tokens, usage.output_tokens),
        )


def price(usage: Usage, *, provider: str, model: str, at: datetime, overrides: Mapping[str, Price]) -> Priced:
    """What `usage` of the vendor's `model` cost at that time.

    `overrides` are the tenant's own prices, by `provider/model` or model; the more exact one wins.
    """
    tokens = _Split.of(usage)
    own = overrides.get(f"{provider}/{model}") or overrides.get(model)
    if own is not None:
        return Priced(_own_price(tokens, own), PriceSource.TENANT)
    return _catalogue_price(tokens, provider, model, at)


def context_window(provider: str, model: str) -> int | None:
    """Input tokens that the model takes, None when the catalogue does not say."""
    found = _find(provider, model)
    return found.context_window if found else None


def default_model(provider: str) -> str:
    """A current, priced model of openai, anthropic or google, for a request that names only the provider."""
    return _DEFAULT_MODELS[provider]


def provider_of_model(model: str) -> str | None:
    """The vendor whose model a bare name is: by the vendor's usual prefix, else by the catalogue's priced models."""
    name = model.lower()
    for provider in _MODEL_VENDORS:
        vendor = _vendor(provider)
        if vendor and vendor.model_match and vendor.model_match.is_match(name):
            return provider.value
    for provider in _MODEL_VENDORS:
        found = _find(provider, name)
        if found and _ever_priced(found):
            return provider.value
    return None


def _own_price(tokens: _Split, own: Price) -> Decimal:
    read = own.input_mtok if own.cache_read_mtok is None else own.cache_read_mtok
    write = own.input_mtok if own.cache_write_mtok is None else own.cache_write_mtok
    plain = tokens.input - tokens.cache_read - tokens.cache_write
    total = plain * own.input_mtok + tokens.cache_read * read + tokens.cache_write * write
    return (total + tokens.output * own.output_mtok) / _MILLION


def _catalogue_price(tokens: _Split, provider: str, model: str, at: datetime) -> Priced:
    vendor = _vendor(provider)
    found = _find(provider, model)
    if vendor is None or found is None:
        return UNPRICED
    rates = found.get_prices(at)
    # A side without a price would count as free: embeddings have no output price, audio models none by token.
    if rates.input_mtok is None or (rates.output_mtok is None and tokens.output):
        return UNPRICED
    counted = CatalogueUsage(
        input_tokens=tokens.input,
        output_tokens=tokens.output,
        cache_read_tokens=tokens.cache_read,
        cache_write_tokens=tokens.cache_write,
        output_reasoning_tokens=tokens.reasoning,
    )
    cost = found.calc_price(counted, vendor, genai_request_timestamp=at)
    return Priced(cost.total_price, PriceSource.CATALOGUE)


def _ever_priced(model: ModelInfo) -> bool:
    rates = [p.prices for p in model.prices] if isinstance(model.prices, list) else [model.prices]
    return any(rate.input_mtok is not None for rate in rates)


@cache
def _vendor(provider: str) -> Vendor | None:
    if provider not in _PRICED_VENDORS:
        return None
    return data_snapshot.find_provider_by_id(data_snapshot.get_snapshot().providers, provider)


# The catalogue's own lookup remembers every name it was ever asked for; names come from agents, so this one forgets.
@lru_cache(maxsize=4096)
def _find(provider: str, model: str) -> ModelInfo | None:
    vendor = _vendor(provider)
    if vendor is None or not model:
        return None
    return vendor.find_model(model, all_providers=data_snapshot.get_snapshot().providers)
