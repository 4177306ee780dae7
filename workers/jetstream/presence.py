"""A worker's entry in `llm_health`: refreshed while it lives, gone by its TTL soon after it does not."""

import logging
from collections.abc import Callable

import nats.errors

from contracts import subjects
from contracts.providers import WorkerPresence
from runtime.broker import Broker
from runtime.jetstream.register import Register
from runtime.tasks import every

log = logging.getLogger(__name__)

_REFRESH_S = 3.0
_TTL_S = 10.0
_ANSWER_S = 1.0


class Presence:
    def __init__(self, broker: Broker, *, worker: str) -> None:
        self._register = Register(broker, bucket=subjects.HEALTH_BUCKET, answer_within_s=_ANSWER_S)
        self._key = f"worker.{worker}"

    async def announce(self, describe: Callable[[], WorkerPresence]) -> None:
        """Runs for ever."""

        async def refresh() -> None:
            await self._register.put(self._key, describe().to_json(), ttl_s=_TTL_S)

        await every(_REFRESH_S, refresh, log=log, failure_event="presence_failed", expected=(nats.errors.Error,))

    async def withdraw(self) -> None:
        """Says that the worker is gone. Raises nats.errors.Error."""
        await self._register.purge(self._key, ttl_s=_TTL_S)
