"""How many calls of an endpoint are in flight over all workers, held to `max_concurrency` by numbered slots.

A slot is an entry in `llm_health`: taken by a compare-and-set on its last message, refreshed while it is held, gone
by its TTL when its worker died. So the bound is exact, and nothing is left over.
"""

import asyncio
import json
import logging
from collections import deque
from dataclasses import dataclass

import nats.errors

from contracts import subjects
from contracts.control import MSG_TTL
from runtime.broker import Broker
from runtime.buckets import BucketWatch
from workers.clock import Clock
from workers.endpoints.circuit_breaker import EXPECTED_SEQUENCE, NOTHING_THERE
from workers.endpoints.names import EndpointId

log = logging.getLogger(__name__)

_TTL_S = 15
_REFRESH_S = 4.0
_LOCAL_S = 2.0
"""A slot goes from one request to the next of the same worker for this long, then other workers have a chance."""
_LOOK_S = 1.0
"""A waiting request looks again by itself this often, should it not have heard of a free slot."""
_ANSWER_S = 1.0


@dataclass(slots=True)
class _Seen:
    """What the bucket says of a slot."""

    sequence: int = 0
    holder: str = ""
    """A worker; empty: free."""


@dataclass(slots=True, eq=False)
class ConcurrencySlot:
    """Held by a request of this worker."""

    endpoint: EndpointId
    key: str
    taken_at: float
    refreshed_at: float


class ConcurrencyLimit:
    def __init__(self, broker: Broker, *, worker: str, clock: Clock) -> None:
        self._broker = broker
        self._worker = worker
        self._clock = clock
        self._seen: dict[str, _Seen] = {}
        self._held: dict[str, ConcurrencySlot] = {}
        self._waiting: dict[EndpointId, deque[asyncio.Future[ConcurrencySlot | None]]] = {}
        broker.on_reconnect.append(self._reconnected)
        self.bucket = BucketWatch(
            broker, subjects.HEALTH_BUCKET, keys="slot.>", take=self._take, forget_all_but=self._forget_all_but
        )

    async def take(self, endpoint: EndpointId, most: int, *, at_most_s: float) -> ConcurrencySlot | None:
        """A slot, waited for in turn. None: there was none in time."""
        give_up = self._clock.monotonic() + at_most_s
        line = self._waiting.setdefault(endpoint, deque())
        if not line and (slot := await self._claim_any(endpoint, most)):
            return slot
        while (left_s := give_up - self._clock.monotonic()) > 0:
            slot = await self._stand_in(line, for_s=min(left_s, _LOOK_S))
            if slot or (slot := await self._claim_any(endpoint, most)):
                return slot
        return None

    async def _stand_in(
        self, line: deque[asyncio.Future[ConcurrencySlot | None]], for_s: float
    ) -> ConcurrencySlot | None:
        """The slot that somebody left here. None when something has changed, or the time is over."""
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
        """To the next request in line here, else for every worker."""
        if self._held.get(slot.key) is not slot:
            return  # it was lost to another worker, while this one was stopped
        if self._clock.monotonic() - slot.taken_at < _LOCAL_S and (heir := self._next_in_line(slot.endpoint)):
            heir.set_result(slot)
            return
        del self._held[slot.key]
        headers = {"KV-Operation": "PURGE", "Nats-Rollup": "sub", MSG_TTL: str(_TTL_S)}
        try:
            await self._broker.client.publish(_subject(slot.key), b"", headers=headers)
        except nats.errors.Error as exc:
            log.warning("slot_not_released", extra={"slot": slot.key, "error": type(exc).__name__})

    async def refresh(self) -> None:
        """Runs for ever."""
        while True:
            await self._clock.sleep(_REFRESH_S)
            now = self._clock.monotonic()
            for slot in list(self._held.values()):
                if now - slot.refreshed_at > _TTL_S:
                    del self._held[slot.key]
                    continue
                try:
                    await self._broker.client.publish(
                        _subject(slot.key), self._worker.encode(), headers={MSG_TTL: str(_TTL_S)}
                    )
                except nats.errors.Error as exc:
                    log.warning("slot_not_refreshed", extra={"slot": slot.key, "error": type(exc).__name__})
                    continue
                slot.refreshed_at = now

    def _next_in_line(self, endpoint: EndpointId) -> asyncio.Future[ConcurrencySlot | None] | None:
        line = self._waiting.get(endpoint)
        while line:
            heir = line.popleft()
            if not heir.done():
                return heir
        return None

    async def _claim_any(self, endpoint: EndpointId, most: int) -> ConcurrencySlot | None:
        for number in range(most):
            key = f"slot.{endpoint.tenant}.{endpoint.provider}.{endpoint.endpoint}.{number}"
            seen = self._seen.setdefault(key, _Seen())
            if not seen.holder and key not in self._held and await self._claim(key, seen):
                now = self._clock.monotonic()
                slot = self._held[key] = ConcurrencySlot(endpoint, key, taken_at=now, refreshed_at=now)
                return slot
        return None

    async def _claim(self, key: str, seen: _Seen) -> bool:
        expected = seen.sequence
        seen.holder = self._worker  # so that no other request here tries at the same time
        while True:
            headers = {EXPECTED_SEQUENCE: str(expected), MSG_TTL: str(_TTL_S)}
            try:
                answer = await self._broker.client.request(
                    _subject(key), self._worker.encode(), timeout=_ANSWER_S, headers=headers
                )
            except nats.errors.Error as exc:
                log.warning("slot_not_taken", extra={"slot": key, "error": type(exc).__name__})
                seen.holder = ""
                return False
            except asyncio.CancelledError:
                seen.holder = ""
                raise
            stored = json.loads(answer.data)
            if "error" not in stored:
                seen.sequence = max(seen.sequence, int(stored["seq"]))
                return True
            if expected == 0 or not stored["error"].get("description", "").endswith(NOTHING_THERE):
                seen.holder = "?"  # the watch will tell
                return False
            expected = 0  # the marker of its end is gone, too

    def _take(self, key: str, value: bytes | None, sequence: int) -> None:
        seen = self._seen.setdefault(key, _Seen())
        if sequence < seen.sequence:
            return
        seen.sequence = sequence
        seen.holder = value.decode(errors="replace") if value else ""
        if seen.holder not in ("", self._worker):
            self._held.pop(key, None)
        if not seen.holder and key not in self._held:
            self._wake(key)

    def _wake(self, key: str) -> None:
        """A free slot wakes one request in line."""
        _, tenant, provider, endpoint, _ = key.split(".")
        if heir := self._next_in_line(EndpointId(tenant, provider, endpoint)):
            heir.set_result(None)

    def _forget_all_but(self, seen: set[str]) -> None:
        for key in [key for key in self._seen if key not in seen and key not in self._held]:
            del self._seen[key]

    async def _reconnected(self) -> None:
        """A server that was restarted has lost the bucket, and counts from 1 again; what is held is said again."""
        for seen in self._seen.values():
            seen.sequence = 0
        for slot in self._held.values():
            await self._broker.client.publish(_subject(slot.key), self._worker.encode(), headers={MSG_TTL: str(_TTL_S)})


def _subject(key: str) -> str:
    return f"$KV.{subjects.HEALTH_BUCKET}.{key}"
