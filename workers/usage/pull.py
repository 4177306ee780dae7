"""Where FastStream's batch subscriber gets its batches: a JetStream consumer that exists, asked by us.

nats-py's own `fetch` makes a task for each message, and its bare TimeoutError, which FastStream does not expect, throws
away what a batch had so far: those records would wait for `ack_wait`. This one answers with what has come, and can be
told to ask for no more, so that a role that stops holds nothing.

Source of the protocol: nats-server's JetStream API, `$JS.API.CONSUMER.MSG.NEXT`.
"""

import asyncio
import json
import logging
import time
from typing import Any

import nats.errors
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext

log = logging.getLogger(__name__)

_MAX_BYTES = 64 * 1024 * 1024
_GRACE_S = 2.0
"""How much later than asked for a server may say that there is no more."""
_HEARTBEAT = "100"
_EXPIRED = {"408", "404"}
_NS = 1_000_000_000


class Pull:
    """Pulls from one consumer, one request at a time."""

    def __init__(self, client: Nats, *, stream: str, consumer: str, inbox: str, batch_size: int) -> None:
        self._client = client
        self._ask_on = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._inbox = inbox
        self._batch_size = batch_size
        self._subscription: Subscription | None = None
        self._arrived: list[Msg] = []
        self._asked = 0
        """What the server may still send."""
        self._answered = asyncio.Event()
        self._gives_up_at = 0.0
        self._refused = ""
        self._closing = False
        self._drained = asyncio.Event()

    async def open(self) -> None:
        self._subscription = await self._client.subscribe(self._inbox, cb=self._receive)

    async def unsubscribe(self) -> None:
        if self._subscription is not None and not self._client.is_closed:
            await self._subscription.unsubscribe()

    async def drain(self) -> None:
        """Asks for no more, and returns when everything that came was taken and worked on."""
        self._closing = True
        await self._drained.wait()

    async def fetch(self, batch: int, timeout: float) -> list[Msg]:
        """Up to `batch` messages; raises nats.errors.TimeoutError when none came in time.

        After a full batch the next one is asked for at once, and comes while this one is worked on.
        """
        if not self._arrived and not self._asked:
            if self._closing:
                await self._take_leave(batch, timeout)
            await self._ask(batch, timeout)
        if len(self._arrived) < batch:
            await self._wait()
        messages, self._arrived = self._arrived[:batch], self._arrived[batch:]
        if not messages:
            raise nats.errors.TimeoutError
        if len(messages) == self._batch_size and not self._arrived and not self._asked and not self._closing:
            await self._ask(self._batch_size, timeout)
        return messages

    async def _take_leave(self, batch: int, timeout: float) -> None:
        # FastStream asks for a whole batch only when it holds none.
        if batch == self._batch_size:
            self._drained.set()
            await asyncio.sleep(timeout)
        raise nats.errors.TimeoutError

    async def _ask(self, batch: int, timeout: float) -> None:
        question = {"batch": batch, "expires": int(timeout * _NS), "max_bytes": _MAX_BYTES}
        self._asked = batch
        self._answered.clear()
        self._gives_up_at = time.monotonic() + timeout + _GRACE_S
        try:
            await self._client.publish(self._ask_on, json.dumps(question).encode(), reply=self._inbox)
        except nats.errors.Error as exc:
            self._end(type(exc).__name__)

    async def _wait(self) -> None:
        """Until what was asked for has come, or the server says that there is no more."""
        try:
            async with asyncio.timeout(max(0.0, self._gives_up_at - time.monotonic())):
                await self._answered.wait()
        except TimeoutError:
            self._end()
        if self._refused and not self._arrived:
            log.warning("pull_refused", extra={"consumer": self._ask_on, "reason": self._refused})
            await asyncio.sleep(_GRACE_S)
        self._refused = ""

    async def _receive(self, message: Msg) -> None:
        status = message.headers.get("Status") if message.headers and not message.data else None
        if status == _HEARTBEAT:
            return
        if status is not None:
            self._end("" if status in _EXPIRED else f"{status} {(message.headers or {}).get('Description', '')}")
            return
        self._arrived.append(message)
        self._asked = max(0, self._asked - 1)
        if not self._asked:
            self._end()

    def _end(self, refused: str = "") -> None:
        self._asked = 0
        self._refused = refused
        self._answered.set()


class PullingJetStream(JetStreamContext):
    """Binds FastStream to `Pull`; creates no stream and no consumer."""

    def __init__(self, client: Nats, pull: Pull) -> None:
        super().__init__(client)
        self._pull = pull

    async def pull_subscribe(self, *_: Any, **__: Any) -> Any:
        await self._pull.open()
        return self._pull
