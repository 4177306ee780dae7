"""This worker's entry in `llm_health`: refreshed while it lives, gone by its TTL soon after it does not."""

import asyncio
import logging
from collections.abc import Callable

import nats.errors

from contracts import subjects
from contracts.control import MSG_TTL
from contracts.providers import WorkerPresence
from runtime.broker import Broker

log = logging.getLogger(__name__)

_REFRESH_S = 3.0
_TTL_S = 10


async def announce(broker: Broker, describe: Callable[[], WorkerPresence]) -> None:
    """Runs for ever."""
    while True:
        presence = describe()
        try:
            await broker.client.publish(
                f"$KV.{subjects.HEALTH_BUCKET}.worker.{presence.name}",
                presence.to_json(),
                headers={MSG_TTL: str(_TTL_S)},
            )
        except nats.errors.Error as exc:
            log.warning("presence_failed", extra={"error": type(exc).__name__})
        await asyncio.sleep(_REFRESH_S)


async def withdraw(broker: Broker, name: str) -> None:
    await broker.client.publish(
        f"$KV.{subjects.HEALTH_BUCKET}.worker.{name}", b"", headers={"KV-Operation": "PURGE", "Nats-Rollup": "sub"}
    )
