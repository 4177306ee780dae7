"""The endpoints and models that are out of service, as workers tell it in the bucket `llm_health`."""

import logging

from pydantic import ValidationError

from contracts import subjects
from contracts.health import OpenCircuit
from runtime.broker import Broker
from runtime.buckets import BucketWatch

log = logging.getLogger(__name__)


class Circuits:
    """The open circuits of all tenants, kept current in the background by `watch`."""

    def __init__(self, broker: Broker) -> None:
        self._open: dict[str, OpenCircuit] = {}
        self._bucket = BucketWatch(
            broker,
            subjects.HEALTH_BUCKET,
            take=self._take,
            forget_all_but=self._forget_all_but,
            keys="circuit.>",
        )

    def known(self) -> list[OpenCircuit] | None:
        """The open circuits; None before the bucket was read, when nobody knows what is out of service."""
        return list(self._open.values()) if self._bucket.loaded else None

    async def watch(self) -> None:
        """Reads the bucket and follows it, for ever."""
        await self._bucket.run()

    def _take(self, key: str, value: bytes | None, _: int) -> None:
        if not value:
            self._open.pop(key, None)
            return
        try:
            self._open[key] = OpenCircuit.model_validate_json(value)
        except ValidationError:
            log.warning("circuit_unreadable", extra={"key": key})

    def _forget_all_but(self, seen: set[str]) -> None:
        for key in self._open.keys() - seen:
            del self._open[key]
