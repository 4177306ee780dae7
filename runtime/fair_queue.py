"""Fair turns on the event loop for the replies of servers that may be hostile.

A server that sends faster than its reply can be read never makes the reader wait, and a reader that never waits keeps
the loop from everybody else. So each reply has a flow (`Flow`), which is told how much work was done for it. What an
ordinary stream needs is free, within a share of its own, one of its tenant and one of all. Beyond that replies take
turns (`FairQueue`): one turn in each round of the loop, in which everything else that is ready runs as well. So nothing
is held up by more than a turn a round, however many replies are greedy, and a loop with nothing else to do does nothing
but their work.

Between tenants the turns are shared out by start-time fair queueing (Goyal, Vin, Cheng, 1996), so that a tenant with a
hundred greedy replies gets no more than a tenant with one, at whatever host.
"""

import asyncio
import heapq
import itertools
from weakref import WeakValueDictionary

FREE_SHARE = 0.05
"""The part of each second that a reply may use without waiting for a turn: 50 ms, which is 1,000 events."""
FREE_SHARE_OF_TENANT = 0.5
FREE_SHARE_OF_ALL = 0.7
"""What all replies of a tenant, and all replies, may use like that together: 500 streams of one tenant with 50 tokens a
second each use 0.3. A loop that passes on much more has no time for more of it."""
FREE_BURST_S = 0.05
FREE_BURST_OF_ALL_S = 0.1
"""What of it may be saved up by a reply or a tenant, and by all."""
ACCOUNTED_S = 0.2e-3
"""So much work of a reply is accounted for at once: to look at three shares for each event takes as long as to read
it."""


class _Free:
    """Work that may be done without waiting for a turn."""

    def __init__(self, share: float, burst_s: float) -> None:
        self._share = share
        self._burst_s = burst_s
        self._left_s = burst_s
        self._counted_at = 0.0

    def left_s(self, now: float) -> float:
        self._left_s = min(self._burst_s, self._left_s + max(now - self._counted_at, 0.0) * self._share)
        self._counted_at = now
        return self._left_s

    def take(self, work_s: float) -> None:
        self._left_s -= work_s


class FairQueue:
    """Turns for all flows of a process."""

    def __init__(self) -> None:
        self._free = _Free(FREE_SHARE_OF_ALL, FREE_BURST_OF_ALL_S)
        self._free_of_tenants: WeakValueDictionary[str, _Free] = WeakValueDictionary()
        """Of those that have flows."""
        self._arrivals = itertools.count()
        self._begin(None)

    async def turn(self, tenant: str, work_s: float) -> None:
        """Returns when it is the turn of a flow of `tenant`, which has had so many seconds of work."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._begin(loop)
        start = max(self._virtual_s, self._finish_tags.get(tenant, 0.0))
        self._finish_tags[tenant] = start + work_s
        granted: asyncio.Future[None] = loop.create_future()
        heapq.heappush(self._waiting, (start, next(self._arrivals), granted))
        if not self._goes_round:
            self._goes_round = True
            loop.call_soon(self._grant)
        await granted

    def free(self, tenant: str) -> tuple[_Free, _Free]:
        """What may be done for a flow of `tenant` without a turn, as far as others leave it."""
        of_tenant = self._free_of_tenants.get(tenant)
        if of_tenant is None:
            of_tenant = self._free_of_tenants[tenant] = _Free(FREE_SHARE_OF_TENANT, FREE_BURST_S)
        return of_tenant, self._free

    def _begin(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Begins anew: another loop, which may have ended, would never give the next turn."""
        self._loop = loop
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        """A heap: start tag, order of arrival, who waits."""
        self._virtual_s = 0.0
        """The start tag of the turn that was given last."""
        self._finish_tags: dict[str, float] = {}
        self._goes_round = False

    def _grant(self) -> None:
        """Gives a turn, and comes back when the loop has gone round."""
        while self._waiting:
            start, _, granted = heapq.heappop(self._waiting)
            if not granted.done():  # it is when whoever waited gave up
                self._virtual_s = start
                granted.set_result(None)
                asyncio.get_running_loop().call_soon(self._grant)
                return
        self._goes_round = False
        self._finish_tags.clear()


class Flow:
    """The work for one reply, or for one connection."""

    def __init__(self, queue: FairQueue, tenant: str) -> None:
        """`tenant`: whose reply it is; whoever has no tenant shares with all others that have none."""
        self._queue = queue
        self._tenant = tenant
        self._free = (_Free(FREE_SHARE, FREE_BURST_S), *queue.free(tenant))
        self._owed_s = 0.0

    def owes(self, work_s: float) -> bool:
        """Takes note of so many seconds of work, and says whether `settle` is to be awaited before there is more."""
        self._owed_s += work_s
        return self._owed_s >= ACCOUNTED_S

    def settles(self) -> bool:
        """Settles what was done when that is within a share; False when it is not: then `settle` is to be awaited."""
        now = asyncio.get_running_loop().time()
        if min(free.left_s(now) for free in self._free) < self._owed_s:
            return False
        for free in self._free:
            free.take(self._owed_s)
        self._owed_s = 0.0
        return True

    async def settle(self) -> None:
        """Waits until what was done is within a share. Does not give the loop back when it is."""
        if not self.settles():
            work_s, self._owed_s = self._owed_s, 0.0
            await self._queue.turn(self._tenant, work_s)
