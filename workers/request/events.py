"""The events of one request, in order and ended exactly once.

Deltas are the hot path: their JSON is written around a prefix that is made once an attempt, as UTF-8 (escapes would
take twice the room of Chinese, and three times that of emoji). The models in `contracts.events` remain the definition;
a test holds the two together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from contracts.errors import Error
from contracts.events import (
    Cancelled,
    Completed,
    Failed,
    FailedAttempt,
    NextCandidate,
    Retrying,
    Started,
    Terminal,
    Timings,
    ToolCallDelta,
)
from contracts.requests import AssistantMessage
from contracts.usage import Cost, UsageRecord
from contracts.wire import all_without_halves, without_halves
from runtime.jetstream.publishing import TooLarge
from workers.providers.base import Chunk, Finish
from workers.request.usage_records import MOST_NAME_CHARS, Bill, VendorCall


class Publishes(Protocol):
    """Publishes on reply subjects. Raises TooLarge; nothing was published then."""

    async def event(self, subject: str, payload: bytes, *, spare: int = 0) -> None:
        """Publishes an event other than a delta; a large one may wait for room. Raises TooLarge also for one that
        leaves less than `spare` bytes of a message."""
        ...

    def delta(self, subject: str, payload: bytes, *, soon: bool) -> None:
        """Publishes a delta, behind everything that was published before. Not `soon`: it may leave some milliseconds
        later, with others."""
        ...


@dataclass(frozen=True, slots=True)
class Share:
    """How much of what a request says may be stored."""

    has_room: Callable[[], bool]
    note: Callable[[int], None]
    """Counts a delta of so many bytes that is about to be stored."""
    pass_on: Callable[[str, bytes], None]
    """Publishes to those who listen at present, and to nobody else. Raises TooLarge."""


RESULT_ROOM_BYTES = 2048
"""What an event that ends a request leaves free of a message: it is stored with headers, which are shorter."""
_MOST_DELIVERIES = 20
_MOST_ATTEMPTS = 100
"""More than one delivery makes, counted generously: numbers are never used again."""

_FIRST_DELTA = 1
"""The `seq` of an attempt's first delta, which is always stored: it says that output was sent."""

_quote = msgspec.json.Encoder().encode
"""Raises UnicodeEncodeError for half a surrogate pair."""


