"""The most that a call can cost, before it is made: what a budget has to keep free for it."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from contracts.providers import Price
from contracts.requests import CompletionRequest, ImagePart, UserMessage
from contracts.subjects import Provider
from runtime.prices.catalogue import context_window
from runtime.prices.pricing import highest
from workers.providers.base import service_tier
from workers.providers.shared.output_limits import max_output_tokens

_IMAGE_TOKENS = {Provider.ANTHROPIC: 5_000, Provider.GOOGLE: 10_000}
"""More than a vendor counts for one image. Claude: at most 4,784 ("Vision"). Gemini: 258 a tile, or at most 2,240."""
_IMAGE_TOKENS_ELSEWHERE = 50_000
"""gpt-4o-mini counts 48,169 for the largest in high detail ("Images and vision": 2,833, and 5,667 for each tile)."""

_OUTPUT_LIMITS = ("max_tokens", "max_completion_tokens", "maxOutputTokens", "num_predict")
_REPLIES = ("n", "candidateCount")


def upper_bound(
    request: CompletionRequest, *, provider: str, model: str, at: datetime, overrides: Mapping[str, Price]
) -> Decimal | None:
    """USD; None when no price is known.

    A token is at least a byte, so the request's JSON has more bytes than the prompt has tokens; an image counts as the
    most that the vendor counts for one. The output is bounded by the request, else by the model. What the vendor does
    beside that (tools of its own, compaction, prices for a region) has no bound.
    """
    further = _further(request, provider)
    window = context_window(provider, model)
    given = _input_tokens(request, provider)
    said = _output_limit(request, further) or max_output_tokens(provider, model)
    replies = max((value for name in _REPLIES if (value := _count(further, name))), default=1)
    return highest(
        input_tokens=given if window is None else min(given, window),
        output_tokens=said * replies,
        provider=provider,
        model=model,
        at=at,
        overrides=overrides,
        service_tier=_asked_tier(further),
    )


def bounds_its_output(request: CompletionRequest, provider: str) -> bool:
    """Whether the request itself says how long the answer may be."""
    return _output_limit(request, _further(request, provider)) is not None


def _input_tokens(request: CompletionRequest, provider: str) -> int:
    images = [
        part.image_url.url
        for message in request.messages
        if isinstance(message, UserMessage) and not isinstance(message.content, str)
        for part in message.content
        if isinstance(part, ImagePart)
    ]
    an_image = _IMAGE_TOKENS.get(Provider(provider), _IMAGE_TOKENS_ELSEWHERE)
    return len(request.to_json()) - sum(map(len, images)) + an_image * len(images)


def _output_limit(request: CompletionRequest, further: Mapping[str, Any]) -> int | None:
    """The larger one when further options give another, because they win."""
    limits = [_count(further, name) for name in _OUTPUT_LIMITS]
    return max((limit for limit in (*limits, request.max_tokens) if limit), default=None)


def _asked_tier(further: Mapping[str, Any]) -> str | None:
    return service_tier(*(further.get(name) for name in ("service_tier", "serviceTier", "speed", "inference_geo")))


def _further(request: CompletionRequest, provider: str) -> dict[str, Any]:
    """The caller's options for this vendor, those in groups beside the others."""
    given = request.provider_options.get(provider, {})
    groups = [group for name in ("generationConfig", "options") if isinstance(group := given.get(name), dict)]
    return {**given, **{name: value for group in groups for name, value in group.items()}}


def _count(further: Mapping[str, Any], name: str) -> int | None:
    value = further.get(name)
    return value if isinstance(value, int) and value > 0 else None
