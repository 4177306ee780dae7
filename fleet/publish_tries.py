"""Publishing one message again and again until it is confirmed: the answer to any of the tries counts."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from nats.js.api import PubAck


class Tries:
    """Whoever only waits for the answer to the last try waits for ever at a server that takes longer than one try."""

    def __init__(self) -> None:
        self._unanswered: set[asyncio.Future[PubAck]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        for each in self._unanswered:
            each.cancel()
        if self._unanswered:
            await asyncio.gather(*self._unanswered, return_exceptions=True)

    @property
    def are_open(self) -> bool:
        """Whether there are tries whose answers are still to be looked at."""
        return bool(self._unanswered)

    async def pause(self, seconds: float) -> None:
        """Until the next try, or until an answer comes to one before it."""
        if self._unanswered:
            await asyncio.wait(self._unanswered, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(seconds)

    async def one_more(self, publish: Callable[[], Awaitable[asyncio.Future[PubAck]]], *, within_s: float) -> PubAck:
        """The answer to it, or to one before it. When one is there already, nothing is published.

        `publish` returns the answer that is to come. Raises what it raises, what one of them failed with when none was
        confirmed, and TimeoutError when none was answered in time.
        """
        if not any(each.done() for each in self._unanswered):
            self._unanswered.add(await publish())
        answered, self._unanswered = await asyncio.wait(
            self._unanswered, timeout=within_s, return_when=asyncio.FIRST_COMPLETED
        )
        if not answered:
            raise TimeoutError(f"no answer within {within_s:.1f} s")
        confirmed = [each for each in answered if each.exception() is None]
        return (confirmed or list(answered))[0].result()
