"""What a call can cost at most, whoever is asked."""

from collections.abc import Mapping

from contracts.providers import Price
from contracts.rpc import CostEstimate, EstimateCost, TokenCount
from contracts.usage import Cost, Usage, UsageSource
from contracts.wire import utc_now
from runtime.prices import pricing
from workers.providers.shared.models import Models


def cost_estimate(
    question: EstimateCost,
    counted: TokenCount,
    *,
    provider: str,
    models: Models,
    model: str,
    prices: Mapping[str, Price],
) -> CostEstimate:
    """`prices`: the tenant's own."""
    output_tokens = question.max_tokens or models.max_output_tokens(model)
    usage = Usage(input_tokens=counted.input_tokens, output_tokens=output_tokens, source=UsageSource.ESTIMATED)
    priced = pricing.price(usage, provider=provider, model=model, at=utc_now(), overrides=prices)
    return CostEstimate(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cost=Cost(amount=priced.amount) if priced.amount is not None else None,
    )
