"""Giving back what dead workers kept free of budgets. Every worker does it for all others; each step counts once."""

import logging

import nats.errors

from contracts import subjects
from runtime.broker import Broker
from runtime.buckets import BucketWatch
from runtime.jetstream.publishing import NotStored
from runtime.tasks import every
from workers.clock import Clock
from workers.quotas.budgets import Budgets
from workers.quotas.holds import Holds

log = logging.getLogger(__name__)

GONE_S = 20.0
"""A worker that has not been seen for so long after its sign of life ran out is dead."""
_LOOK_S = 5.0


class OrphanedHolds:
    def __init__(self, broker: Broker, budgets: Budgets, holds: Holds, *, worker: str, clock: Clock) -> None:
        self._budgets = budgets
        self._holds = holds
        self._worker = worker
        self._clock = clock
        self._present: set[str] = set()
        self._gone: dict[str, float] = {}
        """When each worker was found to be gone, by a monotonic clock."""
        self.bucket = BucketWatch(
            broker, subjects.HEALTH_BUCKET, keys="worker.>", take=self._take, forget_all_but=self._forget_all_but
        )

    async def run(self) -> None:
        """Runs for ever."""
        await self._clock.sleep(GONE_S)
        # A worker that died while no other was there to see it has holds, and has given no sign of life meanwhile.
        try:
            holders = {hold.worker for hold in await self._holds.of_worker()}
        except (nats.errors.Error, TimeoutError):
            log.warning("sweep_failed", extra={"error": "the holds cannot be read"})
            holders = set[str]()
        for name in holders - self._present - {self._worker}:
            self._gone.setdefault(name, self._clock.monotonic() - GONE_S)
        await every(
            _LOOK_S,
            self._settle,
            log=log,
            failure_event="sweep_failed",
            expected=(NotStored, nats.errors.Error, TimeoutError),
            first_after_s=_LOOK_S,
            sleep=self._clock.sleep,
        )

    async def _settle(self) -> None:
        """First what this worker itself could not release, then the holds of workers that are dead by now."""
        now = self._clock.monotonic()
        await self._budgets.release_pending()
        for name in [name for name, since in self._gone.items() if now - since > GONE_S]:
            for hold in await self._holds.of_worker(name):
                await self._budgets.settle_orphan(hold)
            del self._gone[name]

    def _take(self, key: str, value: bytes | None, _: int) -> None:
        name = key.removeprefix("worker.")
        if value is not None:
            self._present.add(name)
            self._gone.pop(name, None)
        elif name in self._present:
            self._note_gone(name)

    def _forget_all_but(self, seen: set[str]) -> None:
        for name in [name for name in self._present if f"worker.{name}" not in seen]:
            self._note_gone(name)

    def _note_gone(self, name: str) -> None:
        self._present.discard(name)
        if name != self._worker:
            self._gone[name] = self._clock.monotonic()
