"""Waiting for something while holding a slot, bounded for each tenant so that none can fill a worker by waiting."""

import random
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

from workers.intake.delivery import NotNow

_SOON_S, _LATEST_S = 1.0, 10.0


class WaitingRoom:
    def __init__(self, *, seats: int, rng: random.Random) -> None:
        """`seats` are those of one tenant."""
        self._seats = seats
        self._rng = rng
        self._taken: Counter[str] = Counter()

    @contextmanager
    def seat(self, tenant: str, *, due_s: float) -> Generator[None]:
        """Raises NotNow when the tenant's seats are taken; the request comes again around the time it would be due."""
        if self._taken[tenant] >= self._seats:
            raise NotNow(min(max(due_s, _SOON_S), _LATEST_S) * (1 + self._rng.random()))
        self._taken[tenant] += 1
        try:
            yield
        finally:
            self._taken[tenant] -= 1
            if not self._taken[tenant]:
                del self._taken[tenant]
