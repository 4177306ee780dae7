"""What a server answers to what is published with a reply subject: PubAcks, totals of counters.

nats-py's own request makes a random name, a task's timeout and a table entry with a callback for each message. Here all
answers come to one inbox, each is known by a number, and one timer gives up all that are due.
"""

import asyncio

import nats.errors
from nats.aio.client import NO_RESPONDERS_STATUS
from nats.aio.msg import Msg
from nats.js.api import Header

from runtime.broker import Broker


class Answers:
    """Asks, and waits for the answer. Listens from the first question on."""

    def __init__(self, broker: Broker, *, within_s: float) -> None:
        """`within_s` bounds each wait for an answer."""
        self._broker = broker
        self._within_s = within_s
        self._subscribing: asyncio.Task[str] | None = None
        self._inbox = ""
        self._number = 0
        self._waiting: dict[str, tuple[asyncio.Future[Msg | None], float]] = {}
        """What is waited for, by the subject of its answer, and until when; the one that is due first stands first."""
        self._timer: asyncio.TimerHandle | None = None

    async def ask(self, subject: str, payload: bytes, headers: dict[str, str]) -> bytes:
        """The answer's payload. Raises what `begin` and `wait` raise."""
        return await self.wait(await self.begin(subject, payload, headers))

    async def begin(self, subject: str, payload: bytes, headers: dict[str, str]) -> asyncio.Future[Msg | None]:
        """Asks, and returns what `wait` is to wait for, so that several can be asked before one is waited for.

        Raises what nats-py raises for a connection that is closed.
        """
        inbox = self._inbox or await self._listen()
        self._number += 1
        reply = f"{inbox}.{self._number}"
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Msg | None] = loop.create_future()
        self._waiting[reply] = answer, loop.time() + self._within_s
        if self._timer is None:
            self._timer = loop.call_later(self._within_s, self._give_up)
        try:
            await self._broker.client.publish(subject, payload, reply=reply, headers=headers)
        except BaseException:
            self._waiting.pop(reply, None)
            raise
        return answer

    @staticmethod
    async def wait(answer: asyncio.Future[Msg | None]) -> bytes:
        """The answer's payload. Raises nats.errors.NoRespondersError where nobody answers, and TimeoutError when it
        did not come in time."""
        told = await answer
        if told is None:
            raise nats.errors.TimeoutError
        if told.headers and told.headers.get(Header.STATUS) == NO_RESPONDERS_STATUS:
            raise nats.errors.NoRespondersError
        return told.data

    async def _listen(self) -> str:
        """Subscribes once, however many are the first to ask."""
        subscribing = self._subscribing
        if subscribing is None:
            subscribing = self._subscribing = asyncio.create_task(self._subscribe(), name="listen for answers")
        try:
            return await asyncio.shield(subscribing)
        finally:
            if subscribing.done() and not self._inbox:
                self._subscribing = None

    async def _subscribe(self) -> str:
        inbox = self._broker.client.new_inbox()
        await self._broker.client.subscribe(f"{inbox}.*", cb=self._take)
        self._inbox = inbox
        return inbox

    async def _take(self, msg: Msg) -> None:
        if (waiting := self._waiting.pop(msg.subject, None)) is not None and not waiting[0].done():
            waiting[0].set_result(msg)

    def _give_up(self) -> None:
        """Gives up what is due, and looks again when the next one is."""
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._waiting:
            reply, (answer, due) = next(iter(self._waiting.items()))
            if due > loop.time():
                self._timer = loop.call_at(due, self._give_up)
                return
            del self._waiting[reply]
            if not answer.done():
                answer.set_result(None)
