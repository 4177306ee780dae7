"""What a call can cost at most, whoever is asked."""

from collections.abc import Mapping

from contracts.providers import Price
from contracts.rpc import CostEstimate, TokenCount
from contracts.usage import Cost, Usage, UsageSource
from contracts.wire import utc_now
from workers import pricing


def cost_estimate(
    counted: TokenCount, *, output_tokens: int, provider: str, model: str, prices: Mapping[str, Price]
) -> CostEstimate:
    """`output_tokens`: the most that the reply can have. `prices`: the tenant's own."""
    usage = Usage(input_tokens=counted.input_tokens, output_tokens=output_tokens, source=UsageSource.ESTIMATED)
    priced = pricing.price(usage, provider=provider, model=model, at=utc_now(), overrides=prices)
    return CostEstimate(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cost=Cost(amount=priced.amount) if priced.amount is not None else None,
    )
