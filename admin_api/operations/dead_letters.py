"""Dead letters: what could not be processed, read from `LLM_DEAD`, given back to its stream, or deleted.

A list is read through headers-only consumers, so that it costs little however large the letters are. JetStream reads
forward only; for the newest first, windows of the stream are read from its end, each one larger than the one before.
"""

import asyncio
import base64
import re
from collections import deque
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from secrets import token_hex
from typing import Literal

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from pydantic import AwareDatetime, BaseModel, TypeAdapter

from admin_api.access.principals import Principal, Role
from admin_api.control_plane import ControlPlane
from admin_api.http.pagination import Page, Paging, decode, encode
from admin_api.http.problems import conflict, not_found, unavailable
from contracts import jetstream_codes, subjects
from contracts.control import DEAD_AT, DEAD_CODE, DEAD_REASON, DEAD_SUBJECT, DEAD_TRUNCATED, MSG_ID, REPLAY
from contracts.streams import DEAD
from contracts.wire import TOKEN_PATTERN, reason
from migrations import audit
from migrations.audit import Change, Origin
from runtime import lenient_json
from runtime.broker import Broker

_SIZE = "Nats-Msg-Size"
_TIMEOUT_S = 5
_LIST_TIMEOUT_S = 15
_FIRST_WINDOW = 512
_LARGEST_READ = 4096
"""Letters of one window, so that little is read in vain."""
_GROWTH = 8
_AT_MOST = 20_000
"""Letters that one call looks at; a page that needs more ends early."""
_FETCH = 256
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


class OpenLetter(DeadLetter):
    payload: str | None
    """Null unless an admin asks."""
    encoding: Literal["utf-8", "base64"] | None


class Replayed(BaseModel):
    subject: str
    stream: str
    stream_seq: int


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """None: any."""

    tenant: str | None = None
    provider: str | None = None
    code: str | None = None

    @property
    def subject(self) -> str:
        return f"{subjects.DEAD.removesuffix('.>')}.{self.provider or '*'}.{self.tenant or '*'}"


async def page(plane: ControlPlane, wanted: DeadLetterFilter, *, paging: Paging) -> Page[DeadLetter]:
    """The newest first. May have fewer than `limit` and still a `next`. Raises 422, 503."""
    before = decode(paging.cursor, int)[0] if paging.cursor is not None else None
    with _nats_errors():
        async with asyncio.timeout(_LIST_TIMEOUT_S):
            jetstream = _jetstream(plane.broker)
            found, after = await _newest(jetstream, wanted, before=before, limit=paging.limit)
            items = await _opened(jetstream, found)
    return Page(items=items, next=None if after is None else encode(after))


async def one(plane: ControlPlane, seq: int, *, caller: Principal) -> OpenLetter:
    """With its payload when an admin asks. Raises 403, 404, 503."""
    letter, payload = await _get(plane.broker, seq)
    caller.must_see(letter.tenant)
    text, encoding = _printable(payload) if caller.role is Role.ADMIN else (None, None)
    return OpenLetter(**letter.model_dump(), payload=text, encoding=encoding)


async def replay(plane: ControlPlane, seq: int, *, caller: Principal, origin: Origin) -> Replayed:
    """Publishes the original bytes where they came from, and deletes the letter. Raises 403, 404, 409, 503."""
    letter, payload = await _get(plane.broker, seq)
    caller.must_change(letter.tenant)
    if letter.truncated:
        raise conflict(f"the dead letter {seq} was too large to be kept whole; what is left of it cannot be replayed")
    if not _is_home(letter):
        raise conflict(f"the dead letter {seq} does not say where it came from, so that it cannot be replayed")
    jetstream = _jetstream(plane.broker)
    async with plane.database.transaction() as connection:
        # Holds the tenant's lock: a second replay at the same time comes after this one, and finds nothing.
        await audit.record(connection, _change("dead_letter.replay", letter), origin)
        with _nats_errors():
            # Another id than the original's, which the stream may still know; and the same one for this letter, so
            # that it is queued once however often it is tried.
            ack = await jetstream.publish(letter.subject, payload, headers={MSG_ID: f"{REPLAY}{seq}"})
            await _delete(jetstream, seq)
    return Replayed(subject=letter.subject, stream=ack.stream, stream_seq=ack.seq)


