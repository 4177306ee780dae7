"""The tenants whose requests a daily budget stopped of late, as workers tell it with their sign of life."""

import logging

from pydantic import ValidationError

from contracts import subjects
from contracts.providers import BudgetStop, WorkerPresence
from runtime.broker import Broker
from runtime.buckets import BucketWatch

log = logging.getLogger(__name__)


class BudgetStops:
    """What all workers tell, kept current in the background by `watch`."""

    def __init__(self, broker: Broker) -> None:
        self._told: dict[str, tuple[BudgetStop, ...]] = {}
        self._bucket = BucketWatch(
            broker,
            subjects.HEALTH_BUCKET,
            take=self._take,
            forget_all_but=self._forget_all_but,
            keys="worker.>",
        )

    def known(self) -> list[BudgetStop] | None:
        """The stops; None before the bucket was read."""
        return [stop for stops in self._told.values() for stop in stops] if self._bucket.loaded else None

    async def watch(self) -> None:
        """Reads the bucket and follows it, for ever."""
        await self._bucket.run()

    def _take(self, key: str, value: bytes | None, _: int) -> None:
        if not value:
            self._told.pop(key, None)
            return
        try:
            self._told[key] = WorkerPresence.model_validate_json(value).budget_stops or ()
        except ValidationError:
            log.warning("presence_unreadable", extra={"key": key})

    def _forget_all_but(self, seen: set[str]) -> None:
        for key in self._told.keys() - seen:
            del self._told[key]
