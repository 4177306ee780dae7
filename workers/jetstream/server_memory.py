"""What NATS keeps in memory only, and when it last forgot it."""

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import nats.errors

from contracts import streams
from runtime.broker import Broker

REQUEST_IDS_KNOWN = timedelta(seconds=streams.REQUEST_IDS_KNOWN_S)
_LOOK_S = 0.5
_MADE_TOGETHER = timedelta(seconds=10)
"""Streams that were made when the server was started first."""


@dataclass(frozen=True, slots=True)
class ServerMemory:
    """Of events, as the server's clock has it. A cluster hides that it lost them: there a stream keeps its date."""

    begins_at: datetime
    age_s: float


async def replies_kept_since(broker: Broker) -> ServerMemory | None:
    """None while the stream is not there: what is said now is kept by nobody.

    Raises nats.errors.Error when the server does not answer.
    """
    info = await _info(broker, streams.REPLIES)
    if "created" not in info:
        return None
    begins_at = datetime.fromisoformat(info["created"])
    return ServerMemory(begins_at, (datetime.fromisoformat(info["ts"]) - begins_at).total_seconds())


async def ids_known_from(broker: Broker) -> datetime:
    """From when on no copy of a request is stored.

    A server that is started anew knows the message ids of what is stored, and not of what is done and gone. For as long
    as it would have known them, an agent or a worker that did not hear that its message was stored may store it again.
    """
    try:
        kept, asked = await replies_kept_since(broker), await _info(broker, streams.REQUESTS)
    except nats.errors.Error:
        return datetime.now(UTC) + REQUEST_IDS_KNOWN
    if kept is None or "created" not in asked:
        return datetime.now(UTC) + REQUEST_IDS_KNOWN
    first_started_at = datetime.fromisoformat(asked["created"])
    if kept.begins_at - first_started_at < _MADE_TOGETHER:
        return first_started_at
    return kept.begins_at + REQUEST_IDS_KNOWN


async def _info(broker: Broker, stream: str) -> dict[str, Any]:
    return json.loads(await broker.request(f"$JS.API.STREAM.INFO.{stream}", b""))


async def until_kept(broker: Broker) -> None:
    """Returns when the server says that events are stored."""
    while True:
        with suppress(nats.errors.Error):
            if await replies_kept_since(broker) is not None:
                return
        await asyncio.sleep(_LOOK_S)
