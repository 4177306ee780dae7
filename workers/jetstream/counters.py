"""Counters that the whole fleet shares: the stream `LLM_LIMITS` adds, and its PubAck says the total.

Source of the protocol: nats-server 2.12, ADR-49. An increment of 0 reads a counter in the order of its leader, which
a direct get from a replica would not.
"""

import json
from typing import Any

import nats.errors

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
        answer = await self._ask(subject, {INCREMENT: str(amount), MSG_ID: msg_id})
        return None if answer.get("duplicate") else int(answer["val"])

    async def read(self, subject: str) -> int:
        """Raises Unanswered."""
        return int((await self._ask(subject, {INCREMENT: "0"}))["val"])

    async def post(self, subject: str, amount: int, *, msg_id: str) -> None:
        """Adds without waiting. Raises Unanswered when it cannot even be sent."""
        try:
            await self._broker.client.publish(subject, headers={INCREMENT: str(amount), MSG_ID: msg_id})
        except nats.errors.Error as exc:
            raise Unanswered(f"{subject}: {type(exc).__name__}") from exc

    async def _ask(self, subject: str, headers: dict[str, str]) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(await self._answers.ask(subject, b"", headers))
        except nats.errors.Error as exc:
            raise Unanswered(f"{subject}: {type(exc).__name__}") from exc
        if error := found.get("error"):
            raise Unanswered(f"{subject}: {error.get('description')}")
        return found
