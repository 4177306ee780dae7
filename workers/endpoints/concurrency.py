"""How many calls of an endpoint are in flight over all workers, held to `max_concurrency` by numbered slots.

A slot is an entry in `llm_health`: taken by a compare-and-set on its last message, refreshed while it is held, gone
by its TTL when its worker died. So the bound is exact, and nothing is left over.
"""

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from typing import assert_never

import nats.errors

from contracts import subjects
from runtime.broker import Broker
from runtime.buckets import BucketWatch
from runtime.jetstream.register import Lost, Register, Unanswered, Won
from runtime.tasks import every
from workers.clock import Clock
from workers.endpoints.names import EndpointId

log = logging.getLogger(__name__)

_TTL_S = 15.0
_REFRESH_S = 4.0
_LOCAL_S = 2.0
"""A slot goes from one request to the next of the same worker for this long, then other workers have a chance."""
_LOOK_S = 1.0
"""A waiting request looks again by itself this often, should it not have heard of a free slot."""
_ANSWER_S = 1.0
_FREE = ""
_SOMEBODY = "?"
"""Holds a slot that this worker did not get; the watch will tell who it is."""


@dataclass(slots=True, eq=False)
class ConcurrencySlot:
    """Held by a request of this worker."""

    endpoint: EndpointId
    key: str
    taken_at: float
    refreshed_at: float


_Line = deque[asyncio.Future[ConcurrencySlot | None]]
"""Requests of this worker that wait for a slot of an endpoint. Each is woken once: with a slot that was left to it, or
with None, when it should look for one."""


class ConcurrencyLimit:
    def __init__(self, broker: Broker, *, worker: str, clock: Clock) -> None:
        self._worker = worker
        self._clock = clock
        self._holders: dict[str, str] = {}
        """Which worker has the slot of a key, as far as is known."""
        self._held: dict[str, ConcurrencySlot] = {}
        """The slots that requests of this worker have, each by its key."""
        self._lines: dict[EndpointId, _Line] = {}
        self._register = Register(broker, bucket=subjects.HEALTH_BUCKET, answer_within_s=_ANSWER_S)
        broker.on_reconnect.append(self._say_again)  # after the register's own
        self.bucket = BucketWatch(
            broker, subjects.HEALTH_BUCKET, keys="slot.>", take=self._take, forget_all_but=self._forget_all_but
        )

    async def take(self, endpoint: EndpointId, most: int, *, at_most_s: float) -> ConcurrencySlot | None:
        """One of the `most` slots of the endpoint, waited for in turn. None: there was none in time."""
        give_up = self._clock.monotonic() + at_most_s
        line = self._lines.setdefault(endpoint, deque())
        if not line and (slot := await self._claim_any(endpoint, most)):
            return slot
        while (left_s := give_up - self._clock.monotonic()) > 0:
            slot = await self._stand_in(line, for_s=min(left_s, _LOOK_S))
            if slot or (slot := await self._claim_any(endpoint, most)):
                return slot
        return None

    async def _stand_in(self, line: _Line, for_s: float) -> ConcurrencySlot | None:
        """Waits in line for the slot that another request here releases.

        None when a slot may have become free for every worker, or after `for_s` seconds.
        """
        mine: asyncio.Future[ConcurrencySlot | None] = asyncio.get_running_loop().create_future()
        line.append(mine)
        try:
            await asyncio.wait({mine}, timeout=for_s)
        except asyncio.CancelledError:
            if mine.done() and (slot := mine.result()):
                await self.release(slot)
            raise
        finally:
            if not mine.done():
                line.remove(mine)
        return mine.result() if mine.done() else None

    async def release(self, slot: ConcurrencySlot) -> None:
        """Passes the slot to the next request in line here, else frees it for every worker."""
        if self._held.get(slot.key) is not slot:
            return  # it was lost to another worker, while this one was stopped
        if self._clock.monotonic() - slot.taken_at < _LOCAL_S and self._wake_next(slot.endpoint, slot):
            return
        del self._held[slot.key]
        try:
            await self._register.purge(slot.key, ttl_s=_TTL_S)
        except nats.errors.Error as exc:
            log.warning("slot_not_released", extra={"slot": slot.key, "error": type(exc).__name__})

    async def refresh(self) -> None:
        """Runs for ever."""
        await every(
            _REFRESH_S,
            self._refresh_held,
            log=log,
            failure_event="slots_not_refreshed",
            first_after_s=_REFRESH_S,
            sleep=self._clock.sleep,
        )

    async def _refresh_held(self) -> None:
        now = self._clock.monotonic()
        for slot in list(self._held.values()):
            if now - slot.refreshed_at > _TTL_S:
                del self._held[slot.key]
                continue
            try:
                await self._register.put(slot.key, self._worker.encode(), ttl_s=_TTL_S)
            except nats.errors.Error as exc:
                log.warning("slot_not_refreshed", extra={"slot": slot.key, "error": type(exc).__name__})
                continue
            slot.refreshed_at = now

    def _wake_next(self, endpoint: EndpointId, slot: ConcurrencySlot | None) -> bool:
        """Gives the slot, or word of a free one, to the next request in line; whether there was one."""
        line = self._lines.get(endpoint)
        while line:
            heir = line.popleft()
            if not heir.done():
                heir.set_result(slot)
                return True
        return False

    async def _claim_any(self, endpoint: EndpointId, most: int) -> ConcurrencySlot | None:
        for number in range(most):
            key = f"slot.{endpoint.tenant}.{endpoint.provider}.{endpoint.endpoint}.{number}"
            if key in self._held or self._holders.get(key, _FREE) != _FREE:
                continue
            self._holders[key] = self._worker  # so that no other request here tries at the same time
            try:
                outcome = await self._register.claim(key, self._worker.encode(), ttl_s=_TTL_S)
            except asyncio.CancelledError:
                self._holders[key] = _FREE
                raise
            match outcome:
                case Won():
                    now = self._clock.monotonic()
                    slot = self._held[key] = ConcurrencySlot(endpoint, key, taken_at=now, refreshed_at=now)
                    return slot
                case Lost():
                    if self._holders.get(key) == self._worker:  # else the watch has told already
                        self._holders[key] = _SOMEBODY
                case Unanswered(reason):
                    log.warning("slot_not_taken", extra={"slot": key, "error": reason})
                    self._holders[key] = _FREE
                case _:
                    assert_never(outcome)
        return None

    def _take(self, key: str, value: bytes | None, sequence: int) -> None:
        if not self._register.is_news(key, sequence):
            return
        holder = self._holders[key] = value.decode(errors="replace") if value else _FREE
        if holder not in (_FREE, self._worker):
            self._held.pop(key, None)
        if holder == _FREE and key not in self._held:
            _, tenant, provider, endpoint, _ = key.split(".")
            self._wake_next(EndpointId(tenant, provider, endpoint), None)

    def _forget_all_but(self, seen: set[str]) -> None:
        gone = [key for key in self._holders if key not in seen and key not in self._held]
        for key in gone:
            del self._holders[key]
        self._register.forget(gone)

    async def _say_again(self) -> None:
        """After a reconnect: a server that was started anew has lost the bucket, and what is held here is not free."""
        for slot in self._held.values():
            await self._register.put(slot.key, self._worker.encode(), ttl_s=_TTL_S)
