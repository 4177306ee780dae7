"""What a NATS server keeps in memory only, and since when.

`LLM_REPLIES` lies in memory. A single node that is killed loses it, and whoever notices makes it anew, so the date of
the stream tells since when events are kept. (What else such a node forgets: workers/intake/known_server.py.)
"""

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import nats.errors

from contracts import streams
from runtime.broker import Broker
from workers.clock import Clock

REQUEST_IDS_KNOWN = timedelta(seconds=streams.REQUEST_IDS_KNOWN_S)
"""How long JetStream knows the message id of a request that it has stored."""
_MADE_WITHIN = timedelta(seconds=10)
"""Streams that were made when a server was started for the first time have dates this close together."""
_LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class ServerMemory:
    """Since when events are kept, by the server's clock.

    In a cluster the stream keeps its date even when its one replica lost the events with its node.
    """

    begins_at: datetime
    age_s: float


async def replies_kept_since(broker: Broker) -> ServerMemory | None:
    """The answer of the server; None while the stream is not there, and what is said now is kept by nobody.

    Raises nats.errors.Error when the server does not answer.
    """
    info = await _info(broker, streams.REPLIES)
    if "created" not in info:
        return None
    begins_at = datetime.fromisoformat(info["created"])
    return ServerMemory(begins_at, (datetime.fromisoformat(info["ts"]) - begins_at).total_seconds())


async def ids_known_from(broker: Broker, *, clock: Clock, made_within: timedelta = _MADE_WITHIN) -> datetime:
    """From when on no copy of a request is stored.

    A server that is started anew reads the message ids of what is stored, and does not know those of what is done and
    gone. For as long as it would have known them, an agent or a worker that did not hear that its message was stored
    may store it again.

    Whether it was started anew is told by dates: events in memory that are younger than the requests on disk, by more
    than the `made_within` of streams that are made together. Without an answer the worst is assumed.
    """
    at_the_latest = clock.now() + REQUEST_IDS_KNOWN
    try:
        kept = await replies_kept_since(broker)
        asked = await _info(broker, streams.REQUESTS)
    except nats.errors.Error:
        return at_the_latest
    if kept is None or "created" not in asked:
        return at_the_latest
    first_started_at = datetime.fromisoformat(asked["created"])
    if kept.begins_at - first_started_at < made_within:
        return first_started_at
    return kept.begins_at + REQUEST_IDS_KNOWN


async def until_kept(broker: Broker) -> None:
    """Returns when the server says that events are stored."""
    while True:
        with suppress(nats.errors.Error):
            if await replies_kept_since(broker) is not None:
                return
        await asyncio.sleep(_LOOK_S)


async def _info(broker: Broker, stream: str) -> dict[str, Any]:
    """What the server says of a stream; without `created` when there is none."""
    return json.loads(await broker.request(f"$JS.API.STREAM.INFO.{stream}", b""))
