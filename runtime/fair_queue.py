"""Fair shares of the event loop for the replies of servers that may be hostile.

A server that sends faster than its reply can be read never makes the reader wait, and a reader that never waits keeps
the loop from everybody else. So each reply has a flow (`Flow`), which is told how much work is about to be done. What
an ordinary stream needs is free, within a share of its own, one of its host and one of all. A reply that needs more
takes turns with all others that do (`FairQueue`): one turn at a time. Each turn is followed by a rest that is as long,
and so is free work, so that all replies together take half of the loop however many they are, and however many hosts.
Between hosts the turns are shared out by start-time fair queueing (Goyal, Vin, Cheng, 1996), so that a host with a
hundred greedy replies gets no more than a host with one.
"""

import asyncio
import heapq
import itertools
from weakref import WeakValueDictionary

FREE_SHARE = 0.05
"""The part of each second that a reply may use without waiting for a turn: 50 ms, which is 1,000 events."""
FREE_SHARE_OF_HOST = 0.2
FREE_SHARE_OF_ALL = 0.3
"""What all replies of a host, and all replies, may use like that together. A loop that passes on so many events has no
time for more of them."""
FREE_BURST_S = 0.05
FREE_BURST_OF_ALL_S = 0.1
"""What of it may be saved up by a reply or a host, and by all."""
REST = 1.0
"""How long no turn is given after work, in lengths of the work."""
TIMER_S = 0.001
"""Shorter rests are taken together: uvloop's timers are no finer."""


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
        self._free_of_hosts: WeakValueDictionary[str, _Free] = WeakValueDictionary()
        """Of those that have flows."""
        self._arrivals = itertools.count()
        self._begin(None)

    async def turn(self, host: str, work_s: float) -> None:
        """Returns when it is the turn of a flow of `host` to do so many seconds of work."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._begin(loop)
        start = max(self._virtual_s, self._finish_tags.get(host, 0.0))
        self._finish_tags[host] = start + work_s
        granted: asyncio.Future[None] = loop.create_future()
        heapq.heappush(self._waiting, (start, next(self._arrivals), work_s, granted))
        if self._next_turn is None:
            self._next_turn = loop.call_later(0, self._grant)
        await granted

    def free(self, host: str) -> tuple[_Free, _Free]:
        """What may be done for a flow of `host` without a turn, as far as others leave it."""
        of_host = self._free_of_hosts.get(host)
        if of_host is None:
            of_host = self._free_of_hosts[host] = _Free(FREE_SHARE_OF_HOST, FREE_BURST_S)
        return of_host, self._free

    def rest(self, work_s: float, *, now: float) -> None:
        """Says that so much work is done now, with a turn or without: the next turn is given after a rest."""
        self._rested_at = max(self._rested_at, now) + work_s * (1 + REST)

    def _begin(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Begins anew: a timer of another loop, which may have ended, would never give the next turn."""
        self._loop = loop
        self._waiting: list[tuple[float, int, float, asyncio.Future[None]]] = []
        """A heap: start tag, order of arrival, seconds of work, who waits."""
        self._virtual_s = 0.0
        """The start tag of the turn that was given last."""
        self._finish_tags: dict[str, float] = {}
        self._next_turn: asyncio.TimerHandle | None = None
        self._rested_at = 0.0
        """When the turns so far and their rests are over, on the loop's clock."""

    def _grant(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            now = loop.time()
            if (rest_s := self._rested_at - now) >= TIMER_S:
                self._next_turn = loop.call_later(rest_s, self._grant)
                return
            start, _, work_s, granted = heapq.heappop(self._waiting)
            if not granted.done():  # it is when whoever waited gave up
                self._virtual_s = start
                granted.set_result(None)
                self.rest(work_s, now=now)
                self._next_turn = loop.call_later(0, self._grant)
                return
        self._next_turn = None
        self._finish_tags.clear()


class Flow:
    """The work for one reply, or for one connection."""

    def __init__(self, queue: FairQueue, host: str) -> None:
        self._queue = queue
        self._host = host
        self._free = (_Free(FREE_SHARE, FREE_BURST_S), *queue.free(host))

    async def spend(self, work_s: float) -> None:
        """Waits until so many seconds of work may be done. Does not give the loop back when they are free."""
        now = asyncio.get_running_loop().time()
        if any(free.left_s(now) < work_s for free in self._free):
            await self._queue.turn(self._host, work_s)
            return
        for free in self._free:
            free.take(work_s)
        self._queue.rest(work_s, now=now)
