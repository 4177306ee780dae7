"""The ends of requests as `LLM_RESULTS` keeps them."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import nats.errors
from nats.aio.client import NO_RESPONDERS_STATUS
from nats.aio.msg import Msg
from nats.js.api import Header

from contracts import results, streams
from contracts.events import Terminal, parse
from contracts.wire import reason
from runtime.broker import Broker
from runtime.jetstream.publishing import NotStored

ANSWER_S = 5.0
_SEQUENCE = "Nats-Sequence"


@dataclass(frozen=True, slots=True)
class Result:
    """The end of a request."""

    event: Terminal
    said: bytes
    """The event as its agent heard it."""
    sequence: int
    """The place of its message in the stream."""
    origin: str
    """Names the message of the agent that it is the end of."""
    digests: Mapping[str, str]
    """Of that request's fields."""


def question(subject: str) -> str:
    """The subject that is asked for the result on `subject`."""
    return f"$JS.API.DIRECT.GET.{streams.RESULTS}.{subject}"


def from_answer(answer: Msg) -> Result | None:
    """What the server answers to such a question; None when it has nothing there.

    Raises NoRespondersError where nobody serves the stream, and ValueError for what is no terminal event.
    """
    headers = answer.headers or {}
    if _SEQUENCE not in headers:
        if headers.get(Header.STATUS) == NO_RESPONDERS_STATUS:
            raise nats.errors.NoRespondersError
        return None
    return Result(
        terminal(answer.data),
        answer.data,
        sequence=int(headers[_SEQUENCE]),
        origin=headers.get(results.ORIGIN, ""),
        digests=results.read(headers.get(results.FIELDS, "")),
    )


def terminal(said: bytes) -> Terminal:
    """Raises ValueError for what is no terminal event."""
    event = parse(said)
    if not isinstance(event, Terminal):
        raise ValueError(f"the event {event.type} ends no request")
    return event


async def read(broker: Broker, subject: str) -> Result | None:
    """The result on a subject; None when there is none. Raises nats.errors.Error and TimeoutError."""
    return from_answer(await broker.client.request(question(subject), timeout=ANSWER_S))


class Look:
    """A question for a result that is under way."""

    def __init__(self, answer: asyncio.Future[Msg | None]) -> None:
        self._answer = answer

    async def found(self) -> Result | None:
        """The result; None when there is none. Raises NotStored when it cannot be known."""
        try:
            answer = await asyncio.shield(self._answer)
            if answer is None:
                raise nats.errors.TimeoutError
            return from_answer(answer)
        except nats.errors.Error as exc:
            raise NotStored(f"the result cannot be read: {reason(exc)}") from exc
