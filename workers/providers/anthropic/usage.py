"""The usage of a reply of Anthropic's: several statements of a bill become one."""

from itertools import islice
from typing import Any

import msgspec

from contracts.usage import Usage, UsagePart, UsageSource
from workers.providers.base import service_tier
from workers.providers.shared.replies.token_counts import MAX_PARTS, plausible

_OUTSIDE = frozenset({"compaction", "advisor_message"})
"""Iterations that are billed beside the usage of the reply."""
_OTHER_MODELS = frozenset({"fallback_message"})
"""Iterations within the usage of the reply that another model did."""
_PROMPT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


class _OutputDetails(msgspec.Struct, gc=False):
    thinking_tokens: int | None = None


class _CacheCreation(msgspec.Struct, gc=False):
    ephemeral_1h_input_tokens: int | None = None


class _Counts(msgspec.Struct, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation: _CacheCreation | None = None

    def counted(self) -> dict[str, int]:
        """The counts by the contract's names, with the input as a total: the vendor leaves what it read from its cache,
        and wrote to it, out of `input_tokens`."""
        read = plausible(self.cache_read_input_tokens) or 0
        written = plausible(self.cache_creation_input_tokens) or 0
        an_hour = self.cache_creation.ephemeral_1h_input_tokens if self.cache_creation else None
        return {
            "input_tokens": (plausible(self.input_tokens) or 0) + read + written,
            "output_tokens": plausible(self.output_tokens) or 0,
            "cache_read_tokens": read,
            "cache_write_tokens": written,
            "cache_write_1h_tokens": plausible(an_hour) or 0,
        }


class _Iteration(_Counts, gc=False):
    type: str | None = None
    model: str | None = None

    def part(self) -> UsagePart:
        return UsagePart(**self.counted(), model=(self.model or "")[:256] or None)


class StatedUsage(_Counts, gc=False):
    """What a reply has stated of its bill so far, or one statement of it, as the server writes it."""

    output_tokens_details: _OutputDetails | None = None
    iterations: list[_Iteration] | None = None
    service_tier: Any = None
    speed: Any = None
    inference_geo: Any = None

    @property
    def served_as(self) -> str | None:
        return service_tier(self.service_tier, self.speed, self.inference_geo)

    def add(self, stated: "StatedUsage") -> None:
        """Takes over what is stated.

        Servers that counted at the start send zeros at the end, others the other way round. So a zero replaces nothing,
        unless another prompt was counted: after a compaction, that of the shorter conversation.
        """
        given = plausible(stated.input_tokens)
        is_another = bool(given and self.input_tokens and given != self.input_tokens)
        for name in ("output_tokens", *_PROMPT):
            count = plausible(getattr(stated, name))
            if count or (count == 0 and is_another and name in _PROMPT):
                setattr(self, name, count)
        if (details := stated.output_tokens_details) and plausible(details.thinking_tokens):
            self.output_tokens_details = details
        if (written := stated.cache_creation) and plausible(written.ephemeral_1h_input_tokens):
            self.cache_creation = written
        if stated.iterations:
            billed_apart = (one for one in stated.iterations if one.type in _OUTSIDE or one.type in _OTHER_MODELS)
            self.iterations = [*islice(billed_apart, MAX_PARTS + 1)]  # one too many, so that it is known for too many
        for name in ("service_tier", "speed", "inference_geo"):
            setattr(self, name, getattr(stated, name) or getattr(self, name))

    def normalised(self) -> Usage | None:
        """All that is billed; None when nothing was counted.

        The reply's own counts leave out compactions and advisors ("Compaction", "Advisor tool").
        """
        own = self.counted()
        details = self.output_tokens_details or _OutputDetails()
        own["reasoning_tokens"] = plausible(details.thinking_tokens) or 0
        beside = [iteration.part() for iteration in self.iterations or () if iteration.type in _OUTSIDE]
        within = [iteration.part() for iteration in self.iterations or () if iteration.type in _OTHER_MODELS]
        if not (beside or any(own.values())):
            return None
        return Usage(
            **{name: count + sum(getattr(part, name) for part in beside) for name, count in own.items()},
            source=UsageSource.VENDOR,
            parts=(*beside, *within),
        )
