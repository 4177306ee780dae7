"""Telling everybody who waits that something has changed."""

import asyncio
from contextlib import suppress


class News:
    def __init__(self) -> None:
        self._next = asyncio.Event()

    @property
    def next(self) -> asyncio.Event:
        """Set by the next news. Who takes it before looking misses nothing that happens while looking."""
        return self._next

    def tell(self) -> None:
        told, self._next = self._next, asyncio.Event()
        told.set()


async def wait(news: asyncio.Event, *, at_most_s: float) -> None:
    """Until the news, or the time is over."""
    with suppress(TimeoutError):
        async with asyncio.timeout(at_most_s):
            await news.wait()
