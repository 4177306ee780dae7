"""How many bytes of each tenant's requests wait in the queue, over all workers; beyond a bound new ones are refused.

JetStream (nats-server 2.15) bounds the bytes of a stream for all its subjects together, and one subject by the number
of its messages only. So what a tenant may have waiting is counted by those who see every request: the workers.

A worker that has no room for a request gives it back, to come again at a time that it names (timetable.py). Until then
it counts here, with its size. At that time JetStream delivers it again, before anything that is new, to any worker,
which counts it anew. So the sum over all workers is what waits, but for what none of them has seen yet.

Each worker tells the others its sums in the bucket `llm_health`. When a request comes for the first time, finds no room
and its tenant has the bound waiting, it is refused with `queue_full`, in place of being given back. What came before it
is within the bound, goes on to wait, and runs. So it is the newest that are refused, and nobody's request is ever taken
out of the queue without a word to its agent.

What is told is a second old at most, so a tenant may exceed the bound by what all workers read in a second. An entry
ends with its worker, after a few seconds: what that worker had given back comes to others then.
"""

import logging
from collections import Counter, defaultdict
from heapq import heappop, heappush
from typing import NoReturn

import nats.errors

from runtime.broker import Broker
from runtime.tasks import every
from workers.clock import Clock
from workers.jetstream.told_sizes import ToldSizes

log = logging.getLogger(__name__)

_PART = 16
_LOOK_S = 1.0
_TOLD_AGAIN_S = 4.0
_TTL_S = 10.0
_ANSWER_S = 1.0
_STEPS = 64
"""Others are told when a sum has changed by this part of the bound."""


def bound_of(max_queue_bytes: int) -> int:
    """The bytes of requests that one tenant may have waiting, of a queue that holds so many."""
    return max_queue_bytes // _PART


class Backlog:
    """What one worker has given back, by tenant and provider, and what the others tell of theirs."""

    def __init__(self, broker: Broker, *, worker: str, bound: int, clock: Clock) -> None:
        """`bound`: the bytes that one tenant may have waiting, over all workers."""
        self.bound = bound
        self._clock = clock
        self._waiting: defaultdict[str, list[tuple[float, int, str]]] = defaultdict(list)
        """By tenant: a heap of when each request comes again, its size and its provider."""
        self._of_tenants: Counter[str] = Counter()
        self._of_providers: Counter[str] = Counter()
        self._told = ToldSizes(
            broker,
            kind="queue",
            worker=worker,
            again_s=_TOLD_AGAIN_S,
            ttl_s=_TTL_S,
            answer_within_s=_ANSWER_S,
            clock=clock,
        )
        self.bucket = self._told.bucket

    def add(self, tenant: str, provider: str, size: int, *, delay_s: float) -> None:
        """A request of so many bytes is given back, and comes again after `delay_s`."""
        heappush(self._waiting[tenant], (self._clock.monotonic() + delay_s, size, provider))
        self._of_tenants[tenant] += size
        self._of_providers[provider] += size

    def has_room(self, tenant: str, size: int) -> bool:
        """Whether a request of so many bytes may wait as well. One may always."""
        self._end_what_is_due(tenant)
        waiting = self._of_tenants.get(tenant, 0) + self._told.of_others(tenant)
        return not waiting or waiting + size <= self.bound

    def bytes_of(self, provider: str) -> int:
        """What waits of a provider's requests, as far as this worker has given it back; up to a second old. May be
        asked from another thread."""
        return self._of_providers.get(provider, 0)

    async def tell(self) -> NoReturn:
        """Runs for ever: tells the others, when they would learn something by it."""
        await every(_LOOK_S, self.tell_once, log=log, failure_event="backlog_not_told", expected=(nats.errors.Error,))

    async def tell_once(self) -> None:
        """Raises nats.errors.Error when it cannot be sent."""
        for tenant in list(self._waiting):
            self._end_what_is_due(tenant)
        step = self.bound // _STEPS
        await self._told.tell(self._of_tenants, least=step, step=step, also_none=False)

    def _end_what_is_due(self, tenant: str) -> None:
        """What comes again is counted by whoever gets it."""
        now, waiting = self._clock.monotonic(), self._waiting.get(tenant)
        while waiting and waiting[0][0] <= now:
            _, size, provider = heappop(waiting)
            self._of_tenants[tenant] -= size
            self._of_providers[provider] -= size
        if waiting is not None and not waiting:
            del self._waiting[tenant], self._of_tenants[tenant]
