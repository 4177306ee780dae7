"""How many requests of a pool a worker makes ready for their vendors at the same time.

Most of what a request costs is spent before its vendor is asked, in some thirty rounds of the event loop with answers
of NATS and Vault between them. Of two hundred requests that start together each round takes two hundred times as long,
for everybody. So only a few are made ready at once, and who comes next is in turn. A loop that is busy loses nothing by
it; where answers take long, places are left to others after LONGEST_S, and 80 requests a second start at least.
"""

import asyncio
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
        asyncio.get_running_loop().call_later(LONGEST_S, self.end)

    def end(self) -> None:
        """May be said again, and before it has begun."""
        if self._on_end is not None:
            on_end, self._on_end = self._on_end, None
            on_end()
