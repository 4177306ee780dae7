"""What the price catalogue (genai-prices; bundled, so offline) knows of a model: window, vendor and prices.

Every role that prices asks here, so that a worker's bill, a correction and an admin's list say the same.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache, lru_cache
from importlib.metadata import version
from math import prod

from genai_prices import data_snapshot
from genai_prices.data_snapshot import DataSnapshot
from genai_prices.types import ModelInfo, ModelPrice, TieredPrices
from genai_prices.types import Provider as Vendor

from contracts.providers import Price
from contracts.subjects import Provider
from contracts.usage import PriceSource
from runtime.prices.rates import PriceList, Rates, own_price, own_price_list

_PRICED_VENDORS = frozenset({Provider.OPENAI, Provider.ANTHROPIC, Provider.GOOGLE, Provider.AZURE})
"""Those that the catalogue lists, under the names that we use."""

_MODEL_VENDORS = (Provider.OPENAI, Provider.ANTHROPIC, Provider.GOOGLE)
"""Those that a bare model name can mean, in this order (Google's cloud resells Anthropic's models)."""

_TIER_DIMENSIONS: tuple[str, ...] = ("service_tier", "processing", "speed")
"""Under these the catalogue lists what we call a service tier: OpenAI's and Google's, `batch`, Anthropic's `fast`."""

_SURCHARGES = {(Provider.ANTHROPIC.value, "us"): Decimal("1.1")}
"""Factors on every rate that the catalogue does not list. Anthropic, "Data residency": inference in the US only."""

_MEDIA_PRICES = ("input_image_mtok", "output_image_mtok", "output_audio_mtok", "output_video_mtok")
"""Prices of what requests can bring and replies can make beside text; our counts do not tell it from text."""


def use(snapshot: DataSnapshot) -> None:
    """Takes these prices from now on. Raises ValueError, and takes none, when a vendor's are missing."""
    for provider in _PRICED_VENDORS:
        vendor = data_snapshot.find_provider_by_id(snapshot.providers, provider)
        if vendor is None or not any(map(_ever_priced, vendor.models)):
            raise ValueError(f"the catalogue has no prices of {provider}")
    data_snapshot.set_custom_snapshot(snapshot)
    for known in (catalogue_version, _vendor, _find, _price_list):
        known.cache_clear()


@cache
def catalogue_version() -> str:
    """`genai-prices 0.2.3`, and the time of their fetching when the prices are not the bundled ones."""
    snapshot = data_snapshot.get_snapshot()
    fetched = f" of {snapshot.timestamp.astimezone(UTC):%Y-%m-%dT%H:%MZ}" if snapshot.from_auto_update else ""
    return f"genai-prices {version('genai-prices')}{fetched}"


def find_prices(
    provider: str,
    model: str,
    *,
    at: datetime,
    overrides: Mapping[str, Price],
    service_tier: str | None = None,
) -> tuple[PriceList | None, PriceSource]:
    """The tenant's own prices of a model, else the catalogue's; None, with source NONE, when there are none.

    `service_tier`: what the vendor served the call as; None is its standard. A tier of which no price is known has
    none, because the standard one would be wrong.
    """
    own = own_price(provider, model, overrides)
    if own is not None:
        found, source = own_price_list(own, service_tier), PriceSource.TENANT
    else:
        minute = at.replace(second=0, microsecond=0)
        found, source = _price_list(provider, model, minute, service_tier), PriceSource.CATALOGUE
    return found, source if found else PriceSource.NONE


def context_window(provider: str, model: str) -> int | None:
    """Input tokens that the model takes, None when the catalogue does not say."""
    found = _find(provider, model)
    return found.context_window if found else None


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


# Prices change on the minute at the earliest; those of the minute are read once.
@lru_cache(maxsize=4096)
def _price_list(provider: str, model: str, minute: datetime, service_tier: str | None) -> PriceList | None:
    found = _find(provider, model)
    if found is None:
        return None
    tiers = service_tier.split("+") if service_tier else []
    surcharges = [_SURCHARGES[provider, tier] for tier in tiers if (provider, tier) in _SURCHARGES]
    named = [tier for tier in tiers if (provider, tier) not in _SURCHARGES]
    context = {dimension: tier for tier in named for dimension in _TIER_DIMENSIONS}
    if len(named) > 1 or (named and not _knows_tier(provider, found, context, minute)):
        return None
    return _read(found.get_prices(minute, context), factor=prod(surcharges, start=Decimal(1)))


def _knows_tier(provider: str, model: ModelInfo, context: Mapping[str, str], at: datetime) -> bool:
    """Whether a variant of the price is the tier's. A reseller's tiers are not those of the vendor it falls back to."""
    vendor = _vendor(provider)
    own = vendor is not None and any(model is known for known in vendor.models)
    return own and any(
        variant.when.items() <= context.items() and (variant.constraint is None or variant.constraint.active(at))
        for variant in model.price_variants or ()
    )


def _read(prices: ModelPrice, *, factor: Decimal) -> PriceList | None:
    """The catalogue's price in our form; None when it has none by token, or one for more than text."""
    known: dict[str, Decimal | TieredPrices | None] = prices.__dict__
    if known.get("input_mtok") is None or any(known.get(name) is not None for name in _MEDIA_PRICES):
        return None
    starts = {tier.start for price in known.values() if isinstance(price, TieredPrices) for tier in price.tiers}
    longer = tuple((start, _rates(known, start + 1).times(factor)) for start in sorted(starts))
    return PriceList(_rates(known, 0).times(factor), longer, catalogue=catalogue_version())


def _rates(known: Mapping[str, Decimal | TieredPrices | None], input_tokens: int) -> Rates:
    """The rates of a prompt of that length. What has no price of its own is sold as the whole that it is a part of."""

    def rate(name: str) -> Decimal | None:
        price = known.get(name)
        if isinstance(price, TieredPrices):
            return next((tier.price for tier in reversed(price.tiers) if input_tokens > tier.start), price.base)
        return price

    def first(*names: str) -> Decimal:
        return next(price for name in names if (price := rate(name)) is not None)

    output = rate("output_mtok")
    reasoning = rate("output_reasoning_mtok")
    return Rates(
        input=first("input_mtok"),
        output=output,
        cache_read=first("cache_read_mtok", "input_mtok"),
        cache_write=first("cache_write_mtok", "input_mtok"),
        cache_write_1h=first("cache_write_1h_mtok", "cache_write_mtok", "input_mtok"),
        reasoning=output if reasoning is None else reasoning,
    )


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
