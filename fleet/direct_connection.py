"""nats-py's client, but messages of some subjects are taken where they are read."""

import asyncio
import json
from collections.abc import Callable, Mapping
from itertools import count

from nats.aio.msg import Msg
from nats.js.api import PubAck
from nats.js.errors import APIError, Error, NoStreamResponseError

from contracts.nats_connect import Connection

Take = Callable[[bytes, bytes], None]
"""Takes a message: its subject and what it says. It waits for nothing."""


class DirectConnection(Connection):
    """nats-py puts each message into a queue, and wakes a task that takes it out; for a message as small as an event
    that costs as much as all else that becomes of it."""

    def __init__(self) -> None:
        super().__init__()
        self._takes: dict[int, Take] = {}
        self._acks_inbox = ""
        self._awaited: dict[bytes, asyncio.Future[PubAck]] = {}
        """By the last token of the subject that JetStream answers to."""
        self._tokens = count(1)

    async def listen(self, subject: str, take: Take) -> None:
        """Calls `take` with each message on the subject, as long as the connection is used. What it raises goes to
        `error_cb`."""

        async def take_queued(msg: Msg) -> None:
            take(msg.subject.encode(), msg.data)

        # What nats-py calls where it does not call `_process_msg`, and for what arrives before the next line.
        subscription = await self.subscribe(subject, cb=take_queued)
        self._takes[subscription._id] = take  # pyright: ignore[reportPrivateUsage]

    async def listen_for_acks(self) -> None:
        """Once, before the first `publish_to_stream`."""
        self._acks_inbox = self.new_inbox()
        await self.listen(f"{self._acks_inbox}.*", self._take_ack)

    async def publish_to_stream(
        self, subject: str, payload: bytes, *, headers: Mapping[str, str]
    ) -> asyncio.Future[PubAck]:
        """Publishes, and returns JetStream's answer that is to come, if it ever comes: cancel it to wait no longer.

        The answer raises nats.js.errors.APIError, and NoStreamResponseError where no stream takes the subject. Raises
        nats.errors.Error.
        """
        token = str(next(self._tokens))
        answer: asyncio.Future[PubAck] = asyncio.get_running_loop().create_future()
        self._awaited[token.encode()] = answer
        answer.add_done_callback(lambda _: self._awaited.pop(token.encode(), None))
        try:
            await self.publish(subject, payload, reply=f"{self._acks_inbox}.{token}", headers=dict(headers))
        except BaseException:
            answer.cancel()
            raise
        return answer

    def _take_ack(self, subject: bytes, data: bytes) -> None:
        answer = self._awaited.get(subject.rpartition(b".")[2])
        if answer is None or answer.done():
            return
        try:
            answer.set_result(_ack(data))
        except Error as exc:
            answer.set_exception(exc)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        if (take := self._takes.get(sid)) is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        try:
            take(subject, data)
        except Exception as exc:  # noqa: BLE001 - as nats-py treats what a callback raises
            await self._error_cb(exc)


def _ack(data: bytes) -> PubAck:
    """What JetStream has confirmed. Raises what it refuses, and NoStreamResponseError for the server's empty message
    that nobody listens."""
    if not data:
        raise NoStreamResponseError
    said = json.loads(data)
    if "error" in said:
        raise APIError.from_error(said["error"])
    return PubAck.from_response(said)
