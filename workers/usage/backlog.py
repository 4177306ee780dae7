"""Trims LLM_USAGE up to what is booked, and measures how much waits there and since when.

Booked records are removed many with one call, instead of one deletion for each ack: a work queue would delete at each
ack, with a synced write on a durable server, three times slower (measured in benchmarks/ledger.py). What is above the
consumer's ack floor is never touched, so nothing leaves before it is booked.
"""

import json
import logging
from dataclasses import dataclass
from datetime import datetime

import nats.errors
from nats.aio.client import Client as Nats

from contracts import streams
from contracts.wire import utc_now
from runtime.tasks import every
from workers.usage import metrics

log = logging.getLogger(__name__)

EVERY_S = 10.0
_STREAM_INFO = f"$JS.API.STREAM.INFO.{streams.USAGE}"
_TIMEOUT_S = 5


@dataclass(frozen=True, slots=True)
class Backlog:
    """Records that are not booked, and the age of the oldest one; 0 without any."""

    records: int
    age_s: float


async def watch(client: Nats, *, every_s: float = EVERY_S) -> None:
    """Trims and measures. Runs for ever; several consumers may do it at once."""
    trimmed_to = 0

    async def look_after() -> None:
        nonlocal trimmed_to
        trimmed_to = await trim(client, above=trimmed_to)
        backlog = await measure(client)
        metrics.PENDING.set(backlog.records)
        metrics.LAG_SECONDS.set(backlog.age_s)

    expected = (nats.errors.Error, TimeoutError)
    await every(
        every_s, look_after, log=log, failure_event="usage_trim_failed", expected=expected, first_after_s=every_s
    )


async def trim(client: Nats, *, above: int = 0) -> int:
    """Removes what is booked, if that goes beyond the stream sequence `above`, and returns up to which one it goes."""
    jetstream = client.jetstream()
    consumer = await jetstream.consumer_info(streams.USAGE, streams.USAGE_CONSUMER)
    booked_to = consumer.ack_floor.stream_seq if consumer.ack_floor else 0
    if booked_to > above:
        await jetstream.purge_stream(streams.USAGE, seq=booked_to + 1)
    return max(booked_to, above)


async def measure(client: Nats) -> Backlog:
    """How much waits in a stream that was just trimmed, so that its first record is the oldest one that waits."""
    consumer = await client.jetstream().consumer_info(streams.USAGE, streams.USAGE_CONSUMER)
    waiting = (consumer.num_pending or 0) + (consumer.num_ack_pending or 0)
    if not waiting:
        return Backlog(0, 0.0)
    # nats-py's StreamState leaves the times out.
    state = json.loads((await client.request(_STREAM_INFO, timeout=_TIMEOUT_S)).data)["state"]
    return Backlog(waiting, max(0.0, (utc_now() - datetime.fromisoformat(state["first_ts"])).total_seconds()))
