"""Fair shares of the event loop for the replies of servers that may be hostile.

A server that sends faster than its reply can be read never makes the reader wait, and a reader that never waits keeps
the loop from everybody else. So each reply has a flow (`Flow`), which is told how much work is about to be done. What
an ordinary stream needs is free. A reply that needs more takes turns with all others that do (`FairQueue`): one turn at
a time, each followed by a rest that is as long, so that together they take half of the loop however many they are.
Between hosts the turns are shared out by start-time fair queueing (Goyal, Vin, Cheng, 1996), so that a host with a
hundred greedy replies gets no more than a host with one.
"""

import asyncio
import heapq
import itertools

FREE_SHARE = 0.05
"""The part of each second that a reply may use without waiting for a turn: 50 ms, which is 300 events."""
FREE_BURST_S = 0.05
"""What of it may be saved up."""
REST = 1.0
"""How long the loop is left alone after a turn, in lengths of the turn."""
TIMER_S = 0.001
"""Shorter rests are taken together: uvloop's timers are no finer."""


class FairQueue:
    """Turns for all flows of a process."""

    def __init__(self) -> None:
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
        while self._waiting:
            start, _, work_s, granted = heapq.heappop(self._waiting)
            if not granted.done():  # it is when whoever waited gave up
                loop = asyncio.get_running_loop()
                now = loop.time()
                self._virtual_s = start
                granted.set_result(None)
                self._rested_at = max(self._rested_at, now) + work_s * (1 + REST)
                rest_s = self._rested_at - now
                self._next_turn = loop.call_later(rest_s if rest_s >= TIMER_S else 0, self._grant)
                return
        self._next_turn = None
        self._finish_tags.clear()


class Flow:
    """The work for one reply, or for one connection."""

    def __init__(self, queue: FairQueue, host: str) -> None:
        self._queue = queue
        self._host = host
        self._free_s = FREE_BURST_S
        self._counted_at = 0.0

    async def spend(self, work_s: float) -> None:
        """Waits until so many seconds of work may be done. Does not give the loop back when they are free."""
        now = asyncio.get_running_loop().time()
        self._free_s = min(FREE_BURST_S, self._free_s + (now - self._counted_at) * FREE_SHARE)
        self._counted_at = now
        if work_s <= self._free_s:
            self._free_s -= work_s
        else:
            await self._queue.turn(self._host, work_s)
