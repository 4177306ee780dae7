"""Interrupting the part of a task that may be interrupted, and no other part of it.

Modelled on asyncio.timeout: the scope cancels its own task and turns that cancellation into `Interrupted`; a
cancellation from outside passes through untouched.
"""

import asyncio
from enum import Enum, auto
from types import TracebackType
from typing import Self

_AGAIN_S = 1.0
"""A cancellation that meets an answer is lost in Python 3.11's `wait_for`, and so in nats-py; then it is repeated."""


class Reason(Enum):
    CANCELLED = auto()
    """The agent does not want the answer any more."""
    DRAINING = auto()
    """This worker stops; another one goes on."""


class Interrupted(Exception):
    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.name.lower())
        self.reason = reason


class Interruption:
    """Set once, by another task calling `request(reason)`; noticed at once inside a scope, else at the next one."""

    def __init__(self) -> None:
        self.reason: Reason | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancellations = 0
        self._again: asyncio.TimerHandle | None = None

    def request(self, reason: Reason) -> None:
        if self.reason is not None:
            return
        self.reason = reason
        self._cancel()

    def _cancel(self) -> None:
        if self._task is not None:
            self._cancellations += 1
            self._task.cancel()
            self._again = self._task.get_loop().call_later(_AGAIN_S, self._cancel)

    def check(self) -> None:
        """Raises Interrupted if it was requested."""
        if self.reason is not None:
            raise Interrupted(self.reason)

    async def __aenter__(self) -> Self:
        self.check()
        self._task = asyncio.current_task()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        ours, self._cancellations = self._cancellations, 0
        if self._again is not None:
            self._again.cancel()
        if ours and task is not None and self.reason is not None:
            others = [task.uncancel() for _ in range(ours)][-1]
            if not others and (kind is None or issubclass(kind, asyncio.CancelledError)):
                raise Interrupted(self.reason) from exc
