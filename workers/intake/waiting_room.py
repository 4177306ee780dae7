"""Waiting while a request keeps its slot of the intake: bounded for each tenant, so that none fills a worker by it."""

import random
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

from workers.intake.delivery import NotNow

_SOON_S, _LATEST_S = 1.0, 10.0


class WaitingRoom:
    def __init__(self, *, places: int, rng: random.Random) -> None:
        """`places` are those of one tenant: how many of its requests may wait at the same time."""
        self._places = places
        self._rng = rng
        self._taken: Counter[str] = Counter()

    @contextmanager
    def place(self, tenant: str, *, due_s: float) -> Generator[None]:
        """One of the tenant's places, for as long as the block runs.

        Raises NotNow when all are taken. Then the request goes back to the queue, and comes again around the time when
        what it waits for is due, in `due_s` seconds.
        """
        if self._taken[tenant] >= self._places:
            raise NotNow(min(max(due_s, _SOON_S), _LATEST_S) * (1 + self._rng.random()))
        self._taken[tenant] += 1
        try:
            yield
        finally:
            self._taken[tenant] -= 1
            if not self._taken[tenant]:
                del self._taken[tenant]
