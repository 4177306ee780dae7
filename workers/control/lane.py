"""Room for questions: a bounded number at once and waiting, for each tenant and in all, and turns between tenants."""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from runtime.tasks import end

Answer = Callable[[], Coroutine[Any, Any, None]]
"""Answers a question, and raises nothing but bugs."""


@dataclass(frozen=True, slots=True)
class Bound:
    """`places`: how many are answered at once; `waiting`: how many more are kept; `size`: bytes of both together."""

    places: int
    waiting: int
    size: int


class Lane:
    """Questions that share places. What has no room is not taken, before anything is kept of it."""

    def __init__(self, *, of_tenant: Bound, of_all: Bound) -> None:
        """`of_tenant` bounds each tenant. One whose vendor hangs should have no more than a quarter of the places."""
        self._of_tenant = of_tenant
        self._of_all = of_all
        self._waiting: OrderedDict[str, deque[tuple[int, Answer]]] = OrderedDict()
        """By tenant, the one whose turn it is at the beginning."""
        self._waiting_in_all = 0
        self._answering: Counter[str] = Counter()
        self._sizes: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def held(self) -> int:
        """How many questions are kept, those that are being answered included."""
        return self._waiting_in_all + len(self._tasks)

    @property
    def held_bytes(self) -> int:
        return self._sizes.total()

    def take(self, tenant: str, answer: Answer, *, size: int) -> bool:
        """Answers the question as soon as there is a place; False: there is no room for it. `size` is in bytes."""
        waiting = len(self._waiting.get(tenant, ()))
        if (
            self._sizes[tenant] + size > self._of_tenant.size
            or self.held_bytes + size > self._of_all.size
            or waiting >= self._of_tenant.waiting
            or self._waiting_in_all >= self._of_all.waiting
        ):
            return False
        self._sizes[tenant] += size
        self._waiting.setdefault(tenant, deque()).append((size, answer))
        self._waiting_in_all += 1
        self._start()
        return True

    async def close(self) -> None:
        """Ends what is being answered, and drops what waits."""
        self._waiting.clear()
        self._waiting_in_all = 0
        await end(*self._tasks)

    def _start(self) -> None:
        while len(self._tasks) < self._of_all.places and (tenant := self._next()) is not None:
            waiting = self._waiting.pop(tenant)
            size, answer = waiting.popleft()
            self._waiting_in_all -= 1
            if waiting:
                self._waiting[tenant] = waiting  # behind all others
            self._answering[tenant] += 1
            task = asyncio.create_task(answer(), name=f"answer {tenant}")
            self._tasks.add(task)
            task.add_done_callback(lambda task, tenant=tenant, size=size: self._done(task, tenant, size))

    def _next(self) -> str | None:
        """The tenant whose turn it is among those that have a place left."""
        return next((t for t in self._waiting if self._answering[t] < self._of_tenant.places), None)

    def _done(self, task: asyncio.Task[None], tenant: str, size: int) -> None:
        self._tasks.discard(task)
        for counter, amount in ((self._answering, 1), (self._sizes, size)):
            counter[tenant] -= amount
            if not counter[tenant]:
                del counter[tenant]
        self._start()
