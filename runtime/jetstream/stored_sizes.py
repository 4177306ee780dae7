"""How large stored messages are, without their bodies: each is read once, by a consumer that is given headers only."""

import asyncio
import json
import secrets
from dataclasses import dataclass

from nats.aio.msg import Msg

from contracts.streams import JetStreamError
from runtime.broker import Broker, message_bytes
from runtime.jetstream.pull import delivered, nanoseconds

_ANSWER_S = 5.0
_UNUSED_S = 5.0
"""The server ends a consumer that nobody pulled from for so long."""
_SIZE = "Nats-Msg-Size"
_AROUND_A_MESSAGE = 34
"""What a file stream counts for a message besides subject, headers and body (nats-server 2.15)."""


@dataclass(frozen=True, slots=True)
class StoredSize:
    """A stored message, as far as its stream counts it."""

    subject: str
    sequence: int
    size: int
    """Bytes that the stream counts for it, to some 40 bytes."""


async def stored_sizes(broker: Broker, *, stream: str, first_seq: int, count: int) -> list[StoredSize]:
    """Up to `count` messages of a file stream that retains by limits, from a sequence on, oldest first; fewer when
    there are no more.

    The server reads each of them from its disk. Raises JetStreamError, nats.errors.Error and TimeoutError.
    """
    name = secrets.token_hex(8)
    await _make_consumer(broker, stream, name, first_seq=first_seq)
    answers: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = broker.client.new_inbox()
    subscription = await broker.client.subscribe(inbox, cb=answers.put)
    found: list[StoredSize] = []
    try:
        ask = json.dumps({"batch": count, "no_wait": True}).encode()
        await broker.client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}", ask, reply=inbox)
        while len(found) < count:
            async with asyncio.timeout(_ANSWER_S):
                msg = await answers.get()
            if not msg.reply:  # the server says that there are no more
                break
            headers = msg.headers or {}
            size = int(headers[_SIZE]) + message_bytes(b"", headers) + len(msg.subject) + _AROUND_A_MESSAGE
            found.append(StoredSize(msg.subject, delivered(msg.reply).stream_seq, size))
    finally:
        await subscription.unsubscribe()
    return found


async def _make_consumer(broker: Broker, stream: str, name: str, *, first_seq: int) -> None:
    config = {
        "name": name,
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": first_seq,
        "ack_policy": "none",
        "headers_only": True,
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": nanoseconds(_UNUSED_S),
    }
    subject = f"$JS.API.CONSUMER.CREATE.{stream}.{name}"
    answer = await broker.request(subject, json.dumps({"stream_name": stream, "config": config}).encode())
    if error := json.loads(answer).get("error"):
        raise JetStreamError(subject, error)