class EventStream:
    """Publishes to the request's reply subject. `attempt` is the number that the next event carries.

    Raises TooLarge for an event that no message can hold; nothing was published then.
    """

    def __init__(self, publisher: Publishes, *, subject: str, request_id: str, attempt: int) -> None:
        self._publisher = publisher
        self.subject = subject
        self._request_id = request_id
        self.attempt = attempt
        self.seq = 0
        self.ended = False
        self.end = b""
        """The event that ended the request."""
        self._prefix = b""
        self.sent: list[bytes] = []
        """This attempt's events so far, but for deltas that had no room; before its first one those of the attempt
        before, so that they are not forgotten with a server that is restarted meanwhile."""
        self.is_between_attempts = False
        """Whether the last attempt has ended and the next one has said nothing yet."""
        self.share: Share | None = None
        """None: everything is stored. Once a delta had no room, no later one of the attempt is stored, so that what is
        stored has no gap before the end."""
        self._is_cut = False

    async def started(self, call: VendorCall, *, worker: str) -> None:
        await self._publish_event(
            Started,
            provider=call.candidate.provider,
            endpoint=call.endpoint,
            model=call.candidate.model,
            worker=worker,
            at=call.started_at,
        )

    def delta(self, chunk: Chunk) -> None:
        """Published as several events, in order, when it is more than one message can hold."""
        if not self._prefix:
            self._prefix = b'{"request_id":%b,"attempt":%d,"seq":' % (_quote(self._request_id), self.attempt)
        event = b'%b%d,"type":"delta"' % (self._prefix, self.seq)
        try:
            if chunk.text:
                event += b',"text":' + _quote(chunk.text)
            if chunk.reasoning:
                event += b',"reasoning":' + _quote(chunk.reasoning)
            if chunk.refusal:
                event += b',"refusal":' + _quote(chunk.refusal)
            if chunk.tool_calls:
                event += b',"tool_calls":[' + b",".join(map(_tool_call, chunk.tool_calls)) + b"]"
        except UnicodeEncodeError:  # half of a surrogate pair, in whose place U+FFFD is sent
            calls = [all_without_halves(call.model_dump(mode="json")) for call in chunk.tool_calls]
            mended = Chunk(
                without_halves(chunk.text),
                without_halves(chunk.reasoning),
                without_halves(chunk.refusal),
                tuple(map(ToolCallDelta.model_validate, calls)),
            )
            self.delta(mended)
            return
        try:
            self._send_delta(event + b"}")
        except TooLarge:
            for smaller in _split(chunk):
                self.delta(smaller)

    async def retrying(self, error: Error, *, delay_s: float, provider: str, model: str) -> None:
        """Ends this attempt; whatever comes next is the next attempt."""
        next_up = NextCandidate(provider=provider, model=model)
        await self._publish_event(Retrying, error=error, delay_s=delay_s, next=next_up)

    async def completed(
        self, call: VendorCall, finish: Finish, record: UsageRecord, *, warnings: tuple[str, ...]
    ) -> None:
        """`record` is the call's usage record, which is published after this event."""
        await self._publish_event(
            Completed,
            message=call.gathering.message(finish.provider_data),
            finish_reason=finish.finish_reason,
            usage=record.usage,
            cost=Cost(amount=record.cost) if record.cost is not None else None,
            provider=call.candidate.provider,
            model=call.candidate.model,
            response_model=record.response_model,
            response_id=finish.response_id and finish.response_id[:MOST_NAME_CHARS],
            service_tier=finish.service_tier,
            timings=Timings(
                queued_s=record.queued_s,
                time_to_first_token_s=call.time_to_first_token_s,
                duration_s=record.duration_s,
            ),
            warnings=warnings,
        )

    async def failed(
        self,
        error: Error,
        *,
        attempts: tuple[FailedAttempt, ...],
        bill: Bill,
        said: AssistantMessage | None = None,
    ) -> None:
        """`said`: the answer as far as it came, of a call that was broken off; left out where it leaves no room."""
        fields = {"error": error, "attempts": attempts, "usage": bill.usage, "cost": bill.cost()}
        try:
            await self._publish_event(Failed, **fields, message=said)
        except TooLarge:
            if said is None:
                raise
            await self._publish_event(Failed, **fields)

    async def cancelled(self, *, bill: Bill) -> None:
        await self._publish_event(Cancelled, usage=bill.usage, cost=bill.cost())

    def withdraw(self) -> None:
        """Another worker goes on with the request: what this one has said is not said again."""
        self.sent.clear()

    def continue_after(self, attempt: int) -> None:
        """The attempt is over, whichever worker made it; what follows is the next one."""
        self.attempt = attempt + 1
        self.seq = 0
        self._prefix = b""
        self._is_cut = False
        self.is_between_attempts = True

    def skip_attempts(self, deliveries: int) -> None:
        """So many deliveries before this one may have used numbers that nobody knows any more. Most of many were put
        off before they began."""
        self.attempt += min(deliveries, _MOST_DELIVERIES) * _MOST_ATTEMPTS

    async def republish(self) -> None:
        """Repeats this attempt's events; readers drop what they have.

        The first one and the end tell another worker what happened, so they are stored whether there is room or not.
        """
        sent = list(self.sent)
        end = len(sent) - 1 if self.ended else None
        for number, event in enumerate(sent):
            is_delta = number not in (0, end)
            if not is_delta:
                await self._publisher.event(self.subject, event)
            elif self.share and not self.share.has_room():
                self.share.pass_on(self.subject, event)
            else:
                self._publisher.delta(self.subject, event, soon=True)
                if self.share:
                    self.share.note(len(event))

    async def _publish_event(self, event: Callable[..., Any], **fields: Any) -> None:
        if self.ended:
            raise AssertionError(f"request {self._request_id} has ended, and says nothing after it")
        built = event(request_id=self._request_id, attempt=self.attempt, seq=self.seq, **fields)
        said = built.to_json()
        self.seq += 1
        is_end = isinstance(built, Terminal)
        try:
            await self._publisher.event(self.subject, said, spare=RESULT_ROOM_BYTES if is_end else 0)
        except TooLarge:
            self.seq -= 1
            raise
        self._note_sent(said)
        if isinstance(built, Retrying):
            self.continue_after(built.attempt)
        if is_end:
            self.ended, self.end = True, said

    def _send_delta(self, event: bytes) -> None:
        share = self.share
        has_room = share is None or (not self._is_cut and (self.seq <= _FIRST_DELTA or share.has_room()))
        self._is_cut = not has_room
        if share is not None and not has_room:
            share.pass_on(self.subject, event)
        else:
            self._publisher.delta(self.subject, event, soon=self.seq <= _FIRST_DELTA)
            if share is not None:
                share.note(len(event))
            self._note_sent(event)
        self.seq += 1

    def _note_sent(self, event: bytes) -> None:
        if self.is_between_attempts:
            self.sent.clear()
            self.is_between_attempts = False
        self.sent.append(event)


def _tool_call(delta: ToolCallDelta) -> bytes:
    call = b'{"index":%d' % delta.index
    if delta.id is not None:
        call += b',"id":' + _quote(delta.id)
    if delta.name is not None:
        call += b',"name":' + _quote(delta.name)
    if delta.arguments is not None:
        call += b',"arguments":' + _quote(delta.arguments)
    return call + b"}"


def _split(chunk: Chunk) -> list[Chunk]:
    """Smaller chunks that say the same, in order.

    One for each kind of output and each tool call or, where there is only one of these, one for each half of its text.
    Raises TooLarge when there is no text to halve.
    """
    kinds = [
        *([Chunk(reasoning=chunk.reasoning)] if chunk.reasoning else []),
        *([Chunk(text=chunk.text)] if chunk.text else []),
        *([Chunk(refusal=chunk.refusal)] if chunk.refusal else []),
        *(Chunk(tool_calls=(call,)) for call in chunk.tool_calls),
    ]
    if len(kinds) > 1:
        return kinds
    call = chunk.tool_calls[0] if chunk.tool_calls else None
    text = chunk.text or chunk.reasoning or chunk.refusal or (call and call.arguments) or ""
    if len(text) < 2:
        raise TooLarge("a delta")
    first, second = text[: len(text) // 2], text[len(text) // 2 :]
    if call:
        rest = ToolCallDelta(index=call.index, arguments=second)
        return [Chunk(tool_calls=(call.model_copy(update={"arguments": first}),)), Chunk(tool_calls=(rest,))]
    if chunk.text:
        return [Chunk(text=first), Chunk(text=second)]
    if chunk.reasoning:
        return [Chunk(reasoning=first), Chunk(reasoning=second)]
    return [Chunk(refusal=first), Chunk(refusal=second)]
