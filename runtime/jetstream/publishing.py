"""Publishing what must not be lost: acknowledged by JetStream, repeated with the same message id until it is."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from random import random
from typing import Any

import nats.errors
import nats.js.errors
from pydantic_core import from_json

from contracts import jetstream_codes, subjects
from contracts.control import EXPECTED_SUBJECT_SEQUENCE, MSG_ID
from runtime.backoff import exponential_s
from runtime.broker import Broker
from runtime.jetstream.answers import Answers
from runtime.jetstream.storage import Storage

log = logging.getLogger(__name__)

_ACK_TIMEOUT_S = 2.0
_TRIES, _TRIES_IF_FULL = 20, 3
_REQUESTS = subjects.REQUESTS.removesuffix(">")
_BACKOFF_FIRST_S, _BACKOFF_MAX_S = 0.2, 1.0
_BUSY_FIRST_S = 0.01
"""While others flood the stream, room is found by asking often."""
_NOT_STORED = b"NATS/1.0\r\nNats-Expected-Stream: none\r\n\r\n"

_PASSING = (nats.errors.TimeoutError, nats.errors.NoRespondersError, nats.js.errors.ServiceUnavailableError)


class NotStored(Exception):
    """JetStream did not confirm in time; what depends on it must be done again."""


class SubjectFull(NotStored):
    """The stream has no room for the message; of a queue: it holds as many of the tenant's requests as it may."""


class Outrun(Exception):
    """The subject's last message is not the one that was expected: somebody else has published there."""


class TooLarge(Exception):
    """More than the broker takes in one message (sent all the same, it would cost us the connection), or the stream."""


class Publisher:
    """Publishes events, which may be lost with a connection, and durable messages, which may not."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._answers = Answers(broker, within_s=_ACK_TIMEOUT_S)
        self.storage = Storage()
        broker.on_reconnect.append(self.storage.forget)

    async def event(self, subject: str, payload: bytes, *, spare: int = 0) -> None:
        """Core publish: the live reader gets it at once, `LLM_REPLIES` keeps it. Raises TooLarge for more than a
        message can hold beside `spare` bytes."""
        if len(payload) + spare > self._broker.client.max_payload:
            raise TooLarge(subject)
        self.delta(subject, payload, soon=True)

    def delta(self, subject: str, payload: bytes, *, soon: bool) -> None:
        """The same, without waiting. Not `soon`: it may leave some milliseconds later, with others."""
        if len(payload) > self._broker.client.max_payload:
            raise TooLarge(subject)
        self._broker.say(subject, payload, soon=soon)

    def pass_on(self, subject: str, payload: bytes) -> None:
        """To whoever listens, and stored by nobody: the stream refuses what is meant for another one. Raises
        TooLarge."""
        if len(_NOT_STORED) + len(payload) > self._broker.client.max_payload:
            raise TooLarge(subject)
        self._broker.say(subject, payload, header=_NOT_STORED)

    async def durable(
        self,
        subject: str,
        payload: bytes,
        *,
        msg_id: str,
        headers: dict[str, str] | None = None,
        check: Callable[[], None] | None = None,
        expected_last: int | None = None,
    ) -> int:
        """Returns its sequence when it is stored. Raises NotStored, SubjectFull, TooLarge, and what `check` raises
        before a try.

        A cluster that elects a leader answers 503 or nothing for seconds; the message id makes repeating harmless.
        `expected_last` is the sequence of the subject's last message, 0 for none: with another one it raises Outrun,
        also when it repeats what was stored without its knowledge.
        """
        headers = {**(headers or {}), MSG_ID: msg_id}
        if expected_last is not None:
            headers[EXPECTED_SUBJECT_SEQUENCE] = str(expected_last)
        if wire_size(payload, headers) > self._broker.client.max_payload:
            raise TooLarge(subject)
        try:
            return await self._until_stored(subject, payload, headers, check)
        except nats.js.errors.APIError as exc:
            if exc.err_code in jetstream_codes.LOST_COMPARE_AND_SET:
                raise Outrun(subject) from exc
            if exc.err_code in jetstream_codes.NO_ROOM:
                raise SubjectFull(subject) from exc
            if exc.err_code in (jetstream_codes.HEADERS_TOO_LARGE, jetstream_codes.MESSAGE_TOO_LARGE):
                raise TooLarge(subject) from exc
            raise NotStored(f"{subject}: {exc.description}") from exc
        except _PASSING as exc:
            raise NotStored(f"{subject}: not confirmed after {_TRIES} tries") from exc

    async def _until_stored(
        self, subject: str, payload: bytes, headers: dict[str, str], check: Callable[[], None] | None
    ) -> int:
        """A loop of its own, where tenacity would do: what it prepares for the first try takes as long as the try."""
        tries = 0
        while True:
            if check is not None:
                check()
            try:
                sequence = await self._store(subject, payload, headers)
                self.storage.stored(subject)
                return sequence
            except (*_PASSING, nats.js.errors.APIError) as exc:
                tries += 1
                self._note_storage(subject, exc)
                if tries >= _most_tries(exc):
                    raise
                log.warning("publish_unconfirmed", extra={"subject": subject, "error": type(exc).__name__})
                first_s = _BUSY_FIRST_S if _is_busy(exc) else _BACKOFF_FIRST_S
            pause_s = exponential_s(first_s, failures=tries, longest_s=_BACKOFF_MAX_S, jitter=random())
            await asyncio.sleep(pause_s)

    def _note_storage(self, subject: str, exc: Exception) -> None:
        if isinstance(exc, nats.errors.TimeoutError):
            if self._broker.connected:
                self.storage.unanswered(subject)
        elif isinstance(exc, nats.js.errors.APIError) and exc.err_code in jetstream_codes.NO_ROOM:
            is_a_queue = subject.startswith(_REQUESTS) and exc.err_code == jetstream_codes.STORE_FAILED
            if not is_a_queue:  # a tenant's own limit, as a rule
                self.storage.refused(subject)

    async def _store(self, subject: str, payload: bytes, headers: dict[str, str]) -> int:
        """One try. Raises APIError for what JetStream refuses, and what `Answers.ask` raises."""
        pub_ack: dict[str, Any] = from_json(await self._answers.ask(subject, payload, headers))
        if "error" in pub_ack:
            nats.js.errors.APIError.from_error(pub_ack["error"])  # raises the class that is the code's
        return pub_ack["seq"]


def _most_tries(failure: Exception) -> int:
    """Asking again makes no room in a full stream. But a server that is being stopped answers the same (2.15)."""
    if isinstance(failure, nats.js.errors.APIError):
        if failure.err_code in jetstream_codes.NO_ROOM:
            return _TRIES_IF_FULL
        if not _is_busy(failure) and not isinstance(failure, _PASSING):
            return 1
    return _TRIES


def _is_busy(failure: Exception) -> bool:
    return isinstance(failure, nats.js.errors.APIError) and failure.err_code == jetstream_codes.TOO_MANY_REQUESTS


def wire_size(payload: bytes, headers: Mapping[str, str]) -> int:
    """What the server counts: the payload and the header block (ADR-4)."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    return len(payload) + len(b"NATS/1.0\r\n") + (len(lines) if lines.isascii() else len(lines.encode())) + len(b"\r\n")
