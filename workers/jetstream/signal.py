"""A signal that many may wait for, and that may be given again and again."""

import asyncio
from contextlib import suppress


class Signal:
    def __init__(self) -> None:
        self._next = asyncio.Event()

    @property
    def next(self) -> asyncio.Event:
        """The event that the next notification sets.

        Who takes it before looking misses nothing that happens while looking.
        """
        return self._next

    def notify_all(self) -> None:
        current, self._next = self._next, asyncio.Event()
        current.set()


async def wait_for(signal: asyncio.Event, *, at_most_s: float) -> None:
    """Returns when `signal` is set, or after `at_most_s` seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(at_most_s):
            await signal.wait()
