"""Dead letters: requests and usage records that could not be processed, listed, opened, replayed and deleted."""

import base64
import re
from typing import Literal

from pydantic import BaseModel

from admin_api.access.principals import Principal, Role
from admin_api.database import Database
from admin_api.http.pagination import Page, Paging, decode, encode
from admin_api.http.problems import conflict
from admin_api.operations.dead_letter_stream import DeadLetter, DeadLetterFilter, DeadLetterStream
from contracts import subjects
from contracts.wire import TOKEN_PATTERN
from migrations import audit
from migrations.audit import Change, Origin

_TOKEN = re.compile(TOKEN_PATTERN)


class OpenLetter(DeadLetter):
    payload: str | None
    """Null unless an admin asks."""
    encoding: Literal["utf-8", "base64"] | None


class Replayed(BaseModel):
    subject: str
    stream: str
    stream_seq: int


async def page(
    letters: DeadLetterStream, wanted: DeadLetterFilter, *, caller: Principal, paging: Paging
) -> Page[DeadLetter]:
    """Those of the wanted letters that the caller sees, the newest first.

    A page may have fewer than `limit` and still a `next`. Raises 403, 422, 503.
    """
    seen = DeadLetterFilter(tenant=caller.scope(wanted.tenant), provider=wanted.provider, code=wanted.code)
    below = decode(paging.cursor, int)[0] if paging.cursor is not None else None
    found, after = await letters.newest(seen, below=below, limit=paging.limit)
    return Page(items=found, next=None if after is None else encode(after))


async def one(letters: DeadLetterStream, seq: int, *, caller: Principal) -> OpenLetter:
    """The letter with that number, with its payload when an admin asks. Raises 403, 404, 503."""
    letter, payload = await letters.get(seq)
    caller.must_see(letter.tenant)
    text, encoding = None, None
    if caller.role is Role.ADMIN:
        try:
            text, encoding = payload.decode(), "utf-8"
        except UnicodeDecodeError:
            text, encoding = base64.b64encode(payload).decode(), "base64"
    return OpenLetter(**letter.model_dump(), payload=text, encoding=encoding)


async def replay(
    letters: DeadLetterStream, seq: int, *, database: Database, caller: Principal, origin: Origin
) -> Replayed:
    """Publishes the original bytes where they came from, and deletes the letter. Raises 403, 404, 409, 503."""
    letter, payload = await letters.get(seq)
    caller.must_change(letter.tenant)
    if letter.truncated:
        raise conflict(f"the dead letter {seq} was too large to be kept whole; what is left of it cannot be replayed")
    if not is_from_its_tenant(letter):
        raise conflict(f"the dead letter {seq} does not say where it came from, so that it cannot be replayed")
    async with database.transaction() as connection:
        # The record holds the lock of the tenant's chain until the commit: a second replay at the same time comes
        # after this one, and finds nothing. When the publish fails, the record is rolled back.
        await audit.record(connection, _loss("dead_letter.replay", letter), origin)
        ack = await letters.send_back(letter, payload)
    return Replayed(subject=letter.subject, stream=ack.stream, stream_seq=ack.seq)


async def delete(letters: DeadLetterStream, seq: int, *, database: Database, caller: Principal, origin: Origin) -> None:
    """Deletes the letter with that number for good. Raises 403, 404, 503."""
    letter, _ = await letters.get(seq)
    caller.must_change(letter.tenant)
    async with database.transaction() as connection:
        await audit.record(connection, _loss("dead_letter.delete", letter), origin)
        await letters.delete(seq)


def _loss(action: str, letter: DeadLetter) -> Change:
    """The change by which a letter leaves the stream."""
    before = letter.model_dump(mode="json")
    return Change(action, "dead_letter", str(letter.seq), letter.tenant, before=before, after=None)


def is_from_its_tenant(letter: DeadLetter) -> bool:
    """Whether the letter names a subject of its own tenant that requests or usage records come from.

    Its headers are written by workers and consumers, which may be older or newer, so they are not taken on trust.
    """
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
