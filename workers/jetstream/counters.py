"""Counters that the whole fleet shares: the stream `LLM_LIMITS` adds, and its PubAck says the total.

Source of the protocol: nats-server 2.12, ADR-49. An increment of 0 reads a counter in the order of its leader, which
a direct get from a replica would not.
"""

import asyncio
from typing import Any

import nats.errors
from nats.aio.msg import Msg
from pydantic_core import from_json

from contracts.control import MSG_ID
from runtime.broker import Broker
from runtime.jetstream.answers import Answers

INCREMENT = "Nats-Incr"


class Unanswered(Exception):
    """The stream is not there, refused, or was too slow; whether it has counted is not known."""


class Counters:
    def __init__(self, broker: Broker, *, within_s: float) -> None:
        """`within_s` bounds each wait for an answer."""
        self._broker = broker
        self._answers = Answers(broker, within_s=within_s)

    async def add(self, subject: str, amount: int, *, msg_id: str) -> int | None:
        """The total with this. None: in the last minutes this was counted already, under the same `msg_id` and
        whatever subject. Raises Unanswered."""
        return await (await self.begin(subject, amount, msg_id=msg_id)).total()

    async def read(self, subject: str) -> int:
        """Raises Unanswered."""
        total = await (await self.begin(subject, 0)).total()
        if total is None:
            raise Unanswered(f"{subject}: a read without an id was taken for another one")
        return total

    async def begin(self, subject: str, amount: int, *, msg_id: str | None = None) -> "Asked":
        """As `add`, and as `read` with 0 and no `msg_id`, but it does not wait for the total. Raises Unanswered."""
        headers = {INCREMENT: str(amount)} if msg_id is None else {INCREMENT: str(amount), MSG_ID: msg_id}
        try:
            return Asked(subject, await self._answers.begin(subject, b"", headers))
        except nats.errors.Error as exc:
            raise Unanswered(f"{subject}: {type(exc).__name__}") from exc

    async def post(self, subject: str, amount: int, *, msg_id: str) -> None:
        """Adds without waiting. Raises Unanswered when it cannot even be sent."""
        try:
            await self._broker.client.publish(subject, headers={INCREMENT: str(amount), MSG_ID: msg_id})
        except nats.errors.Error as exc:
            raise Unanswered(f"{subject}: {type(exc).__name__}") from exc


class Asked:
    """A counter that was asked."""

    def __init__(self, subject: str, answer: asyncio.Future[Msg | None]) -> None:
        self._subject = subject
        self._answer = answer

    async def total(self) -> int | None:
        """None: it had counted this already. Raises Unanswered."""
        try:
            told: dict[str, Any] = from_json(await Answers.wait(self._answer))
        except nats.errors.Error as exc:
            raise Unanswered(f"{self._subject}: {type(exc).__name__}") from exc
        if error := told.get("error"):
            raise Unanswered(f"{self._subject}: {error.get('description')}")
        return None if told.get("duplicate") else int(told["val"])
