"""The one path on which every vendor's reply is read, streamed or not."""

import re
import time
from collections.abc import AsyncGenerator
from dataclasses import replace

from pydantic import JsonValue

from contracts.errors import (
    DeadlineExceeded,
    FleetError,
    InvalidRequest,
    ProviderTimeout,
    ProviderUnavailable,
    StreamInterrupted,
)
from workers.providers.base import Finish, Stated, StreamItem
from workers.providers.shared.http.sse import EventTooLarge
from workers.providers.shared.http.time_limits import TimeLimits
from workers.providers.shared.http.transport import ConnectionBroken, Reply
from workers.providers.shared.replies.reader import Reader

TRAILER_S = 5.0
"""How long after a reply's end its usage may still come."""

MAX_KEPT_LEVELS = 100
"""How deep what a vendor wants back may be nested. Agents and workers read it within a message; Rust's readers of JSON
take 128 levels in all, pydantic's 200."""

_OPENING_BYTES = 256
_OF_AN_API = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:[{\[\"]|(?:data|event|id|retry)?:|(?:data|event)\s)")
"""How a reply begins that is JSON, lines of JSON, or an event stream."""
_FIELDS = (b"data:", b"event:", b"id:", b"retry:")
_STREAMS = frozenset({"text/event-stream", "application/x-ndjson"})


async def read(reply: Reply, reader: Reader, *, limits: TimeLimits, provider: str) -> AsyncGenerator[StreamItem]:
    """The chunks of a reply and its Finish. Raises FleetError; the caller closes the reply."""
    stated: Stated | None = None
    received = _Received(reply.headers.get("content-type", ""))
    while not reader.done:
        try:
            data = await limits.wait(reply.read(), at_most_s=TRAILER_S if reader.finished else None)
        except (ConnectionBroken, EventTooLarge, ProviderTimeout, DeadlineExceeded, TimeoutError) as exc:
            # Behind the end marker only usage is missing: a reply is whole without it.
            if not reader.finished:
                if isinstance(exc, FleetError):
                    raise
                raise _broken_off(exc, provider=provider) from exc
            data = b""
        limits.sign_of_life()
        received.add(data)
        begun = time.perf_counter()
        try:
            chunk = reader.feed(data) if data else reader.end()
        except EventTooLarge as exc:
            if received.is_foreign:
                raise received.to_error(provider) from exc
            raise _broken_off(exc, provider=provider) from exc
        reply.charge(time.perf_counter() - begun)
        if reader.stated is not None and reader.stated is not stated:
            stated = reader.stated
            yield stated
        if chunk:
            yield chunk
        # What a reader cannot read may be no API's answer at all; then it says more what came than how it ended.
        if isinstance(reader.error, StreamInterrupted) and received.is_foreign:
            raise received.to_error(provider) from reader.error
        if reader.error:
            raise reader.error
        if not data:
            break
    if not reader.finished and received.is_foreign:
        raise received.to_error(provider)
    if not reader.finished:
        raise StreamInterrupted(f"{provider}'s stream ended without its end marker", provider=provider)
    await reply.drain()
    yield _returnable(reader, provider=provider)


def _broken_off(exc: Exception, *, provider: str) -> FleetError:
    if isinstance(exc, EventTooLarge):
        return InvalidRequest(f"{provider} sent {exc}", provider=provider)
    return StreamInterrupted(f"{provider}'s stream broke: {exc}", provider=provider)


def _returnable(reader: Reader, *, provider: str) -> Finish:
    """The end of a reply, without its provider_data when that is too large or nested too deeply to be read: the answer
    is whole without it."""
    finish = reader.finish()
    if reader.keeps_too_much:
        why = "wants back more than a message holds"
    elif finish.provider_data is None or not _is_deeper(finish.provider_data, than=MAX_KEPT_LEVELS):
        return finish
    else:
        why = f"nested what it wants back deeper than {MAX_KEPT_LEVELS} levels"
    warning = f"{provider} {why}; provider_data was left out"
    return replace(finish, provider_data=None, warnings=(*finish.warnings, warning))


def _is_deeper(value: JsonValue, *, than: int) -> bool:
    """Whether `value` has more levels; looked at level by level, because recursion has a limit of its own."""
    level = [value]
    for _ in range(than):
        inner = [
            outer.values() if isinstance(outer, dict) else outer for outer in level if isinstance(outer, dict | list)
        ]
        level = [member for members in inner for member in members]
        if not level:
            return False
    return any(isinstance(value, dict | list) for value in level)


class _Received:
    """How a reply began, and how much of it came."""

    def __init__(self, content_type: str) -> None:
        self._media_type = re.split(r"[;\s]", content_type[:64].strip().lower(), maxsplit=1)[0]
        self._opening = b""
        self._size = 0

    def add(self, data: bytes) -> None:
        if len(self._opening) < _OPENING_BYTES:
            self._opening += data[: _OPENING_BYTES - len(self._opening)]
        self._size += len(data)

    @property
    def is_foreign(self) -> bool:
        """It is nothing that an API sends: the page of a proxy, a text, or nothing at all where no stream was begun."""
        opening = self._opening.strip()
        if not opening:
            return self._media_type not in _STREAMS
        return not _OF_AN_API.match(opening) and not any(field.startswith(opening) for field in _FIELDS)

    def to_error(self, provider: str) -> ProviderUnavailable:
        """Says what came, and nothing of its text, which can repeat a prompt or a key."""
        what = f"{self._size} bytes of {self._media_type or 'no named type'}" if self._size else "an empty body"
        return ProviderUnavailable(
            f"{provider} answered with {what} where JSON or an event stream should be; is the base_url right?",
            provider=provider,
        )
