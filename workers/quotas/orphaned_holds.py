"""Releasing what dead workers kept free of budgets. Every worker does it; each step counts once."""

import logging

from contracts import subjects
from runtime.broker import Broker
from runtime.buckets import BucketWatch
from runtime.jetstream.publishing import NotStored
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
        """When each was found to be gone."""
        self.bucket = BucketWatch(
            broker, subjects.HEALTH_BUCKET, keys="worker.>", take=self._take, forget_all_but=self._forget_all_but
        )

    async def run(self) -> None:
        """Runs for ever."""
        await self._clock.sleep(GONE_S)
        await self._sweep_strangers()
        while True:
            await self._clock.sleep(_LOOK_S)
            now = self._clock.monotonic()
            try:
                await self._budgets.release_owed()
                for name in [name for name, since in self._gone.items() if now - since > GONE_S]:
                    await self._sweep(name)
                    del self._gone[name]
            except (NotStored, TimeoutError) as exc:
                log.warning("sweep_failed", extra={"error": str(exc)})

    async def _sweep_strangers(self) -> None:
        """Of those that died while no worker was there to see it."""
        try:
            holds = await self._holds.of_worker()
        except TimeoutError:
            log.warning("sweep_failed", extra={"error": "the holds cannot be read"})
            return
        for name in {hold.worker for hold in holds} - self._present - {self._worker}:
            self._gone.setdefault(name, self._clock.monotonic() - GONE_S)

    async def _sweep(self, name: str) -> None:
        for hold in await self._holds.of_worker(name):
            await self._budgets.release_of_the_dead(hold)

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
