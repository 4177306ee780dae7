"""Ending tasks for certain."""

import asyncio
from typing import Any

_AGAIN_S = 1.0


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancels until all are done; what they raised is dropped.

    Once is not enough: a cancellation that meets an answer is lost in Python 3.11's `wait_for`, and so in nats-py.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)
