"""What tokens of a model cost: its rates, and those that long prompts have in their place."""

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from decimal import Decimal

from contracts.providers import Price, TokenPrices


@dataclass(frozen=True, slots=True)
class Rates:
    """USD per million tokens. `output` and `reasoning` None: there is no price by token, as for embeddings."""

    input: Decimal
    output: Decimal | None
    cache_read: Decimal
    cache_write: Decimal
    cache_write_1h: Decimal
    reasoning: Decimal | None

    def times(self, factor: Decimal) -> "Rates":
        """Each rate multiplied; one that there is no price for stays None."""
        return self if factor == 1 else Rates(*(rate and rate * factor for rate in astuple(self)))


@dataclass(frozen=True, slots=True)
class PriceList:
    """The rates of a model at one time and service tier.

    A prompt longer than a threshold of `longer` has those rates for all its tokens, output included ("cliff" prices,
    as OpenAI, Anthropic and Google have them).
    """

    base: Rates
    longer: tuple[tuple[int, Rates], ...] = ()
    """Rates by the input tokens that a prompt exceeds, ascending."""
    catalogue: str | None = None
    """The version of the catalogue that they are from; None: a tenant's own."""

    def rates(self, input_tokens: int) -> Rates:
        """The rates of a call whose prompt has so many tokens."""
        return next((rates for above, rates in reversed(self.longer) if input_tokens > above), self.base)


def own_price_list(price: Price, service_tier: str | None) -> PriceList | None:
    """A tenant's own price as a price list; None when the tenant has none for that service tier."""
    tiered = price if service_tier is None else price.service_tiers.get(service_tier)
    if tiered is None:
        return None
    longer = sorted((tier.above_input_tokens, _rates(tier)) for tier in tiered.long_context)
    return PriceList(_rates(tiered), tuple(longer))


def own_price(provider: str, model: str, overrides: Mapping[str, Price]) -> Price | None:
    """A tenant's own price, by `provider/model` or model; the more exact one wins."""
    return overrides.get(f"{provider}/{model}") or overrides.get(model)


def _rates(price: TokenPrices) -> Rates:
    write = _or(price.cache_write_mtok, price.input_mtok)
    return Rates(
        input=price.input_mtok,
        output=price.output_mtok,
        cache_read=_or(price.cache_read_mtok, price.input_mtok),
        cache_write=write,
        cache_write_1h=_or(price.cache_write_1h_mtok, write),
        reasoning=_or(price.reasoning_mtok, price.output_mtok),
    )


def _or(price: Decimal | None, otherwise: Decimal) -> Decimal:
    return otherwise if price is None else price
