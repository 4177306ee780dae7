"""What a call can cost before it is made: the most that a budget has to keep free for it, and what an amount affords.

Amounts are USD, or the budgets' units (`contracts.budget.UNITS_PER_USD`), which are whole numbers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_CEILING, Decimal
from typing import Any

from contracts.budget import UNITS_PER_USD
from contracts.providers import Price
from contracts.requests import CompletionRequest
from runtime.prices.catalogue import context_window
from runtime.prices.pricing import highest
from workers.providers.base import service_tier
from workers.providers.registry import models_of
from workers.providers.shared.requests.images import images_in
from workers.providers.shared.requests.options import OUTPUT_LIMITS
from workers.quotas.growth import Rate

_REPLIES = ("n", "candidateCount")
_HARMLESS = frozenset(
    {
        "frequency_penalty",
        "keep_alive",
        "logit_bias",
        "metadata",
        "min_p",
        "parallel_tool_calls",
        "presence_penalty",
        "prompt_cache_key",
        "repeat_penalty",
        "seed",
        "service_tier",
        "stop",
        "stop_sequences",
        "temperature",
        "top_k",
        "top_p",
        "user",
    }
)
"""Options that change what is said, and not what is billed for it beyond its tokens and their rate."""
_TIERS = ("service_tier", "serviceTier", "speed", "inference_geo")

LEAST_OUTPUT_TOKENS = 256
"""An answer that is bounded by what is left of the budget is not bounded shorter than this."""


@dataclass(frozen=True, slots=True)
class BudgetedCall:
    """A call that is about to be made."""

    request: CompletionRequest
    provider: str
    model: str
    at: datetime
    deadline: datetime

    @property
    def name(self) -> str:
        """`provider/model`."""
        return f"{self.provider}/{self.model}"

    def most(self, prices: Mapping[str, Price], *, max_tokens: int | None = None) -> int | None:
        """Units that it can cost, with an answer as long as the request says or as `max_tokens`; None when no price is
        known."""
        request = self.request if max_tokens is None else self.request.model_copy(update={"max_tokens": max_tokens})
        bound = upper_bound(request, provider=self.provider, model=self.model, at=self.at, overrides=prices)
        return None if bound is None else units(bound)


@dataclass(frozen=True, slots=True)
class Ask:
    """What a call needs, in units."""

    whole: int
    """The most that it can cost."""
    least: int
    """With the shortest answer that is worth a call; as `whole` when the request says how long it may be."""
    rate: Rate | None = None
    """How what is kept free may grow with the answer; None: it cannot, and `whole` is kept free from the beginning."""


def what_it_needs(call: BudgetedCall, *, prices: Mapping[str, Price]) -> Ask | None:
    """The answer is None when no price is known."""
    whole = call.most(prices)
    if whole is None:
        return None
    further = _further(call.request, call.provider)
    if _output_limit(call.request, further) is not None:
        return Ask(whole, whole)
    least = min(whole, call.most(prices, max_tokens=LEAST_OUTPUT_TOKENS) or whole)
    if not _streams_all_output(call, further):
        return Ask(whole, least)
    most_tokens = models_of(call.provider).max_output_tokens(call.model)
    shortest = call.most(prices, max_tokens=1) or whole
    per_token = max(1, -(-(whole - shortest) // max(1, most_tokens - 1)))
    return Ask(whole, least, Rate(max(0, shortest - per_token), per_token, most_tokens))


def _streams_all_output(call: BudgetedCall, further: Mapping[str, Any]) -> bool:
    """Whether each token that the vendor bills is seen when it arrives. Thoughts that are kept back, or told in a
    summary, are not; nor what an option does that is not known here."""
    models = models_of(call.provider)
    if not models.streams_all_output(call.model) or call.request.reasoning_effort not in (None, "none"):
        return False
    return models.has_no_vendor or further.keys() <= _HARMLESS


def affordable_tokens(kept: int, call: BudgetedCall, *, prices: Mapping[str, Price]) -> int:
    """The longest answer whose most expensive bill is within `kept` units."""

    def fits(max_tokens: int) -> bool:
        return (call.most(prices, max_tokens=max_tokens) or 0) <= kept

    low, high = LEAST_OUTPUT_TOKENS, 2 * LEAST_OUTPUT_TOKENS
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def units(usd: Decimal) -> int:
    """Rounded up, so that a sum of units is never less than the sum of amounts."""
    return int((usd * UNITS_PER_USD).to_integral_value(ROUND_CEILING))


def upper_bound(
    request: CompletionRequest, *, provider: str, model: str, at: datetime, overrides: Mapping[str, Price]
) -> Decimal | None:
    """The most that the vendor can bill, in USD; None when no price is known.

    A token is at least a byte, so the request's JSON has more bytes than the prompt has tokens; an image counts as the
    most that the vendor counts for one. The output is bounded by the request, else by the model. What the vendor does
    beside that (tools of its own, compaction, prices for a region) has no bound.
    """
    further = _further(request, provider)
    models, window = models_of(provider), context_window(provider, model)
    images = [image.image_url.url for image in images_in(request.messages)]
    given = len(request.to_json()) - sum(map(len, images)) + models.max_image_tokens * len(images)
    said = _output_limit(request, further) or models.max_output_tokens(model)
    replies = max(_counts(further, _REPLIES), default=1)
    tier = service_tier(*(further.get(name) for name in _TIERS))
    return highest(
        input_tokens=given if window is None else min(given, window),
        output_tokens=said * replies,
        provider=provider,
        model=model,
        at=at,
        overrides=overrides,
        service_tier=tier,
    )


def _output_limit(request: CompletionRequest, further: Mapping[str, Any]) -> int | None:
    """How long the request itself says that the answer may be: the largest, because further options win."""
    own = [request.max_tokens] if request.max_tokens else []
    return max((*own, *_counts(further, OUTPUT_LIMITS)), default=None)


def _further(request: CompletionRequest, provider: str) -> dict[str, Any]:
    """The caller's options for this vendor, those in groups beside the others."""
    given = request.provider_options.get(provider, {})
    groups = [group for name in ("generationConfig", "options") if isinstance(group := given.get(name), dict)]
    return {**given, **{name: value for group in groups for name, value in group.items()}}


def _counts(further: Mapping[str, Any], names: Iterable[str]) -> list[int]:
    """The values of these options, as far as they are positive whole numbers."""
    return [value for name in names if isinstance(value := further.get(name), int) and value > 0]
