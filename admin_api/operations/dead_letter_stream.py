"""Reads the dead letters in the stream `LLM_DEAD`, sends them back to where they came from, and deletes them.

A list is read through headers-only consumers, so that it costs little however large the letters are. JetStream reads
forward only; for the newest first, windows of the stream are read from its end, each one larger than the one before.
"""

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from secrets import token_hex

import nats.errors
import nats.js.errors
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, PubAck
from pydantic import AwareDatetime, BaseModel, TypeAdapter

from admin_api.http.problems import Problem, not_found, unavailable
from contracts import jetstream_codes, subjects
from contracts.control import (
    DEAD_AT,
    DEAD_CODE,
    DEAD_REASON,
    DEAD_SUBJECT,
    DEAD_TRUNCATED,
    MSG_ID,
    REPLAY,
    signed_replay,
)
from contracts.streams import DEAD
from contracts.wire import TOKEN_PATTERN, reason
from runtime import lenient_json
from runtime.broker import Broker
from runtime.sealing import Keyring

_SIZE = "Nats-Msg-Size"
"""The header in which JetStream gives the size of a message to a consumer that gets headers only."""
_TIMEOUT_S = 5
_LIST_TIMEOUT_S = 15
_OPEN_UP_TO = 64 * 1024
"""Bytes of a letter that is opened for a list, to see whose it is."""
_OPEN_AT_ONCE = 16
_IDLE_CONSUMER_S = 30

_TOKEN = re.compile(TOKEN_PATTERN)
_TIME: TypeAdapter[datetime] = TypeAdapter(AwareDatetime)