async def delete(plane: ControlPlane, seq: int, *, caller: Principal, origin: Origin) -> None:
    """Raises 403, 404, 503."""
    letter, _ = await _get(plane.broker, seq)
    caller.must_change(letter.tenant)
    async with plane.database.transaction() as connection:
        await audit.record(connection, _change("dead_letter.delete", letter), origin)
        with _nats_errors():
            await _delete(_jetstream(plane.broker), seq)


async def _newest(
    jetstream: JetStreamContext, wanted: DeadLetterFilter, *, before: int | None, limit: int
) -> tuple[list[DeadLetter], int | None]:
    """Up to `limit` letters below `before`, and below which number more of them may lie; None: no more."""
    state = (await jetstream.stream_info(DEAD)).state
    oldest = max(1, state.first_seq)
    last = state.last_seq if before is None else min(before - 1, state.last_seq)
    found: list[DeadLetter] = []
    window, looked_at, above = max(_FIRST_WINDOW, limit + 1), 0, 0
    while last >= oldest and len(found) <= limit and looked_at < _AT_MOST:
        first = max(oldest, last - window + 1)
        async with _consumer(jetstream, wanted.subject, first=first) as (fetch, waiting):
            if waiting - above > _LARGEST_READ < window:
                window //= _GROWTH
                continue
            newest: deque[DeadLetter] = deque(maxlen=limit + 1 - len(found))
            if waiting > above:
                async for letter in _up_to(fetch, last):
                    looked_at += 1
                    if wanted.code in (None, letter.code):
                        newest.append(letter)
        found += reversed(newest)
        above, last, window = waiting, first - 1, window * _GROWTH
    if len(found) > limit:
        return found[:limit], found[limit - 1].seq
    return found, last + 1 if last >= oldest else None


@asynccontextmanager
async def _consumer(
    jetstream: JetStreamContext, subject: str, *, first: int
) -> AsyncGenerator[tuple[JetStreamContext.PullSubscription, int]]:
    """Of the headers of what lies on `subject` from `first` on; and how many there are."""
    config = ConsumerConfig(
        name=f"list_{token_hex(8)}",
        filter_subject=subject,
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
        opt_start_seq=first,
        ack_policy=AckPolicy.NONE,
        headers_only=True,
        mem_storage=True,
        num_replicas=1,
        inactive_threshold=_IDLE_CONSUMER_S,
    )
    info = await jetstream.add_consumer(DEAD, config)
    pull = await jetstream.pull_subscribe_bind(consumer=info.name, stream=DEAD)
    try:
        yield pull, info.num_pending or 0
    finally:
        await pull.unsubscribe()
        await jetstream.delete_consumer(DEAD, info.name)


async def _up_to(pull: JetStreamContext.PullSubscription, last: int) -> AsyncGenerator[DeadLetter]:
    """What comes, in order, up to the number `last`. There must be something."""
    while True:
        try:
            messages = await pull.fetch(_FETCH, timeout=_TIMEOUT_S)
        except TimeoutError:
            # They were counted, and are gone by now.
            return
        for msg in messages:
            if msg.metadata.sequence.stream > last:
                return
            yield _of_message(msg)
            if not msg.metadata.num_pending:
                return


async def _opened(jetstream: JetStreamContext, letters: list[DeadLetter]) -> list[DeadLetter]:
    """The same, with agent and request where a letter is small enough to look for them."""
    slots = asyncio.Semaphore(_OPEN_AT_ONCE)

    async def opened(letter: DeadLetter) -> DeadLetter:
        if letter.size > _OPEN_UP_TO:
            return letter
        async with slots:
            try:
                raw = await jetstream.get_msg(DEAD, letter.seq, direct=True)
            except nats.js.errors.NotFoundError:
                return letter
        return letter.model_copy(update=_whose(raw.data or b""))

    return list(await asyncio.gather(*map(opened, letters)))


