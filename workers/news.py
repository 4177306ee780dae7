"""Telling everybody who waits that something has changed."""

import asyncio
from contextlib import suppress


class News:
    def __init__(self) -> None:
        self._next = asyncio.Event()

    def tell(self) -> None:
        told, self._next = self._next, asyncio.Event()
        told.set()

    async def wait(self, *, at_most_s: float) -> None:
        """Until the next news, or the time is over."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._next.wait(), at_most_s)