class DeadLetter(BaseModel):
    seq: int
    tenant: str
    provider: str
    """The pool that gave up; `unknown` when that cannot be told."""
    subject: str
    """Where it came from, and where a replay goes."""
    code: str
    reason: str
    at: datetime
    size: int
    truncated: bool
    """It was too large to be kept whole."""
    agent: str | None = None
    """Null: it cannot be read, or the letter is larger than a list opens."""
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Which letters are wanted; a field that is None wants any."""

    tenant: str | None = None
    provider: str | None = None
    code: str | None = None

    @property
    def subject(self) -> str:
        """The subject to filter by: the code stands in a header, so it is not part of it."""
        return f"{subjects.DEAD.removesuffix('.>')}.{self.provider or '*'}.{self.tenant or '*'}"


@dataclass(frozen=True, slots=True)
class Windows:
    """How much of the stream a list reads at a time. Sequence numbers make a window, whatever lies between them."""

    first: int = 512
    growth: int = 8
    """How many times as large as the window after it in the stream a window is."""
    largest_read: int = 4096
    """A window with more letters than this is made smaller before it is read, so that little is read in vain."""
    at_most: int = 20_000
    """Letters that one call looks at; a page that needs more ends early."""
    fetch: int = 256
    """Letters that are asked for at once."""


class DeadLetterStream:
    """The stream `LLM_DEAD`. All that it does raises a 503 problem when NATS does not answer or refuses."""

    def __init__(self, broker: Broker, keyring: Keyring, *, windows: Windows | None = None) -> None:
        self._broker = broker
        self._keyring = keyring
        self._windows = windows or Windows()

    async def newest(
        self, wanted: DeadLetterFilter, *, below: int | None, limit: int
    ) -> tuple[list[DeadLetter], int | None]:
        """Up to `limit` letters, the newest first, with numbers below `below`; and the number below which more of them
        may lie, None when there are no more."""
        with _nats_errors():
            async with asyncio.timeout(_LIST_TIMEOUT_S):
                jetstream = self._jetstream()
                found, after = await self._search(jetstream, wanted, below=below, limit=limit)
                return await _opened(jetstream, found), after

    async def get(self, seq: int) -> tuple[DeadLetter, bytes]:
        """The letter with that number, and its payload. Raises a 404 problem."""
        with _nats_errors():
            try:
                raw = await self._jetstream().get_msg(DEAD, seq, direct=True)
            except nats.js.errors.NotFoundError as exc:
                raise _no_letter(seq) from exc
        payload = raw.data or b""
        letter = letter_of(raw.subject or "", raw.headers or {}, seq=seq, stored_at=raw.time, size=len(payload))
        return letter.model_copy(update=whose(payload)), payload

    async def send_back(self, letter: DeadLetter, payload: bytes) -> PubAck:
        """Publishes the original bytes where they came from, and deletes the letter. Raises a 404 problem."""
        with _nats_errors():
            jetstream = self._jetstream()
            # Another id than the original's, which the stream may still know; the same one for this letter, so that it
            # is queued once however often it is tried; and one that no agent can use before.
            proof = self._keyring.sign(signed_replay(str(letter.seq), letter.subject, payload), purpose=REPLAY)
            headers = {MSG_ID: f"{REPLAY}{letter.seq}:{proof}"}
            ack = await jetstream.publish(letter.subject, payload, headers=headers)
            await _delete(jetstream, letter.seq)
            return ack

    async def delete(self, seq: int) -> None:
        """Deletes the letter with that number. Raises a 404 problem."""
        with _nats_errors():
            await _delete(self._jetstream(), seq)

    async def _search(
        self, jetstream: JetStreamContext, wanted: DeadLetterFilter, *, below: int | None, limit: int
    ) -> tuple[list[DeadLetter], int | None]:
        windows = self._windows
        state = (await jetstream.stream_info(DEAD)).state
        oldest = max(1, state.first_seq)
        last = state.last_seq if below is None else min(below - 1, state.last_seq)
        found: list[DeadLetter] = []
        # `above`: how many letters lie in the windows that were read. A consumer tells how many there are from its
        # first number to the stream's end, so the difference is what lies in the window.
        window, looked_at, above = max(windows.first, limit + 1), 0, 0
        while last >= oldest and len(found) <= limit and looked_at < windows.at_most:
            first = max(oldest, last - window + 1)
            async with _consumer(jetstream, wanted.subject, first=first) as (pull, waiting):
                if waiting - above > windows.largest_read < window:
                    window //= windows.growth
                    continue
                # A window is read from its beginning, so of those that fit only the last are kept.
                newest: deque[DeadLetter] = deque(maxlen=limit + 1 - len(found))
                if waiting > above:
                    async for letter in _up_to(pull, last, fetch=windows.fetch):
                        looked_at += 1
                        if wanted.code in (None, letter.code):
                            newest.append(letter)
            found += reversed(newest)
            above, last, window = waiting, first - 1, window * windows.growth
        if len(found) > limit:
            return found[:limit], found[limit - 1].seq
        return found, last + 1 if last >= oldest else None

    def _jetstream(self) -> JetStreamContext:
        if not self._broker.connected:
            raise unavailable("NATS does not answer")
        return self._broker.client.jetstream(timeout=_TIMEOUT_S)


@asynccontextmanager
async def _consumer(
    jetstream: JetStreamContext, subject: str, *, first: int
) -> AsyncGenerator[tuple[JetStreamContext.PullSubscription, int]]:
    """A consumer of the headers of what lies on `subject` from the number `first` on, and how many that are."""
    config = ConsumerConfig(
        name=f"list_{token_hex(8)}",
        filter_subject=subject,
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
        opt_start_seq=first,
        ack_policy=AckPolicy.NONE,
        headers_only=True,
        mem_storage=True,
        num_replicas=1,
        # The server removes it by itself when this process dies before it does.
        inactive_threshold=_IDLE_CONSUMER_S,
    )
    info = await jetstream.add_consumer(DEAD, config)
    pull = await jetstream.pull_subscribe_bind(consumer=info.name, stream=DEAD)
    try:
        yield pull, info.num_pending or 0
    finally:
        await pull.unsubscribe()
        await jetstream.delete_consumer(DEAD, info.name)


async def _up_to(pull: JetStreamContext.PullSubscription, last: int, *, fetch: int) -> AsyncGenerator[DeadLetter]:
    """What comes, in order, up to the number `last`. There must be something."""
    while True:
        try:
            messages = await pull.fetch(fetch, timeout=_TIMEOUT_S)
        except TimeoutError:
            # They were counted, and are gone by now.
            return
        for msg in messages:
            metadata, headers = msg.metadata, msg.headers or {}
            seq = metadata.sequence.stream
            if seq > last:
                return
            yield letter_of(msg.subject, headers, seq=seq, stored_at=metadata.timestamp, size=int(headers[_SIZE]))
            if not metadata.num_pending:
                return


async def _opened(jetstream: JetStreamContext, letters: list[DeadLetter]) -> list[DeadLetter]:
    """The same letters, with agent and request where one is small enough to look for them."""
    slots = asyncio.Semaphore(_OPEN_AT_ONCE)

    async def opened(letter: DeadLetter) -> DeadLetter:
        if letter.size > _OPEN_UP_TO:
            return letter
        async with slots:
            try:
                raw = await jetstream.get_msg(DEAD, letter.seq, direct=True)
            except nats.js.errors.NotFoundError:
                return letter
        return letter.model_copy(update=whose(raw.data or b""))

    return list(await asyncio.gather(*map(opened, letters)))


async def _delete(jetstream: JetStreamContext, seq: int) -> None:
    try:
        await jetstream.delete_msg(DEAD, seq)
    except nats.js.errors.APIError:
        # The server has several codes for what is not there; its leader knows.
        try:
            await jetstream.get_msg(DEAD, seq)
        except nats.js.errors.NotFoundError as exc:
            raise _no_letter(seq) from exc
        raise


def _no_letter(seq: int) -> Problem:
    return not_found(f"there is no dead letter {seq}; they are kept for 14 days")


def letter_of(
    subject: str, headers: Mapping[str, str], *, seq: int, stored_at: datetime | None, size: int
) -> DeadLetter:
    """A letter as its subject in `LLM_DEAD` (`llm.v1.dead.<provider>.<tenant>`) and its headers tell of it."""
    provider, tenant = subject.split(".")[3:5]
    try:
        at = _TIME.validate_python(headers.get(DEAD_AT) or stored_at)
    except ValueError:
        at = _TIME.validate_python(stored_at)
    return DeadLetter(
        seq=seq,
        tenant=tenant,
        provider=provider,
        subject=headers.get(DEAD_SUBJECT, ""),
        code=headers.get(DEAD_CODE, ""),
        reason=headers.get(DEAD_REASON, ""),
        at=at,
        size=size,
        truncated=headers.get(DEAD_TRUNCATED) == "true",
    )


def whose(payload: bytes) -> dict[str, str]:
    """The agent and the id of a request or of a usage record, as far as they can be read: `agent`, `request_id`.

    What is no subject token is left out: agents write these, and workers tell no others on.
    """
    told = lenient_json.told(payload, ("agent", "id", "request_id"))
    named = {"agent": told.get("agent"), "request_id": told.get("request_id", told.get("id"))}
    return {name: value for name, value in named.items() if isinstance(value, str) and _TOKEN.fullmatch(value)}


@contextmanager
def _nats_errors() -> Generator[None]:
    """Makes errors of NATS and JetStream 503 problems."""
    try:
        yield
    except nats.js.errors.APIError as exc:
        if exc.err_code == jetstream_codes.STORE_FAILED:
            raise unavailable("the tenant's queue is full; try again later") from exc
        raise unavailable(f"JetStream refuses: {exc.description}") from exc
    except (nats.errors.Error, TimeoutError) as exc:
        raise unavailable(f"NATS does not answer: {reason(exc)}") from exc
