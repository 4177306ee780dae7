"""The streams exist again after a NATS server lost those that it keeps in memory.

A single server that restarts comes back without its memory streams (replies, counters, worker presences), and workers
have no right to create them.
"""

import asyncio
import logging

import nats.errors

from contracts.streams import JetStreamError, StreamMismatch
from contracts.wire import reason
from runtime import broker
from runtime.broker import Broker, Unreachable
from runtime.settings import BrokerSettings

log = logging.getLogger(__name__)

_RETRY_AFTER_S = 1.0


async def keep_existing(connection: Broker, settings: BrokerSettings) -> None:
    """Creates what is missing after each reconnect. Runs until cancelled."""
    reconnected = asyncio.Event()

    async def on_reconnect() -> None:
        reconnected.set()

    connection.on_reconnect.append(on_reconnect)
    while True:
        await reconnected.wait()
        reconnected.clear()
        if not await _ensure(connection, settings):
            reconnected.set()
            await asyncio.sleep(_RETRY_AFTER_S)


async def _ensure(connection: Broker, settings: BrokerSettings) -> bool:
    try:
        await broker.ensure_streams(connection, settings)
    except (Unreachable, JetStreamError, nats.errors.Error, TimeoutError) as exc:
        log.warning("streams_not_ensured", extra={"error": reason(exc)})
        return False
    except StreamMismatch as exc:
        log.error("streams_differ", extra={"error": reason(exc)})
    else:
        log.info("streams_ensured")
    return True
