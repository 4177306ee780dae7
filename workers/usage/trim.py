"""Removes from LLM_USAGE what is booked: many records with one call, instead of one deletion for each ack.

A work queue would delete at each ack, with a synced write on a durable server: three times slower (measured in
benchmarks/ledger.py). What is above the consumer's ack floor is never touched, so nothing leaves before it is booked.
"""

import asyncio
import logging

import nats.errors
import nats.js.errors
from nats.aio.client import Client as Nats

from contracts import streams

log = logging.getLogger(__name__)

EVERY_S = 30.0


async def keep_trimmed(client: Nats, *, every_s: float = EVERY_S) -> None:
    """Runs for ever; several consumers may do it at once."""
    trimmed_to = 0
    while True:
        await asyncio.sleep(every_s)
        try:
            trimmed_to = await trim(client, above=trimmed_to)
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as exc:
            log.warning("usage_trim_failed", extra={"error": type(exc).__name__})


async def trim(client: Nats, *, above: int = 0) -> int:
    """Removes what is booked, if that is more than up to `above`. Returns the stream sequence up to which it is."""
    jetstream = client.jetstream()
    consumer = await jetstream.consumer_info(streams.USAGE, streams.USAGE_CONSUMER)
    booked_to = consumer.ack_floor.stream_seq if consumer.ack_floor else 0
    if booked_to > above:
        await jetstream.purge_stream(streams.USAGE, seq=booked_to + 1)
    return max(booked_to, above)
