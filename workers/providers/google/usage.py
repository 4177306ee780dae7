"""The usage of a reply of Gemini's: several statements of a bill become one."""

from typing import Any

import msgspec

from contracts.usage import Usage, UsageSource
from workers.providers.base import service_tier
from workers.providers.shared.replies.token_counts import plausible


class StatedUsage(msgspec.Struct, gc=False, rename="camel"):
    """What a reply has stated of its bill so far, or one statement of it, as the server writes it."""

    prompt_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None
    cached_content_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None
    traffic_type: Any = None
    service_tier: Any = None

    def add(self, stated: "StatedUsage") -> bool:
        """Takes over what is stated, and says whether that is anything new.

        Statements are running totals; some servers state one count at the beginning only, and zeros for the others at
        the end.
        """
        has_changed = False
        for name in _FIELDS:
            value = getattr(stated, name)
            if value and value != getattr(self, name) and (name not in _COUNTS or plausible(value)):
                setattr(self, name, value)
                has_changed = True
        return has_changed

    def normalised(self) -> Usage | None:
        """Input and output as totals; Gemini counts tool results and thoughts apart. None: nothing was counted."""
        given = (self.prompt_token_count or 0) + (self.tool_use_prompt_token_count or 0)
        thoughts = self.thoughts_token_count or 0
        output = (self.candidates_token_count or 0) + thoughts
        cached = self.cached_content_token_count or 0
        if not (given or output or cached):
            return None
        return Usage(
            input_tokens=given,
            output_tokens=output,
            cache_read_tokens=cached,
            reasoning_tokens=thoughts,
            source=UsageSource.VENDOR,
        )

    def served_as(self, header: str | None) -> str | None:
        """The service tier; None for the one that everybody gets.

        Gemini's own API names it in a header of the reply, Vertex as a kind of traffic in the usage
        (`ON_DEMAND_FLEX`, `PROVISIONED_THROUGHPUT`).
        """
        of_vertex = None
        if isinstance(self.traffic_type, str) and self.traffic_type != "TRAFFIC_TYPE_UNSPECIFIED":
            of_vertex = service_tier(self.traffic_type.removeprefix("ON_DEMAND").removeprefix("_"))
        return of_vertex or service_tier(self.service_tier or header)


_FIELDS = StatedUsage.__struct_fields__
_COUNTS = frozenset(name for name in _FIELDS if name.endswith("_count"))
