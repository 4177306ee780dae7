"""Reading stored messages back, without a consumer.

Uses JetStream's batched direct get (nats-server 2.11, ADR-31): one request, many answers, ended by status 204.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import datetime

import nats.errors
from nats.aio.msg import Msg

from runtime.broker import Broker, message_bytes

_BATCH, _BATCH_BYTES = 1000, 8 * 1024**2
"""The most that one question brings; a message that exceeds the bytes is still sent."""
_ANSWER_TIMEOUT_S = 5.0
_NO_RESPONDERS = "503"


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as the stream holds it, without its headers."""

    subject: str
    data: bytes
    sequence: int
    stored_at: datetime


async def last(broker: Broker, *, stream: str, subject: str) -> bytes | None:
    """The last stored message of a subject; None when there is none. Raises nats.errors.Error."""
    answer = await broker.client.request(f"$JS.API.DIRECT.GET.{stream}.{subject}", timeout=_ANSWER_TIMEOUT_S)
    return answer.data if "Nats-Sequence" in (answer.headers or {}) else None


@dataclass(frozen=True, slots=True)
class Sample:
    """One of the messages of a subject."""

    sequence: int
    size: int
    """Bytes of its body and headers."""
    after: int
    """How many messages of the subject come after it."""


async def samples(
    broker: Broker, *, stream: str, subject: str, first_seq: int, count: int, max_bytes: int
) -> list[Sample]:
    """Up to `count` messages of a subject in a row, from a place in the stream on; none when no more come after it.

    Ends early with the message by which they have `max_bytes`.

    Raises TimeoutError when the server does not answer, and NoRespondersError when nobody serves the stream.
    """
    found: list[Sample] = []
    inbox = broker.client.new_inbox()
    subscription = await broker.client.subscribe(inbox)
    try:
        ask = {"seq": first_seq, "next_by_subj": subject, "batch": count, "max_bytes": max_bytes}
        await broker.client.publish(f"$JS.API.DIRECT.GET.{stream}", json.dumps(ask).encode(), reply=inbox)
        while True:
            msg = await subscription.next_msg(timeout=_ANSWER_TIMEOUT_S)
            headers = msg.headers or {}
            if _is_the_end(headers):
                return found
            size = message_bytes(msg.data, headers)
            found.append(Sample(int(headers["Nats-Sequence"]), size, int(headers["Nats-Num-Pending"])))
    finally:
        await subscription.unsubscribe()


async def messages(broker: Broker, *, stream: str, subject: str) -> AsyncGenerator[StoredMessage]:
    """Every stored message of a subject, which may have wildcards, oldest first.

    Raises TimeoutError when the server does not answer, and NoRespondersError when nobody serves the stream.
    """
    answers: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = broker.client.new_inbox()
    subscription = await broker.client.subscribe(inbox, cb=answers.put)
    try:
        next_seq = 1
        while True:
            ask = {"seq": next_seq, "next_by_subj": subject, "batch": _BATCH, "max_bytes": _BATCH_BYTES}
            await broker.client.publish(f"$JS.API.DIRECT.GET.{stream}", json.dumps(ask).encode(), reply=inbox)
            while True:
                async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                    msg = await answers.get()
                headers = msg.headers or {}
                if _is_the_end(headers):
                    break
                sequence = int(headers["Nats-Sequence"])
                next_seq = sequence + 1
                stored_at = datetime.fromisoformat(headers["Nats-Time-Stamp"])
                yield StoredMessage(headers["Nats-Subject"], msg.data, sequence, stored_at)
            if headers.get("Status") != "204" or headers.get("Nats-Num-Pending", "0") == "0":
                return
    finally:
        await subscription.unsubscribe()


def _is_the_end(headers: Mapping[str, str]) -> bool:
    """Whether this is no stored message, but what the server says after the last one.

    A status, and a first line of the server's that is lost, may be the work of who has written the stored message; so
    it is told by a later line. Raises NoRespondersError when nobody serves the stream.
    """
    if "Nats-Sequence" in headers:
        return False
    if headers.get("Status") == _NO_RESPONDERS:
        raise nats.errors.NoRespondersError
    return True
