"""What NATS keeps in memory only, and when it last forgot it."""

import json
from datetime import datetime

from contracts import streams
from runtime.broker import Broker


async def forgotten(broker: Broker, *, since: datetime) -> bool:
    """Whether the events of a request that is in the queue since then may be gone with a restart of NATS.

    A cluster hides that from us: there a stream that lost its memory keeps its date.
    """
    info = json.loads(await broker.request(f"$JS.API.STREAM.INFO.{streams.REPLIES}", b""))
    return "created" not in info or datetime.fromisoformat(info["created"]) > since
