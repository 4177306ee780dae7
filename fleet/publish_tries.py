"""Publishing one message again and again until it is confirmed: the answer to any of the tries counts."""

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

from nats.js.api import PubAck


class Tries:
    """Whoever only waits for the answer to the last try waits for ever at a server that takes longer than one try."""

    def __init__(self) -> None:
        self._unanswered: set[asyncio.Task[PubAck]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        for each in self._unanswered:
            each.cancel()
        await asyncio.gather(*self._unanswered, return_exceptions=True)

    async def one_more(self, publish: Coroutine[Any, Any, PubAck], *, within_s: float) -> PubAck:
        """The answer to it, or to one before it.

        Raises what one of them failed with when none was confirmed, and TimeoutError when none was answered in time.
        """
        self._unanswered.add(asyncio.create_task(publish, name="publish"))
        answered, self._unanswered = await asyncio.wait(
            self._unanswered, timeout=within_s, return_when=asyncio.FIRST_COMPLETED
        )
        if not answered:
            raise TimeoutError(f"no answer within {within_s:.1f} s")
        confirmed = [each for each in answered if each.exception() is None]
        return (confirmed or list(answered))[0].result()
