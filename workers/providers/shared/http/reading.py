"""The one path on which every vendor's reply is read, streamed or not."""

import asyncio
import re
from collections.abc import Awaitable, Sequence
from dataclasses import replace

from pydantic import JsonValue

from contracts.errors import FleetError, InvalidRequest, ProviderUnavailable, StreamInterrupted
from workers.providers.base import Chunk, Finish, Stated, Take
from workers.providers.shared.http.client import ConnectionBroken, HttpReply
from workers.providers.shared.http.sse import EventTooLarge
from workers.providers.shared.http.time_limits import TimeLimits
from workers.providers.shared.replies.reader import Reader

TRAILER_S = 5.0
"""How long after a reply's end its usage may still come."""
_DRAIN_S = 0.1
_CLOCK_S = 0.001
"""The least time that the loop's clock tells apart."""

MAX_KEPT_LEVELS = 100
"""How deep what a vendor wants back may be nested. Agents and workers read it within a message; Rust's readers of JSON
take 128 levels in all, pydantic's 200."""

_OPENING_BYTES = 256
_OF_AN_API = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:[{\[\"]|(?:data|event|id|retry)?:|(?:data|event)\s)")
"""How a reply begins that is JSON, lines of JSON, or an event stream."""
_FIELDS = (b"data:", b"event:", b"id:", b"retry:")
_STREAMS = frozenset({"text/event-stream", "application/x-ndjson"})


async def receive(reply: HttpReply, reader: Reader, *, limits: TimeLimits, provider: str, take: Take) -> Finish:
    """Gives what a reply says to `take` as it arrives, and returns its end. Closes the reply.

    Raises FleetError, and what `take` raises.
    """
    receiving = _Receiving(reply, reader, limits=limits, provider=provider, take=take)
    try:
        return await receiving.finish
    finally:
        receiving.stop()


class _Receiving:
    """One reply while it arrives.

    All of it runs in the event loop's callbacks in which the bytes are read: no task is woken for a token, and no timer
    is set for one."""

    def __init__(self, reply: HttpReply, reader: Reader, *, limits: TimeLimits, provider: str, take: Take) -> None:
        self._loop = asyncio.get_running_loop()
        self.finish: asyncio.Future[Finish] = self._loop.create_future()
        self._reply = reply
        self._reader = reader
        self._limits = limits
        self._provider = provider
        self._pass_on = take
        self._stated: Stated | None = None
        self._received = _Received(reply.headers.get("content-type", ""))
        self._is_held_up = False
        """What was passed on last is awaited: the time that passes is not the vendor's."""
        self._is_over = False
        """The reply has ended, or broke."""
        self._last: asyncio.Future[None] | None = None
        """Waits for the last of it to be taken."""
        self._timer = self._loop.call_at(limits.ends_at, self._look_at_time)
        reply.deliver(self._take, self._ended)

    def stop(self) -> None:
        """What little may be left behind a whole reply is read away, so that the connection can be used again."""
        self._timer.cancel()
        if self._last is not None:
            self._last.cancel()
        if self._is_over or self.finish.cancelled() or self.finish.exception() is not None:
            self._reply.close()
        else:
            self._timer = self._loop.call_later(_DRAIN_S, self._reply.close)

    def _take(self, data: bytes) -> Awaitable[None] | None:
        if self.finish.done():
            return None
        self._limits.sign_of_life()
        if not self._received.size:
            self._look_at_time()  # from now on the idle limit holds
        self._received.add(data)
        try:
            return self._said(self._reader.feed(data))
        except Exception as exc:  # noqa: BLE001 - raised by whoever awaits the reply
            self._fail_reading(exc)
            return None

    def _fail_reading(self, exc: Exception) -> None:
        if isinstance(exc, EventTooLarge):
            error = self._received.to_error(self._provider) if self._received.is_foreign else None
            self._fail(error or _broken_off(exc, provider=self._provider), cause=exc)
        else:
            self._fail(exc)

    def _said(self, chunk: Chunk | None, *, is_over: bool = False) -> "asyncio.Future[None] | None":
        """Passes on what the reader has found. `is_over`: nothing more will come."""
        reader = self._reader
        until_stated_taken = until_taken = None
        if reader.stated is not self._stated and reader.stated is not None:
            self._stated = reader.stated
            until_stated_taken = self._pass_on(reader.stated)
        if chunk is not None:
            until_taken = self._pass_on(chunk)
        is_over = is_over or reader.done or reader.error is not None
        if until_taken is not None or until_stated_taken is not None:
            return self._held_up(until_stated_taken, until_taken, is_over=is_over)
        if is_over:
            self._conclude()
        elif reader.finished:
            self._look_at_time()
        return None

    def _held_up(self, *until: Awaitable[None] | None, is_over: bool) -> "asyncio.Future[None]":
        """Done when all of it is; what `until` raises, it raises."""
        waiting = [asyncio.ensure_future(one) for one in until if one is not None]
        taken = waiting[0] if len(waiting) == 1 else asyncio.ensure_future(_all_of(waiting))
        self._is_held_up = True

        def was_taken(taken: "asyncio.Future[None]") -> None:
            self._is_held_up = False
            self._limits.sign_of_life()
            if taken.cancelled() or taken.exception() is not None:
                return
            if is_over:
                self._conclude()
            elif self._reader.finished:
                self._look_at_time()

        taken.add_done_callback(was_taken)
        return taken

    def _ended(self, exc: Exception | None) -> None:
        """The reply has ended, or broke. Behind the end marker only usage is missing: a reply is whole without it."""
        self._is_over = True
        if self.finish.done() or self._last is not None:  # the reader has said all that it has
            self._timer.cancel()
            self._reply.close()
            return
        if exc is not None and not self._reader.finished:
            is_broken = isinstance(exc, ConnectionBroken | EventTooLarge)
            self._fail(_broken_off(exc, provider=self._provider) if is_broken else exc, cause=exc)
            return
        try:
            self._last = self._said(self._reader.end(), is_over=True)
        except Exception as bug:  # noqa: BLE001 - raised by whoever awaits the reply
            self._fail_reading(bug)
            return
        if self._last is not None:
            self._last.add_done_callback(self._last_was_taken)

    def _last_was_taken(self, taken: "asyncio.Future[None]") -> None:
        if not taken.cancelled() and (exc := taken.exception()) is not None:
            # Raised by whoever awaits the reply.
            self._fail(exc if isinstance(exc, Exception) else RuntimeError("whoever took the reply was stopped"))

    def _conclude(self) -> None:
        """Decides what became of the reply, of which nothing more will come."""
        reader, received = self._reader, self._received
        # What a reader cannot read may be no API's answer at all; then it says more what came than how it ended.
        if isinstance(reader.error, StreamInterrupted) and received.is_foreign:
            self._fail(received.to_error(self._provider), cause=reader.error)
        elif reader.error is not None:
            self._fail(reader.error)
        elif not reader.finished and received.is_foreign:
            self._fail(received.to_error(self._provider))
        elif not reader.finished:
            text = f"{self._provider}'s stream ended without its end marker"
            self._fail(StreamInterrupted(text, provider=self._provider))
        elif not self.finish.done():
            self.finish.set_result(_returnable(reader, provider=self._provider))

    def _fail(self, exc: Exception, *, cause: Exception | None = None) -> None:
        if not self.finish.done():
            if cause is not exc:
                exc.__cause__ = cause
            self.finish.set_exception(exc)

    def _look_at_time(self) -> None:
        """Ends a call that took too long. A call has one timer: what came meanwhile moves it when it is due."""
        self._timer.cancel()
        if self.finish.done():
            return
        if self._is_held_up:
            self._limits.sign_of_life()
        ends_at, now = self._limits.ends_at, self._loop.time()
        is_finished = self._reader.finished
        if is_finished:
            ends_at = min(ends_at, self._limits.alive_at + TRAILER_S)
        if now < ends_at:
            self._timer = self._loop.call_at(max(ends_at, now + _CLOCK_S), self._look_at_time)
        elif is_finished:
            self._ended(None)
        else:
            self._fail(self._limits.exceeded())


async def _all_of(waiting: "Sequence[asyncio.Future[None]]") -> None:
    for one in waiting:
        await one


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
        self.size = 0

    def add(self, data: bytes) -> None:
        if len(self._opening) < _OPENING_BYTES:
            self._opening += data[: _OPENING_BYTES - len(self._opening)]
        self.size += len(data)

    @property
    def is_foreign(self) -> bool:
        """It is nothing that an API sends: the page of a proxy, a text, or nothing at all where no stream was begun."""
        opening = self._opening.strip()
        if not opening:
            return self._media_type not in _STREAMS
        return not _OF_AN_API.match(opening) and not any(field.startswith(opening) for field in _FIELDS)

    def to_error(self, provider: str) -> ProviderUnavailable:
        """Says what came, and nothing of its text, which can repeat a prompt or a key."""
        what = f"{self.size} bytes of {self._media_type or 'no named type'}" if self.size else "an empty body"
        return ProviderUnavailable(
            f"{provider} answered with {what} where JSON or an event stream should be; is the base_url right?",
            provider=provider,
        )
