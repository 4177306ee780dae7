"""A tool call as agents get it, whatever a vendor leaves out of it."""

import re
import uuid

from contracts.events import ToolCallDelta
from contracts.requests import MAX_TOOL_CALL_ID_CHARS

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.-]")
MAX_NAME_CHARS = 128
MOST_CALLS = 1000
"""More than any model makes in one reply."""


def begun(index: int, *, id: str | None, name: str | None, arguments: str | None) -> ToolCallDelta:  # noqa: A002
    """The first delta of a call. Without an id it gets one; its name is cut down to what a tool can be named."""
    return ToolCallDelta(
        index=index,
        id=(id or f"call_{uuid.uuid4().hex[:24]}")[:MAX_TOOL_CALL_ID_CHARS],
        name=_NOT_IN_A_NAME.sub("_", name or "")[:MAX_NAME_CHARS] or "unnamed",
        arguments=arguments or None,
    )
