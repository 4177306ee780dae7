"""The events of one request, in order and ended exactly once.

Deltas are the hot path: their JSON is written around a prefix that is made once an attempt, as UTF-8 (escapes would
take twice the room of Chinese, and three times that of emoji). The models in `contracts.events` remain the definition;
a test holds the two together.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import msgspec

from contracts.errors import Error
from contracts.events import (
    Cancelled,
    Completed,
    Event,
    Failed,
    FailedAttempt,
    FinishReason,
    NextCandidate,
    Retrying,
    Started,
    Timings,
    ToolCallDelta,
)
from contracts.requests import AssistantMessage
from contracts.usage import Cost, Usage
from contracts.wire import all_without_halves, without_halves
from runtime.jetstream.publishing import TooLarge
from workers.providers.base import Chunk

Publish = Callable[[str, bytes], Awaitable[None]]

_ENDED_KEPT, _ENDED_BYTES_KEPT = 1000, 8 * 1024**2
SAID_AGAIN_S = 1.5
"""After the stream of events was made anew, workers have said theirs again."""
_AGENTS_ARE_BACK_S = 3.0
_MOST_ATTEMPTS = 100
"""More than one delivery makes, counted generously: numbers are never used again."""

_quote = msgspec.json.Encoder().encode
"""Raises UnicodeEncodeError for half a surrogate pair."""


class EventStream:
    """Publishes to the request's reply subject. `attempt` is the number that the next event carries.

    Raises TooLarge for an event that no message can hold; nothing was said then.
    """

    def __init__(self, publish: Publish, *, subject: str, request_id: str, attempt: int) -> None:
        self._publish = publish
        self.subject = subject
        self._request_id = request_id
        self.attempt = attempt
        self.seq = 0
        self.ended = False
        self._prefix = b""
        self._said: list[bytes] = []

    async def started(self, *, provider: str, endpoint: str, model: str, worker: str, at: datetime) -> None:
        await self._emit(Started, provider=provider, endpoint=endpoint, model=model, worker=worker, at=at)

    async def delta(self, chunk: Chunk) -> None:
        """As several events, in order, when it is more than one message can hold."""
        try:
            event = self._delta(chunk)
        except UnicodeEncodeError:
            chunk = _without_halves_of_pairs(chunk)
            event = self._delta(chunk)
        try:
            await self._say(event)
        except TooLarge:
            for smaller in _split(chunk):
                await self.delta(smaller)

    async def retrying(self, error: Error, *, delay_s: float, provider: str, model: str) -> None:
        """Ends this attempt; whatever comes next is the next attempt."""
        await self._emit(Retrying, error=error, delay_s=delay_s, next=NextCandidate(provider=provider, model=model))
        self.next_attempt()

    def go_on_after(self, last: Event) -> None:
        """Another worker sent `last`; this one's events follow it with the next attempt."""
        self.attempt = last.attempt
        self.next_attempt()

    def skip_attempts(self, deliveries: int) -> None:
        """So many deliveries before this one may have used numbers that nobody knows any more."""
        self.attempt += deliveries * _MOST_ATTEMPTS

    def next_attempt(self) -> None:
        self.attempt += 1
        self.seq = 0
        self._prefix = b""
        self._said.clear()

    async def say_again(self) -> None:
        """Repeats this attempt's events; readers drop what they have."""
        for event in list(self._said):
            await self._publish(self.subject, event)

    async def completed(
        self,
        *,
        message: AssistantMessage,
        finish_reason: FinishReason,
        usage: Usage,
        cost: Cost | None,
        provider: str,
        model: str,
        response_model: str | None,
        response_id: str | None,
        service_tier: str | None,
        timings: Timings,
        warnings: tuple[str, ...],
    ) -> None:
        await self._end(
            Completed,
            message=message,
            finish_reason=finish_reason,
            usage=usage,
            cost=cost,
            provider=provider,
            model=model,
            response_model=response_model,
            response_id=response_id,
            service_tier=service_tier,
            timings=timings,
            warnings=warnings,
        )

    async def failed(
        self, error: Error, *, attempts: tuple[FailedAttempt, ...], usage: Usage, cost: Cost | None
    ) -> None:
        await self._end(Failed, error=error, attempts=attempts, usage=usage, cost=cost)

    async def cancelled(self, *, usage: Usage, cost: Cost | None) -> None:
        await self._end(Cancelled, usage=usage, cost=cost)

    @property
    def said_bytes(self) -> int:
        """Of what is said again."""
        return sum(map(len, self._said))

    def _delta(self, chunk: Chunk) -> bytes:
        event = self._head()
        if chunk.text:
            event += b',"text":' + _quote(chunk.text)
        if chunk.reasoning:
            event += b',"reasoning":' + _quote(chunk.reasoning)
        if chunk.refusal:
            event += b',"refusal":' + _quote(chunk.refusal)
        if chunk.tool_calls:
            event += b',"tool_calls":[' + b",".join(map(_tool_call, chunk.tool_calls)) + b"]"
        return event + b"}"

    def _head(self) -> bytes:
        if not self._prefix:
            self._prefix = b'{"request_id":%b,"attempt":%d,"seq":' % (_quote(self._request_id), self.attempt)
        return b'%b%d,"type":"delta"' % (self._prefix, self.seq)

    async def _end(self, event: Callable[..., Any], **fields: Any) -> None:
        if self.ended:
            raise AssertionError(f"request {self._request_id} ends only once")
        await self._emit(event, **fields)
        self.ended = True

    async def _emit(self, event: Callable[..., Any], **fields: Any) -> None:
        built = event(request_id=self._request_id, attempt=self.attempt, seq=self.seq, **fields)
        await self._say(built.to_json())

    async def _say(self, event: bytes) -> None:
        self.seq += 1
        try:
            await self._publish(self.subject, event)
        except TooLarge:
            self.seq -= 1
            raise
        self._said.append(event)


