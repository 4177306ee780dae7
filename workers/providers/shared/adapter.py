"""What every adapter does in the same way, whatever its vendor."""

from collections.abc import Mapping

from contracts.providers import Price
from contracts.rpc import CostEstimate, EstimateCost
from contracts.usage import Cost, Usage, UsageSource
from contracts.wire import utc_now
from runtime.prices import pricing
from workers.providers.base import Call, Chunk, Completion, Gathering, Provider, StreamItem, Target
from workers.providers.shared.models import Models


class Adapter(Provider):
    """The base of all adapters."""

    models: Models

    async def complete(self, call: Call) -> Completion:
        gathering = Gathering()

        def take(item: StreamItem) -> None:
            if isinstance(item, Chunk):
                gathering.add(item)

        finish = await self.stream_completion(call, take)
        return Completion(gathering.message(finish.provider_data), finish)

    async def estimate_cost(
        self, question: EstimateCost, *, model: str, target: Target, prices: Mapping[str, Price]
    ) -> CostEstimate:
        counted = await self.count_tokens(question, model=model, target=target)
        output_tokens = question.max_tokens or self.models.max_output_tokens(model)
        usage = Usage(input_tokens=counted.input_tokens, output_tokens=output_tokens, source=UsageSource.ESTIMATED)
        priced = pricing.price(usage, provider=self.name, model=model, at=utc_now(), overrides=prices)
        return CostEstimate(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cost=Cost(amount=priced.amount) if priced.amount is not None else None,
        )
