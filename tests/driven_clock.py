"""A clock that stands still until a test moves it."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from workers.clock import Clock

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


class DrivenClock(Clock):
    """Whoever sleeps is woken after one turn of the event loop, and the time has passed."""

    def __init__(self, at: datetime = NOON) -> None:
        self._start = at
        self.passed_s = 0.0
        self.at_sleep: Callable[[], None] | None = None
        """Called whenever somebody begins to sleep."""

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self.passed_s)

    def monotonic(self) -> float:
        return 1000.0 + self.passed_s

    async def sleep(self, delay_s: float) -> None:
        if self.at_sleep:
            self.at_sleep()
        await asyncio.sleep(0)
        self.pass_by(delay_s)

    def pass_by(self, seconds: float = 0.0, **more: float) -> None:
        """`more` as timedelta has it: minutes, hours, days."""
        self.passed_s += timedelta(seconds=seconds, **more).total_seconds()