class LiveStreams:
    """The streams of all requests that this worker runs.

    What was on its way when the connection broke is lost, and a server that was restarted has forgotten what it kept
    in memory, and what it had taken from us and not yet given to agents. So after a reconnect every running request
    says its attempt's events again, and so do those that ended last.
    """

    def __init__(self, reconnects: Callable[[], int], until_kept: Callable[[], Awaitable[None]]) -> None:
        """`reconnects`: how often the connection was made anew so far; `until_kept` returns when events are stored."""
        self._reconnects = reconnects
        self._until_kept = until_kept
        self._streams: dict[EventStream, int] = {}
        self._ended: deque[EventStream] = deque()
        self._ended_bytes = 0
        self._reconnected = asyncio.Event()

    @contextmanager
    def keep(self, stream: EventStream) -> Generator[None]:
        self._streams[stream] = self._reconnects()
        try:
            yield
        finally:
            del self._streams[stream]
            self._note_ended(stream)

    async def say_what_was_lost(self, stream: EventStream) -> None:
        """Before the ack, which on one connection follows the events: so that it does on the present one."""
        if self._reconnects() != self._streams[stream]:
            await stream.say_again()

    async def reconnected(self) -> None:
        self._reconnected.set()

    async def repeat_after_reconnects(self) -> None:
        """Runs for ever. Lost streams are made anew, and agents reconnect at their own pace: so not only once."""
        while True:
            await self._reconnected.wait()
            self._reconnected.clear()
            await self.say_again()
            if not await self._are_kept_soon():
                await self.say_again()
                await self._until_kept()
            await self.say_again()
            await asyncio.sleep(_AGENTS_ARE_BACK_S)
            await self.say_again()

    async def _are_kept_soon(self) -> bool:
        try:
            async with asyncio.timeout(_AGENTS_ARE_BACK_S):
                await self._until_kept()
        except TimeoutError:
            return False
        return True

    async def say_again(self) -> None:
        for stream in [*self._ended, *self._streams]:
            await stream.say_again()

    def _note_ended(self, stream: EventStream) -> None:
        self._ended.append(stream)
        self._ended_bytes += stream.said_bytes
        while len(self._ended) > _ENDED_KEPT or self._ended_bytes > _ENDED_BYTES_KEPT:
            self._ended_bytes -= self._ended.popleft().said_bytes


def _tool_call(delta: ToolCallDelta) -> bytes:
    call = b'{"index":%d' % delta.index
    if delta.id is not None:
        call += b',"id":' + _quote(delta.id)
    if delta.name is not None:
        call += b',"name":' + _quote(delta.name)
    if delta.arguments is not None:
        call += b',"arguments":' + _quote(delta.arguments)
    return call + b"}"


def _without_halves_of_pairs(chunk: Chunk) -> Chunk:
    """The chunk with U+FFFD in place of halves of surrogate pairs."""
    return Chunk(
        without_halves(chunk.text),
        without_halves(chunk.reasoning),
        without_halves(chunk.refusal),
        tuple(
            ToolCallDelta.model_validate(all_without_halves(call.model_dump(mode="json"))) for call in chunk.tool_calls
        ),
    )


def _split(chunk: Chunk) -> list[Chunk]:
    """Smaller chunks that say the same, in order: one for each kind of output and each call, or, where there is only
    one, a chunk for each half of its text. Raises TooLarge when there is no text to halve."""
    kinds = [
        *([Chunk(reasoning=chunk.reasoning)] if chunk.reasoning else []),
        *([Chunk(text=chunk.text)] if chunk.text else []),
        *([Chunk(refusal=chunk.refusal)] if chunk.refusal else []),
        *(Chunk(tool_calls=(call,)) for call in chunk.tool_calls),
    ]
    if len(kinds) > 1:
        return kinds
    match chunk:
        case Chunk(text=text) if len(text) > 1:
            return [Chunk(text=half) for half in _halves(text)]
        case Chunk(reasoning=text) if len(text) > 1:
            return [Chunk(reasoning=half) for half in _halves(text)]
        case Chunk(refusal=text) if len(text) > 1:
            return [Chunk(refusal=half) for half in _halves(text)]
        case Chunk(tool_calls=(ToolCallDelta(arguments=str(text)) as call,)) if len(text) > 1:
            first, second = _halves(text)
            rest = ToolCallDelta(index=call.index, arguments=second)
            return [Chunk(tool_calls=(part,)) for part in (call.model_copy(update={"arguments": first}), rest)]
        case _:
            raise TooLarge("a delta")


def _halves(text: str) -> tuple[str, str]:
    return text[: len(text) // 2], text[len(text) // 2 :]
