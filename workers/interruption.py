"""Interrupting the part of a task that may be interrupted, and no other part of it.

Modelled on asyncio.timeout: the scope cancels its own task and turns that cancellation into `Interrupted`; a
cancellation from outside passes through untouched.
"""

import asyncio
from enum import Enum, auto
from types import TracebackType

AGAIN_S = 1.0
"""A cancellation that meets an answer is lost in Python 3.11's `wait_for`, and so in nats-py; then it is repeated."""


class Reason(Enum):
    CANCELLED = auto()
    """The agent does not want the answer any more."""
    DRAINING = auto()
    """This worker stops; another one goes on."""


class Interrupted(Exception):
    """A scope was left, or not entered, because its interruption was requested. `reason` says why."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.name.lower())
        self.reason = reason


class Interruption:
    """Requested once, by another task; noticed at once inside a scope, else at the next one."""

    def __init__(self, *, again_s: float = AGAIN_S) -> None:
        self.reason: Reason | None = None
        self.again_s = again_s
        self.current: Scope | None = None
        """The scope in which the task is."""

    def request(self, reason: Reason) -> None:
        """The first reason counts; to request it again changes nothing."""
        if self.reason is not None:
            return
        self.reason = reason
        if self.current is not None:
            self.current.cancel()

    def check(self) -> None:
        """Raises Interrupted if it was requested."""
        if self.reason is not None:
            raise Interrupted(self.reason)

    def scope(self) -> "Scope":
        """For `async with`: the block may be interrupted wherever it awaits. Raises Interrupted, also at once."""
        return Scope(self)


class Scope:
    """One block of a task that may be interrupted; made by `Interruption.scope`."""

    def __init__(self, interruption: Interruption) -> None:
        self._interruption = interruption
        self._task: asyncio.Task[object] | None = None
        self._cancellations = 0
        """How often the task was cancelled from here."""
        self._again: asyncio.TimerHandle | None = None

    def cancel(self) -> None:
        """Cancels the task, and again every `again_s` seconds until the block is left."""
        if self._task is not None:
            self._cancellations += 1
            self._task.cancel()
            self._again = self._task.get_loop().call_later(self._interruption.again_s, self.cancel)

    async def __aenter__(self) -> None:
        self._interruption.check()
        self._task = asyncio.current_task()
        self._interruption.current = self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        self._interruption.current = None
        if self._again is not None:
            self._again.cancel()
        if self._cancellations and task is not None and self._interruption.reason is not None:
            others = [task.uncancel() for _ in range(self._cancellations)][-1]
            if not others and (kind is None or issubclass(kind, asyncio.CancelledError)):
                raise Interrupted(self._interruption.reason) from exc
