"""How a test waits for what comes sooner or later."""

import asyncio
from collections.abc import Callable
from time import monotonic

PATIENCE_S = 90.0
"""How long a test waits for what comes sooner or later. Only a failure takes so long, also on a busy machine."""


async def until(condition: Callable[[], bool], *, within_s: float = PATIENCE_S) -> None:
    """Waits for a condition. Raises AssertionError when it does not come true in time."""
    give_up = monotonic() + within_s
    while not condition():
        if monotonic() > give_up:
            raise AssertionError("the condition did not come true")
        await asyncio.sleep(0.01)
