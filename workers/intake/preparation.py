"""How many requests of a pool a worker makes ready for their vendors at the same time.

Most of what a request costs is spent before its vendor is asked, in some thirty rounds of the event loop with answers
of NATS and Vault between them. Of two hundred requests that start together each round takes two hundred times as long,
for everybody. So only a few are made ready at once, and who comes next is in turn. A loop that is busy loses nothing by
it; where answers take long, places are left to others after LONGEST_S, and 80 requests a second start at least.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from workers.intake.shares import Shares

AT_ONCE = 16
OF_FREE = 3
"""One tenant alone has twelve of sixteen at most."""
LONGEST_S = 0.2
"""A request that takes longer leaves its place to others: most likely it waits for something else than the loop."""


def shares() -> Shares:
    return Shares(AT_ONCE, of_tenant=OF_FREE, of_agent=OF_FREE)


class Preparation:
    """Of one request: from its first step until its vendor is asked, or it has ended without that."""

    def __init__(self) -> None:
        self._on_end: Callable[[], None] | None = None

    def begin(self, on_end: Callable[[], None]) -> None:
        """`on_end` is called once."""
        self._on_end = on_end

    @property
    def has_ended(self) -> bool:
        """Also before it has begun."""
        return self._on_end is None

    def end(self) -> None:
        """May be said again, and before it has begun."""
        if self._on_end is not None:
            on_end, self._on_end = self._on_end, None
            on_end()


class Overdue:
    """Ends preparations that take too long, with one timer for all of them."""

    def __init__(self) -> None:
        self._begun: deque[tuple[float, Preparation]] = deque()
        """With when each is due, by the event loop's clock; the first one is due first."""
        self._timer: asyncio.TimerHandle | None = None

    def end_in_time(self, preparation: Preparation) -> None:
        """To be said when it begins."""
        loop = asyncio.get_running_loop()
        self._begun.append((loop.time() + LONGEST_S, preparation))
        if self._timer is None:
            self._timer = loop.call_later(LONGEST_S, self._end_due)

    def _end_due(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._begun and (self._begun[0][0] <= now or self._begun[0][1].has_ended):
            self._begun.popleft()[1].end()
        self._timer = loop.call_at(self._begun[0][0], self._end_due) if self._begun else None