async def _get(broker: Broker, seq: int) -> tuple[DeadLetter, bytes]:
    """Raises 404, 503."""
    with _nats_errors():
        try:
            raw = await _jetstream(broker).get_msg(DEAD, seq, direct=True)
        except nats.js.errors.NotFoundError as exc:
            raise _unknown(seq) from exc
    payload = raw.data or b""
    letter = _letter(raw.subject or "", raw.headers or {}, seq=seq, stored_at=raw.time, size=len(payload))
    return letter.model_copy(update=_whose(payload)), payload


async def _delete(jetstream: JetStreamContext, seq: int) -> None:
    """Raises 404."""
    try:
        await jetstream.delete_msg(DEAD, seq)
    except nats.js.errors.APIError:
        # The server has several codes for what is not there; its leader knows.
        try:
            await jetstream.get_msg(DEAD, seq)
        except nats.js.errors.NotFoundError as exc:
            raise _unknown(seq) from exc
        raise


def _of_message(msg: Msg) -> DeadLetter:
    headers = msg.headers or {}
    metadata = msg.metadata
    return _letter(
        msg.subject, headers, seq=metadata.sequence.stream, stored_at=metadata.timestamp, size=int(headers[_SIZE])
    )


def _letter(subject: str, headers: Mapping[str, str], *, seq: int, stored_at: datetime | None, size: int) -> DeadLetter:
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


def _whose(payload: bytes) -> dict[str, str]:
    """Agent and request of a request or a usage record, as far as they can be read: those that workers tell."""
    told = lenient_json.told(payload, ("agent", "id", "request_id"))
    named = {"agent": told.get("agent"), "request_id": told.get("request_id", told.get("id"))}
    return {name: value for name, value in named.items() if isinstance(value, str) and _TOKEN.fullmatch(value)}


def _is_home(letter: DeadLetter) -> bool:
    """Whether the letter names a subject of its own tenant that requests or usage records come from."""
    match letter.subject.split("."):
        case ["llm", "v1", "request", *_]:
            try:
                return subjects.parse_request(letter.subject).tenant == letter.tenant
            except ValueError:
                return False
        case ["llm", "v1", "usage", provider, tenant]:
            return tenant == letter.tenant and bool(_TOKEN.fullmatch(provider))
        case _:
            return False


def _change(action: str, letter: DeadLetter) -> Change:
    return Change(
        action, "dead_letter", str(letter.seq), letter.tenant, before=letter.model_dump(mode="json"), after=None
    )


def _printable(payload: bytes) -> tuple[str, Literal["utf-8", "base64"]]:
    try:
        return payload.decode(), "utf-8"
    except UnicodeDecodeError:
        return base64.b64encode(payload).decode(), "base64"


def _jetstream(broker: Broker) -> JetStreamContext:
    """Raises a 503 problem while NATS is away."""
    if not broker.connected:
        raise unavailable("NATS does not answer")
    return broker.client.jetstream(timeout=_TIMEOUT_S)


@contextmanager
def _nats_errors() -> Generator[None]:
    """Makes them 503 problems."""
    try:
        yield
    except nats.js.errors.APIError as exc:
        if exc.err_code == jetstream_codes.STORE_FAILED:
            raise unavailable("the tenant's queue is full; try again later") from exc
        raise unavailable(f"JetStream refuses: {exc.description}") from exc
    except (nats.errors.Error, TimeoutError) as exc:
        raise unavailable(f"NATS does not answer: {reason(exc)}") from exc


def _unknown(seq: int) -> Exception:
    return not_found(f"there is no dead letter {seq}; they are kept for 14 days")
