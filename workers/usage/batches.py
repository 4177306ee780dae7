"""Batches of messages from one JetStream consumer, over the pull protocol of runtime/jetstream/pull.py."""

import asyncio
import logging
from collections.abc import AsyncGenerator

import nats.errors
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from runtime.jetstream.pull import Pull, PullEnd
from workers.clock import Clock

log = logging.getLogger(__name__)

GRACE_S = 2.0
"""How much later than asked for a server may say that there is no more; and the pause after it refused."""
_NOTHING_MORE = {"404", "408"}
"""Statuses of a pull that brought what there was."""


class Batches:
    """Asks for `size` messages at a time, and waits at most `collect_s` for a batch to be full."""

    def __init__(
        self,
        client: Nats,
        *,
        stream: str,
        consumer: str,
        size: int,
        collect_s: float,
        clock: Clock,
        grace_s: float = GRACE_S,
    ) -> None:
        self._client = client
        self._consumer = consumer
        self._size = size
        self._collect_s = collect_s
        self._grace_s = grace_s
        self._clock = clock
        self._pull = Pull(
            client,
            stream=stream,
            consumer=consumer,
            on_message=self._receive,
            on_end=self._end,
            monotonic=clock.monotonic,
        )
        self._arrived: list[Msg] = []
        self._complete = asyncio.Event()
        """Set when nothing more will come of what was asked for."""
        self._refusal = ""
        self._stopping = False

    async def open(self) -> None:
        """Listens for batches; `pulled` asks for them."""
        await self._pull.open()

    async def close(self) -> None:
        """Listens no more; what still comes of earlier pulls is redelivered."""
        await self._pull.close()

    def stop(self) -> None:
        """Asks for no more. What was asked for before is still handed over."""
        self._stopping = True

    async def pulled(self) -> AsyncGenerator[list[Msg]]:
        """Each batch, at least one message long. Ends after `stop`, when nothing is left to be handed over.

        After a full batch the next one is asked for at once, and comes while the caller works on this one.
        """
        while True:
            if not self._arrived and not self._pull.asked:
                if self._stopping:
                    return
                await self._ask()
            await self._until_complete()
            batch, self._arrived = self._arrived[: self._size], self._arrived[self._size :]
            if len(batch) == self._size and not self._arrived and not self._pull.asked and not self._stopping:
                await self._ask()
            if batch:
                yield batch

    async def _ask(self) -> None:
        self._complete.clear()
        if not self._client.is_connected:
            # nats-py would keep what is asked meanwhile, and send all of it when the connection is back.
            await self._clock.sleep(self._collect_s)
            self._complete.set()
            return
        try:
            await self._pull.ask(self._size, expires_s=self._collect_s)
        except nats.errors.Error as exc:
            self._pull.forget()
            self._refusal = type(exc).__name__
            self._complete.set()

    async def _until_complete(self) -> None:
        """Waits until what was asked for has come, or the server says that there is no more, or says nothing."""
        if len(self._arrived) < self._size:
            try:
                async with asyncio.timeout(self._collect_s + self._grace_s):
                    await self._complete.wait()
            except TimeoutError:
                self._pull.forget()
        if self._refusal and not self._arrived:
            log.warning("pull_refused", extra={"consumer": self._consumer, "reason": self._refusal})
            await self._clock.sleep(self._grace_s)
        self._refusal = ""

    async def _receive(self, message: Msg) -> None:
        self._arrived.append(message)
        if not self._pull.asked:
            self._complete.set()

    async def _end(self, end: PullEnd) -> None:
        if end.status not in _NOTHING_MORE:
            self._refusal = f"{end.status} {end.description}"
        if not self._pull.asked:
            self._complete.set()
