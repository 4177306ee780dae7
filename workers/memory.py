"""What NATS keeps in memory only, and when it last forgot it."""

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import nats.errors

from contracts import streams
from runtime.broker import Broker

_LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class Memory:
    """Of events, as the server's clock has it. A cluster hides that it lost them: there a stream keeps its date."""

    begins_at: datetime
    age_s: float


async def memory(broker: Broker) -> Memory | None:
    """None while the stream is not there: what is said now is kept by nobody.

    Raises nats.errors.Error when the server does not answer.
    """
    info = json.loads(await broker.request(f"$JS.API.STREAM.INFO.{streams.REPLIES}", b""))
    if "created" not in info:
        return None
    begins_at = datetime.fromisoformat(info["created"])
    return Memory(begins_at, (datetime.fromisoformat(info["ts"]) - begins_at).total_seconds())


async def until_kept(broker: Broker) -> None:
    """Returns when the server says that events are stored."""
    while True:
        with suppress(nats.errors.Error):
            if await memory(broker) is not None:
                return
        await asyncio.sleep(_LOOK_S)
