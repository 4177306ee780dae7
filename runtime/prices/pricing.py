"""What an attempt cost, and what a call can cost at most: at the tenant's own price, else at the catalogue's.

Amounts are exact until they are rounded once, here, to the ledger's ten digits (a ten-thousandth of a micro-dollar).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from functools import lru_cache

from contracts.providers import Price
from contracts.subjects import Provider
from contracts.usage import MAX_AMOUNT, PriceSource, TokenCounts, Usage, UsedPrice
from runtime.prices.catalogue import find_prices
from runtime.prices.rates import Rates

_MILLION = 1_000_000
_SMALLEST = Decimal("1e-10")

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
    used: UsedPrice | None = None
    """The rates of the amount; None without one."""


UNPRICED = Priced(None, PriceSource.NONE)


@dataclass(frozen=True, slots=True)
class _Split:
    """Token counts apart: they add up to the input and the output, whatever a vendor states."""

    plain: int
    cache_read: int
    cache_write: int
    cache_write_1h: int
    output: int
    reasoning: int

    @classmethod
    def of(cls, usage: TokenCounts) -> "_Split":
        """A part that is larger than what it is a part of is cut to it."""
        read = min(usage.cache_read_tokens, usage.input_tokens)
        write = min(usage.cache_write_tokens, usage.input_tokens - read)
        write_1h = min(usage.cache_write_1h_tokens, write)
        reasoning = min(usage.reasoning_tokens, usage.output_tokens)
        return cls(
            plain=usage.input_tokens - read - write,
            cache_read=read,
            cache_write=write - write_1h,
            cache_write_1h=write_1h,
            output=usage.output_tokens - reasoning,
            reasoning=reasoning,
        )

    def cost(self, rates: Rates) -> Decimal | None:
        """USD, not rounded. None when a rate is missing: what has no price must not count as free."""
        if (self.output and rates.output is None) or (self.reasoning and rates.reasoning is None):
            return None
        per_million = (
            self.plain * rates.input
            + self.cache_read * rates.cache_read
            + self.cache_write * rates.cache_write
            + self.cache_write_1h * rates.cache_write_1h
            + self.output * (rates.output or 0)
            + self.reasoning * (rates.reasoning or 0)
        )
        return per_million / _MILLION

    def used(self, rates: Rates, *, catalogue: str | None) -> UsedPrice:
        """The rates that the cost was made with; of cached tokens and reasoning only where there were any."""
        return _used(
            rates,
            catalogue,
            cache_read=self.cache_read > 0,
            cache_write=self.cache_write > 0,
            cache_write_1h=self.cache_write_1h > 0,
            reasoning=self.reasoning > 0,
        )


@lru_cache(maxsize=4096)
def _used(
    rates: Rates, catalogue: str | None, *, cache_read: bool, cache_write: bool, cache_write_1h: bool, reasoning: bool
) -> UsedPrice:
    return UsedPrice(
        input_mtok=rates.input,
        output_mtok=rates.output,
        cache_read_mtok=rates.cache_read if cache_read else None,
        cache_write_mtok=rates.cache_write if cache_write else None,
        cache_write_1h_mtok=rates.cache_write_1h if cache_write_1h else None,
        reasoning_mtok=rates.reasoning if reasoning else None,
        catalogue=catalogue,
    )


def price(
    usage: Usage,
    *,
    provider: str,
    model: str,
    at: datetime,
    overrides: Mapping[str, Price],
    service_tier: str | None = None,
) -> Priced:
    """What `usage` of the vendor's `model` cost at that time.

    `overrides`: the tenant's own prices, by `provider/model` or model; the more exact one wins. `service_tier`: what
    the vendor says it served the call as, None for its standard.
    """

    def exact(tokens: TokenCounts, of: str) -> Priced:
        prices, source = find_prices(provider, of, at=at, overrides=overrides, service_tier=service_tier)
        if prices is None:
            return UNPRICED
        split, rates = _Split.of(tokens), prices.rates(tokens.input_tokens)
        return Priced(split.cost(rates), source, split.used(rates, catalogue=prices.catalogue))

    main = exact(_without_parts(usage), model)
    parts = [exact(part, part.model or model) for part in usage.parts]
    total = Decimal(0)
    for priced in (main, *parts):
        if priced.amount is None:
            return UNPRICED
        total += priced.amount
    if main.used is None or total >= MAX_AMOUNT:
        return UNPRICED
    used = main.used.model_copy(update={"parts": tuple(part.used for part in parts)}) if parts else main.used
    return Priced(total.quantize(_SMALLEST, ROUND_HALF_EVEN), main.source, used)


def highest(
    *,
    input_tokens: int,
    output_tokens: int,
    provider: str,
    model: str,
    at: datetime,
    overrides: Mapping[str, Price],
    service_tier: str | None = None,
) -> Decimal | None:
    """The most that so many tokens can cost, however they are cached and thought; None without a price.

    A tier that was asked for may not be served: then the standard one is charged.
    """
    rates: list[Rates] = []
    for tier in dict.fromkeys((service_tier, None)):
        prices, _ = find_prices(provider, model, at=at, overrides=overrides, service_tier=tier)
        if prices is None:
            return None
        # A prompt that turns out shorter is charged at its own rates, and those need not be lower.
        rates += prices.base, *(longer for above, longer in prices.longer if above < input_tokens)
    if any(rate.output is None for rate in rates):
        return None
    given = max(max(r.input, r.cache_read, r.cache_write, r.cache_write_1h) for r in rates)
    said = max(max(r.output or 0, r.reasoning or 0) for r in rates)
    exact = (input_tokens * given + output_tokens * said) / _MILLION
    return exact.quantize(_SMALLEST, ROUND_CEILING) if exact < MAX_AMOUNT else None


def default_model(provider: str) -> str:
    """A current, priced model of openai, anthropic or google, for a request that names only the provider."""
    return _DEFAULT_MODELS[provider]


def _without_parts(usage: Usage) -> TokenCounts:
    """The tokens of the model itself: `usage` less its parts, which have models and prices of their own."""
    if not usage.parts:
        return usage
    names = TokenCounts.model_fields
    apart = {name: sum(getattr(part, name) for part in usage.parts) for name in names}
    return TokenCounts(**{name: max(0, getattr(usage, name) - apart[name]) for name in names})
