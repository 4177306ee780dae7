"""Pulling from a JetStream consumer: asking for as many messages as there is room for, and counting what comes.

nats-py's `fetch` waits for a batch; this pull never waits. Whoever owns it asks for messages when it has room, gets
each by a callback, and learns by another one when a pull has ended before all that was asked for came. Above it,
single messages (workers/intake/puller.py) and batches are equally easy.

Source of the protocol: nats-server's JetStream API, `$JS.API.CONSUMER.MSG.NEXT.<stream>.<consumer>`, seen on 2.15.1.
A message has a reply subject, to which it is acked; what the server itself says has none, and a status:

| status | meaning | ends the pull |
|---|---|---|
| 100 | idle heartbeat: the server still holds the pull | no |
| 404 | there are no messages | yes |
| 408 | the pull has expired | yes |
| 409 | the consumer was deleted, has too many pulls, or the next message would exceed `max_bytes` | yes |
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from nats.aio.client import Client as Nats
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

IDLE_HEARTBEAT_S = 1.0
"""How often a server that has nothing to send says that it still holds the pull."""
SILENT_S = 2 * IDLE_HEARTBEAT_S
"""A server that was not heard for this long has lost what it was asked, as a cluster does that elects a leader."""
EXPIRES_S = 30.0
MAX_BYTES = 64 * 1024 * 1024
"""The most that one pull brings, so that a queue of the largest messages cannot fill the memory."""
LARGEST_MESSAGE = 8 * 1024 * 1024 + 64 * 1024
"""With its subjects, by which the server counts it. A pull for less would end before such a message, and so would the
next one."""

_IDLE_HEARTBEAT = "100"
_ACK_TOKENS, _ACK_TOKENS_OF_DOMAINS = 9, 11


def nanoseconds(seconds: float) -> int:
    """A duration as the JetStream API writes it."""
    return int(seconds * 1_000_000_000)


class Delivered(NamedTuple):
    """What the server says of a message that it delivers."""

    stream_seq: int
    deliveries: int
    """1 the first time."""
    stored_at: datetime


def delivered(ack_subject: str) -> Delivered:
    """Read from where the message is acked (ADR-15), in both of its forms:

    `$JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<nanoseconds>.<pending>`, and the same with
    `<domain>.<account>` before the stream and further tokens at the end. Raises ValueError for anything else.
    """
    tokens = ack_subject.split(".")
    if tokens[:2] != ["$JS", "ACK"] or (len(tokens) != _ACK_TOKENS and len(tokens) < _ACK_TOKENS_OF_DOMAINS):
        raise ValueError(f"not where a message is acked: {ack_subject[:200]!r}")
    first = 4 if len(tokens) == _ACK_TOKENS else 6
    deliveries, stream_seq, _, nanoseconds = map(int, tokens[first : first + 4])
    return Delivered(stream_seq, deliveries, datetime.fromtimestamp(nanoseconds / 1e9, UTC))


@dataclass(slots=True)
class Credit:
    """What was asked of a server and has not come yet, and when the server was last heard. Times are monotonic."""

    asked: int = 0
    _heard_at: float = 0.0

    def ask(self, count: int, *, now: float) -> None:
        """`count` more messages are asked for."""
        if not self.asked:  # it had nothing to say before
            self._heard_at = now
        self.asked += count

    def hear(self, *, now: float) -> None:
        """The server has said something else."""
        self._heard_at = now

    def receive(self, *, now: float) -> None:
        """A message has come. It may be one more than was asked for, of a pull that was given up."""
        self._heard_at = now
        if self.asked:
            self.asked -= 1

    def end(self, *, unserved: int | None) -> None:
        """A pull has ended. `unserved`: how much of it will not come; None: nothing that was asked for will."""
        self.asked = 0 if unserved is None else max(0, self.asked - unserved)

    def is_lost(self, *, now: float) -> bool:
        """Whether messages are due from a server that has been silent for too long."""
        return self.asked > 0 and now - self._heard_at > SILENT_S


@dataclass(frozen=True, slots=True)
class PullEnd:
    """The server ends a pull before everything that was asked for has come."""

    status: str
    description: str
    unserved: int | None
    """How many messages of the pull are not served; None: the server does not say."""


class Pull:
    """The pulls from one durable consumer, which arrive at an inbox of their own."""

    def __init__(
        self,
        client: Nats,
        *,
        stream: str,
        consumer: str,
        on_message: Callable[[Msg], Awaitable[None]],
        on_end: Callable[[PullEnd], Awaitable[None]],
        monotonic: Callable[[], float],
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """`max_bytes` is the most that one pull brings, LARGEST_MESSAGE at least."""
        self._client = client
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._on_message = on_message
        self._on_end = on_end
        self._monotonic = monotonic
        self._max_bytes = max_bytes
        self._credit = Credit()
        self._inbox = ""
        self._subscription: Subscription | None = None

    @property
    def asked(self) -> int:
        """How many messages the server may still send."""
        return self._credit.asked

    async def open(self) -> None:
        """Listens for what will be asked for."""
        self._inbox = self._client.new_inbox()
        self._subscription = await self._client.subscribe(self._inbox, cb=self._receive)

    async def close(self) -> None:
        """Listens no more; what still comes of earlier pulls is redelivered."""
        if self._subscription is not None and not self._client.is_closed:
            await self._subscription.unsubscribe()

    async def ask(self, count: int, *, expires_s: float = EXPIRES_S) -> None:
        """Asks for `count` more messages; after `expires_s` the server ends the pull. Raises nats.errors.Error."""
        self._credit.ask(count, now=self._monotonic())
        question = {"batch": count, "max_bytes": self._max_bytes, "expires": nanoseconds(expires_s)}
        if expires_s >= 2 * IDLE_HEARTBEAT_S:  # else the server refuses the pull
            question["idle_heartbeat"] = nanoseconds(IDLE_HEARTBEAT_S)
        await self._client.publish(self._subject, json.dumps(question).encode(), reply=self._inbox)

    def forget(self) -> None:
        """Expects nothing more of what was asked before, as after a reconnect."""
        self._credit.end(unserved=None)

    def forget_if_lost(self) -> bool:
        """Gives up what was asked of a server that fell silent, and says whether that was so."""
        lost = self._credit.is_lost(now=self._monotonic())
        if lost:
            self.forget()
        return lost

    async def _receive(self, msg: Msg) -> None:
        now = self._monotonic()
        if msg.reply:  # and not by its status: the headers of a message are its sender's, and may have one, too
            self._credit.receive(now=now)
            await self._on_message(msg)
            return
        self._credit.hear(now=now)
        headers = msg.headers or {}
        status = headers.get("Status", "")
        if status == _IDLE_HEARTBEAT:
            return
        pending = headers.get("Nats-Pending-Messages")
        end = PullEnd(status, headers.get("Description", ""), None if pending is None else int(pending))
        self._credit.end(unserved=end.unserved)
        await self._on_end(end)
