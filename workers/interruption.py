"""Interrupting the part of a task that may be interrupted, and no other part of it.

Modelled on asyncio.timeout: the scope cancels its own task and turns that cancellation into `Interrupted`; a
cancellation from outside passes through untouched.
"""

import asyncio
from enum import Enum, auto
from types import TracebackType
from typing import Self


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
        self._cancelled_by_us = False

    def request(self, reason: Reason) -> None:
        if self.reason is not None:
            return
        self.reason = reason
        if self._task is not None:
            self._cancelled_by_us = True
            self._task.cancel()

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
        if self._cancelled_by_us and task is not None and self.reason is not None:
            self._cancelled_by_us = False
            if task.uncancel() == 0 and (kind is None or issubclass(kind, asyncio.CancelledError)):
                raise Interrupted(self.reason) from exc
