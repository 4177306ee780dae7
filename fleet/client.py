"""The thin client: completions over NATS for agents. Needs nats-py and pydantic, nothing else of the fleet.

    async with Client("nats://127.0.0.1:4222", tenant="acme", agent="planner-1", user=…, password=…) as client:
        async for event in client.stream("openai/gpt-4o-mini", "Why is the sky blue?"):
            ...
        answer = await client.complete("openai/gpt-4o-mini", "And at night?")

One subscription serves all requests of a process. After a lost connection, or when an event is missing, every open
stream is resumed from what the fleet has stored; readers see each event once and in order.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self
from uuid import uuid4

import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client as Nats
from nats.aio.client import Srv
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from pydantic import ValidationError
from pydantic_core import from_json

from contracts import jetstream_codes, subjects
from contracts.control import MSG_ID, MSG_TTL, Cancel, Resume
from contracts.errors import (
    DeadlineExceeded,
    FleetError,
    InvalidRequest,
    MalformedRequest,
    ProviderUnavailable,
    QueueFull,
    from_wire,
)
from contracts.events import Cancelled, Completed, Event, Failed, Terminal, parse
from contracts.requests import DEFAULT_DEADLINE_S, MAX_REQUEST_BYTES, CompletionRequest
from contracts.rpc import Refusal
from contracts.subjects import AUTO, Priority, Provider
from contracts.wire import all_without_halves, errors_in_one_line

__all__ = ["Client", "RequestCancelled", "Stream"]

log = logging.getLogger(__name__)

Position = tuple[int, int]
"""`(attempt, seq)`"""
Messages = str | Sequence[Mapping[str, Any]]

_CONNECT_TIMEOUT_S = 5
_PUBACK_TIMEOUT_S = 2.0
_BACKOFF_FIRST_S, _BACKOFF_MAX_S = 0.1, 5.0
_TTL_SLACK_S = 60
"""The message outlives the deadline by this much, so that a worker can still say `deadline_exceeded`."""
_LAST_WORD_S = 5.0
"""How long after the deadline the fleet may take to say so itself."""
_RESUME_TIMEOUT_S = 3.0
_RESUME_FOR_S, _RESUME_AGAIN_S = 15.0, 0.2
_SILENCE_S = 15.0
"""Without any event for this long, what is stored is asked for: an event may have been lost on the way."""
_GAP_S = 0.5
"""An event that overtook another waits this long before the missing one is asked for."""
_LOST_S, _UNKNOWN_S = 5.0, 30.0
"""An event that is not stored either is given up after so long; and after so long where nobody answers. By then workers
have said again what a restarted server had forgotten. The stream goes on without it: `completed` holds the answer."""
_HEADER_ROOM_BYTES = 1024
"""The server counts headers, and closes the connection of who sends too much."""


class RequestCancelled(Exception):
    """The request was cancelled before it was complete."""

    def __init__(self, event: Cancelled) -> None:
        super().__init__(f"request {event.request_id} was cancelled")
        self.event = event


@dataclass(frozen=True, slots=True)
class _Ways:
    """What a stream needs of its client."""

    publish: Callable[[], Awaitable[None]]
    stored: Callable[[Position], AsyncGenerator[Event]]
    cancel: Callable[[], Awaitable[None]]
    forget: Callable[["Stream"], None]


class Stream(AsyncIterator[Event]):
    """The events of one request, each once and in order; ends after the terminal one.

    A little after the deadline iteration raises DeadlineExceeded by itself.
    """

    def __init__(self, request_id: str, ways: _Ways, *, after: Position, deadline: datetime | None) -> None:
        self.request_id = request_id
        self.position = after
        """`(attempt, seq)` of the last event that was yielded; `resume` goes on from there."""
        self._ways = ways
        self._deadline = deadline
        self._arrived: asyncio.Queue[Event] = asyncio.Queue()
        self._early: dict[Position, Event] = {}
        self._gap_since: float | None = None
        self._published = False
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._ended:
            raise StopAsyncIteration
        try:
            if not self._published:
                self._published = True
                await self._ways.publish()
            event = await self._next()
        except BaseException:
            await self.aclose()
            raise
        self.position = (event.attempt, event.seq)
        self._gap_since = None
        if isinstance(event, Terminal):
            await self.aclose()
        return event

    async def cancel(self) -> None:
        """Asks the fleet to stop; the stream then ends with `cancelled`, unless it had ended already."""
        await self._ways.cancel()

    async def aclose(self) -> None:
        """Stops listening. The request itself goes on; `cancel` stops it."""
        self._ended = True
        self._ways.forget(self)

    def feed(self, event: Event) -> None:
        """An event has arrived, in whatever order and however often."""
        self._arrived.put_nowait(event)

    async def _next(self) -> Event:
        while True:
            if (ready := self._in_order()) is not None:
                return ready
            patience_s = _GAP_S if self._early else _SILENCE_S
            left_s = self._time_left_s()
            try:
                async with asyncio.timeout(min(patience_s, left_s)):
                    event = await self._arrived.get()
            except TimeoutError:
                if left_s <= patience_s:
                    raise DeadlineExceeded(f"request {self.request_id} did not end by its deadline") from None
                await self._fill()
            else:
                self._keep(event)

    def _keep(self, event: Event) -> None:
        if (event.attempt, event.seq) > self.position:
            self._early[event.attempt, event.seq] = event

    def _in_order(self) -> Event | None:
        """The oldest event that has arrived, if none can be missing before it."""
        return self._early.pop(min(self._early)) if self._follows() else None

    def _follows(self) -> bool:
        """Whether none can be missing before the oldest event that has arrived."""
        if not self._early:
            return False
        first = min(self._early)
        attempt, seq = self.position
        return first == (attempt, seq + 1) or (first[0] > attempt and first[1] == 0)

    async def _fill(self) -> None:
        """Takes what is stored. What stays missing even there was lost, and is not waited for any longer."""
        patience_s = _LOST_S
        try:
            with suppress(InvalidRequest):  # nothing is stored
                async for event in self._ways.stored(self.position):
                    self._keep(event)
        except FleetError:
            patience_s = _UNKNOWN_S
        if not self._early or self._follows():
            return
        self._gap_since = self._gap_since or time.monotonic()
        if time.monotonic() - self._gap_since >= patience_s:
            attempt, seq = min(self._early)
            self.position = (attempt, seq - 1)

    def _time_left_s(self) -> float:
        if self._deadline is None:
            return float("inf")
        return max(0.0, (self._deadline - datetime.now(UTC)).total_seconds() + _LAST_WORD_S)


class _Nats(Nats):
    async def _connect_to_server(self, s: Srv) -> None:
        """nats-py forgets the connection of a try that failed, and with it the socket."""
        if self._transport is not None:
            self._transport.close()
        await super()._connect_to_server(s)


class Client:
    """A connection of one agent. Everything raises `contracts.errors.FleetError` subclasses, and nothing else.

    (`complete` has one exception more, RequestCancelled.) Halves of surrogate pairs, which a text has that was cut in
    the middle of a character, are sent as U+FFFD.

    Without `url`, `user` and `password` the connection is as `nats.connect` makes it by default; `options` reach it.
    """

    def __init__(
        self,
        url: str = "nats://127.0.0.1:4222",
        *,
        tenant: str,
        agent: str = "agent",
        user: str | None = None,
        password: str | None = None,
        creds: str | None = None,
        **options: Any,
    ) -> None:
        with _malformed("the name of the tenant or the agent"):
            self.tenant = subjects.token(tenant)
            self.agent = subjects.token(agent)
        self._options: dict[str, Any] = {
            "servers": [part.strip() for part in url.split(",")],
            "name": f"{tenant}/{agent}",
            "inbox_prefix": subjects.inbox_prefix(tenant),
            "dont_randomize": True,
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": 0.5,
            "ping_interval": 10,  # a line that leads nowhere is noticed within half a minute, and resumed from
            "max_outstanding_pings": 2,
            **({"user": user, "password": password or ""} if user else {}),
            **({"user_credentials": creds} if creds else {}),
            **options,
        }
        self._nats: Nats = _Nats()
        self._subscription: Subscription | None = None
        self._streams: dict[str, set[Stream]] = {}
        self._refill: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """One try of each server. Raises ProviderUnavailable when none answers."""
        servers: list[str] = self._options["servers"]
        failures: list[str] = []
        for turn in range(len(servers)):
            first: dict[str, Any] = {
                **self._options,
                "servers": servers[turn:] + servers[:turn],
                "allow_reconnect": False,
                "max_reconnect_attempts": 1,  # nats-py would try for ever at start, too
            }
            try:
                await self._nats.connect(error_cb=self._on_error, reconnected_cb=self._on_reconnect, **first)
                await self._listen_to_all()
                break
            except Exception as exc:  # noqa: BLE001 - bad addresses and logins raise what they like
                said = str(exc) if isinstance(exc, OSError | nats.errors.Error) else ""  # others may repeat a password
                failures.append(f"{servers[turn].rpartition('@')[2]}: {said or type(exc).__name__}")
                with suppress(AssertionError):  # nats-py closes nothing that was not begun
                    await self._nats.close()
                self._nats = _Nats()
        else:
            raise ProviderUnavailable(f"NATS cannot be used at {'; '.join(failures)}")
        self._nats.options |= {
            "allow_reconnect": True,
            "max_reconnect_attempts": self._options["max_reconnect_attempts"],
        }
        return self

    async def _listen_to_all(self) -> None:
        self._subscription = await self._nats.subscribe(
            subjects.replies_of_agent(self.tenant, self.agent), cb=self._on_event
        )
        await self._nats.flush(_CONNECT_TIMEOUT_S)

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        for task in list(self._refill):
            task.cancel()
        await self._nats.close()

    def stream(
        self,
        model: str,
        messages: Messages,
        *,
        id: str | None = None,  # noqa: A002 - the contract's name
        priority: Literal["interactive", "background"] = "interactive",
        deadline_s: float = DEFAULT_DEADLINE_S,
        **fields: Any,
    ) -> Stream:
        """One completion, event by event. `fields` are those of the contract's request (`max_tokens`, `tools`, …).

        A string as `messages` is one user message. It is published when iteration begins. A `failed` event is
        yielded, not raised; iterating raises QueueFull, MalformedRequest or DeadlineExceeded when the fleet could not
        be asked or did not answer.
        """
        with _malformed("the request"):
            deadline = datetime.now(UTC) + timedelta(seconds=deadline_s)
            request = CompletionRequest(
                **all_without_halves({"model": model, "messages": _messages(messages), **fields}),
                id=id or uuid4().hex,
                tenant=self.tenant,
                agent=self.agent,
                deadline=deadline,
            )
            publish = partial(self._publish, request, request.to_json(), Priority(priority))
        return self._listen(request.id, publish, after=(0, -1), deadline=deadline)

    async def complete(self, model: str, messages: Messages, **fields: Any) -> Completed:
        """The whole answer. Raises the error of a `failed` event, and RequestCancelled."""
        whole: dict[str, Any] = {"stream": False, **fields}
        async for event in self.stream(model, messages, **whole):
            match event:
                case Completed():
                    return event
                case Failed():
                    raise from_wire(event.error)
                case Cancelled():
                    raise RequestCancelled(event)
                case _:
                    pass
        raise AssertionError("a stream ends with a terminal event or raises")

    async def cancel(self, request_id: str) -> None:
        """Stops a request wherever it is. It ends with `cancelled`, unless it had ended already.

        While NATS is away it is said as soon as NATS is back.
        """
        with _malformed("the request's id"):
            cancel = Cancel(request_id=request_id)
        try:
            await self._nats.publish(subjects.cancel(self.tenant), cancel.to_json())
        except nats.errors.Error as exc:
            raise ProviderUnavailable(f"NATS cannot be told to cancel: {exc}") from exc

    async def resume(
        self, request_id: str, *, after: Position = (0, -1), deadline_s: float | None = None
    ) -> AsyncGenerator[Event]:
        """Goes on reading a request after `(attempt, seq)`, also in another process than the one that sent it.

        Raises InvalidRequest when the fleet has nothing stored of it.
        """
        with _malformed("what is to be resumed"):
            deadline = None if deadline_s is None else datetime.now(UTC) + timedelta(seconds=deadline_s)
            after = Resume(request_id=request_id, agent=self.agent, after=after).after
        stream = self._listen(request_id, _published_already, after=after, deadline=deadline)
        try:
            await self._feed_stored(stream, after, for_s=min(_RESUME_FOR_S, _seconds_until(deadline)))
            async for event in stream:
                yield event
        finally:
            await stream.aclose()

    async def _feed_stored(self, stream: Stream, after: Position, *, for_s: float) -> None:
        """NATS asks one worker of all, and may not know yet that it is gone: then another one is asked."""
        give_up = time.monotonic() + for_s
        while True:
            try:
                async for event in self._stored(stream.request_id, after):
                    stream.feed(event)
            except ProviderUnavailable:
                if time.monotonic() + _RESUME_AGAIN_S >= give_up:
                    raise
                await asyncio.sleep(_RESUME_AGAIN_S)
            else:
                return

    def _listen(
        self, request_id: str, publish: Callable[[], Awaitable[None]], *, after: Position, deadline: datetime | None
    ) -> Stream:
        ways = _Ways(publish, partial(self._stored, request_id), partial(self.cancel, request_id), self._forget)
        stream = Stream(request_id, ways, after=after, deadline=deadline)
        self._streams.setdefault(request_id, set()).add(stream)
        return stream

    def _forget(self, stream: Stream) -> None:
        listening = self._streams.get(stream.request_id, set())
        listening.discard(stream)
        if not listening:
            self._streams.pop(stream.request_id, None)

    async def _publish(self, request: CompletionRequest, payload: bytes, priority: Priority) -> None:
        """Until JetStream has it, with one message id throughout; a full queue is met with patience."""
        room = min(MAX_REQUEST_BYTES, self._nats.max_payload - _HEADER_ROOM_BYTES)
        if len(payload) > room:
            raise MalformedRequest(f"the request has {len(payload)} bytes; at most {room} are possible")
        subject = subjects.request(_provider_of(request.model), priority, request.tenant)
        give_up = time.monotonic() + _seconds_until(request.deadline)
        backoff_s, problem = _BACKOFF_FIRST_S, "NATS did not confirm it"
        while (left_s := give_up - time.monotonic()) > 0:
            headers = {MSG_ID: request.id, MSG_TTL: str(int(left_s) + _TTL_SLACK_S)}
            full = False
            try:
                await self._nats.jetstream().publish(
                    subject, payload, timeout=min(_PUBACK_TIMEOUT_S, left_s), headers=headers
                )
                return
            except nats.js.errors.APIError as exc:
                full = exc.err_code == jetstream_codes.STORE_FAILED
                problem = exc.description or str(exc)
                if not full and exc.code != 503:
                    raise InvalidRequest(f"NATS refused the request: {problem}") from exc
            except (nats.errors.Error, TimeoutError) as exc:
                problem = str(exc) or type(exc).__name__
            wait_s = random.uniform(0, backoff_s)
            if time.monotonic() + wait_s >= give_up:
                if full:
                    raise QueueFull(f"the queue of {subject} stayed full until the deadline")
                break
            await asyncio.sleep(wait_s)
            backoff_s = min(_BACKOFF_MAX_S, backoff_s * 2)
        raise DeadlineExceeded(f"the request could not be published before its deadline: {problem}")

    async def _stored(self, request_id: str, after: Position) -> AsyncGenerator[Event]:
        """What the fleet has stored after a position, up to an empty message. An error ends it, too.

        Raises InvalidRequest for nothing, ProviderUnavailable.
        """
        answers: asyncio.Queue[Msg] = asyncio.Queue()
        inbox = self._nats.new_inbox()
        ask = Resume(request_id=request_id, agent=self.agent, after=after)
        subscription: Subscription | None = None
        try:
            subscription = await self._nats.subscribe(inbox, cb=answers.put)
            await self._nats.publish(subjects.resume(self.tenant), ask.to_json(), reply=inbox)
            while True:
                async with asyncio.timeout(_RESUME_TIMEOUT_S):
                    msg = await answers.get()
                if (msg.headers or {}).get("Status") == "503":
                    raise ProviderUnavailable("no worker is there to resume from")
                if not msg.data:
                    return
                if (event := _resumed(msg.data)) is not None:
                    yield event
        except (nats.errors.Error, TimeoutError) as exc:
            raise ProviderUnavailable(f"resume failed: {exc!r}") from exc
        finally:
            if subscription and not self._nats.is_closed:
                await subscription.unsubscribe()

    async def _on_event(self, msg: Msg) -> None:
        request_id = msg.subject.rpartition(".")[2]
        if (listening := self._streams.get(request_id)) is None:
            return
        if (event := _event(msg.data)) is not None:
            for stream in listening:
                stream.feed(event)

    async def _on_reconnect(self) -> None:
        """What was sent meanwhile is stored; every open stream takes it from there."""
        for request_id, listening in list(self._streams.items()):
            task = asyncio.create_task(self._catch_up(request_id, list(listening)), name=f"resume {request_id}")
            self._refill.add(task)
            task.add_done_callback(self._refill.discard)

    async def _catch_up(self, request_id: str, listening: list[Stream]) -> None:
        """What cannot be had now is asked for again when an event is missing, or none arrives."""
        after = min(stream.position for stream in listening)
        with suppress(FleetError):
            async for event in self._stored(request_id, after):
                for stream in listening:
                    stream.feed(event)

    async def _on_error(self, exc: Exception) -> None:
        log.debug("nats_error", extra={"error": f"{type(exc).__name__}: {exc}"})


async def _published_already() -> None:
    """A request that is resumed is in the queue, or has been."""


def _messages(messages: Messages) -> Any:
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)


def _provider_of(model: str) -> str:
    prefix = model.partition("/")[0]
    return prefix if prefix in list(Provider) else AUTO


def _seconds_until(deadline: datetime | None) -> float:
    return DEFAULT_DEADLINE_S if deadline is None else (deadline - datetime.now(UTC)).total_seconds()


def _event(data: bytes) -> Event | None:
    """None, and a line in the log, for what a later version of the fleet may say."""
    try:
        return parse(data)
    except ValidationError:
        log.warning("event_unknown")
        return None


def _resumed(data: bytes) -> Event | None:
    """The event in an answer to `resume`. Raises the error that is in its place."""
    with suppress(ValueError):
        match from_json(data):
            case {"type": _}:
                pass
            case {"error": error}:
                raise from_wire(Refusal(error=error).error)
            case _:
                pass
    return _event(data)


@contextmanager
def _malformed(what: str) -> Generator[None]:
    """Raises MalformedRequest in place of what pydantic and Python say of arguments that no request can hold."""
    try:
        yield
    except ValidationError as exc:
        raise MalformedRequest(f"{what} is not valid: {errors_in_one_line(exc)}") from None
    except (ValueError, TypeError, OverflowError, RecursionError) as exc:
        raise MalformedRequest(f"{what} is not valid: {exc}") from exc
