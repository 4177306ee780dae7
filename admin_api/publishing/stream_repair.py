"""Creates streams anew after a NATS server lost those that it keeps in memory.

A single server that restarts (nats-server 2.15.1) comes back without its memory streams: replies, counters, worker
presences. Workers have no right to create them.
"""

import asyncio
import logging
import math
from contextlib import suppress

import nats.errors

from contracts.streams import JetStreamError, StreamMismatch
from contracts.wire import reason
from runtime import broker
from runtime.broker import Broker, Unreachable
from runtime.settings import BrokerSettings
from runtime.tasks import every

log = logging.getLogger(__name__)

_RETRY_AFTER_S = 1.0


async def keep_existing(connection: Broker, settings: BrokerSettings) -> None:
    """Creates what is missing after each reconnect, until it is cancelled."""
    reconnected = asyncio.Event()

    async def on_reconnect() -> None:
        reconnected.set()

    async def ensure() -> float:
        reconnected.clear()
        try:
            await broker.ensure_streams(connection, settings)
        except StreamMismatch as exc:
            # An operator has to decide; trying again would find the same.
            log.error("streams_differ", extra={"error": reason(exc)})
        else:
            log.info("streams_ensured")
        return math.inf

    async def until_reconnected(seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await reconnected.wait()

    connection.on_reconnect.append(on_reconnect)
    await every(
        _RETRY_AFTER_S,
        ensure,
        log=log,
        failure_event="streams_not_ensured",
        expected=(Unreachable, JetStreamError, nats.errors.Error, TimeoutError),
        first_after_s=math.inf,
        sleep=until_reconnected,
    )
