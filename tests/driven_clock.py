"""A clock that stands still until a test moves it."""

from datetime import UTC, datetime, timedelta

from workers.clock import Clock

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


class DrivenClock(Clock):
    """Whoever sleeps is woken at once, and the time has passed."""

    def __init__(self, at: datetime = NOON) -> None:
        self._start = at
        self._passed_s = 0.0

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._passed_s)

    def monotonic(self) -> float:
        return 1000.0 + self._passed_s

    async def sleep(self, delay_s: float) -> None:
        self.pass_by(delay_s)

    def pass_by(self, seconds: float) -> None:
        self._passed_s += seconds
