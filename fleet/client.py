"""The thin client: completions over NATS for agents. Needs nats-py and pydantic, nothing else of the fleet.

    async with Client("nats://127.0.0.1:4222", tenant="acme", agent="planner-1", user=…, password=…) as client:
        async with client.stream("openai/gpt-4o-mini", "Why is the sky blue?") as events:
            async for event in events:
                ...
        answer = await client.complete("openai/gpt-4o-mini", "And at night?", max_tokens=200)

One subscription serves all requests of a process. After a lost connection, or when an event is missing, every open
stream is resumed from what the fleet has stored; readers see each event once and in order.
"""

# ruff: noqa: F405 - pyright reports a name that contracts.errors does not list
import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack
from uuid import uuid4

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from pydantic import ValidationError
from pydantic_core import from_json

from contracts import errors, jetstream_codes, request_ids, subjects
from contracts.control import MSG_ID, MSG_TTL, Cancel, Resume, message_id
from contracts.errors import from_wire
from contracts.events import Cancelled, Completed, Event, Failed, parse
from contracts.nats_connect import NoServer, connect_to_any, first_answer
from contracts.requests import DEFAULT_DEADLINE_S, MAX_REQUEST_BYTES, CompletionRequest, Message, RequestFields, Tool
from contracts.rpc import CostEstimate, CountTokens, EstimateCost, ModelInfo, Models, Refusal, TokenCount
from contracts.subjects import AUTO, Priority, Provider, RpcMethod
from contracts.wire import WireModel, all_without_halves, errors_in_one_line, reason, utc_now
from fleet.direct_connection import DirectConnection
from fleet.errors import *  # noqa: F403 - agents import the errors from either module
from fleet.event_stream import BEGINNING, Patience, Position, Source, Stream
from fleet.publish_tries import Tries

__all__ = ["Client", "Patience", "RequestCancelled", "RequestFields", "Stream"]
__all__ += errors.__all__

log = logging.getLogger(__name__)

Messages = str | Sequence[Message | Mapping[str, Any]]
"""A text is one user message."""
Urgency = Literal["interactive", "background"]
A = TypeVar("A", bound=WireModel)

_HEADER_ROOM_BYTES = 1024
"""The server counts headers as part of a message, and closes a connection that sends a longer one than it takes."""
_OWN_OPTIONS = ("allow_reconnect", "error_cb", "make", "prepare", "reconnected_cb")
"""What the client gives to `connect_to_any` and to `nats.connect` by itself."""


class RequestCancelled(Exception):
    """The request was cancelled before it was complete."""

    def __init__(self, event: Cancelled) -> None:
        super().__init__(f"request {event.request_id} was cancelled")
        self.event = event


class Client:
    """A connection of one agent. Its methods raise subclasses of FleetError only; `complete` also RequestCancelled.

    `url` is one server, or several separated by commas. `options` go to `nats.connect`, also in place of what the
    client sets by itself. With `allow_reconnect`, `error_cb` or `reconnected_cb`, which the client needs for itself,
    it cannot be made (MalformedRequest).

    A text that was cut in the middle of a character may hold half of a surrogate pair, which is sent as U+FFFD.
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
        patience: Patience = Patience(),  # noqa: B008 - it is frozen
        **options: Any,
    ) -> None:
        with _malformed("the name of the tenant or the agent"):
            self.tenant = subjects.token(tenant)
            self.agent = subjects.token(agent)
        if refused := [name for name in _OWN_OPTIONS if name in options]:
            raise MalformedRequest(f"a client cannot be given {', '.join(refused)}: it has its own")
        self._servers: list[str] = options.pop("servers", [part.strip() for part in url.split(",")])
        self._options: dict[str, Any] = {
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
        self._patience = patience
        self._nats = DirectConnection()
        self._streams: dict[str, set[Stream]] = {}
        self._refill: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """One try of each server. Raises ProviderUnavailable when none answers."""

        async def listen_to_all(connection: DirectConnection) -> None:
            await connection.listen_for_acks()
            await connection.listen(subjects.replies_of_agent(self.tenant, self.agent), self._on_event)
            await connection.flush(self._patience.connect_s)

        try:
            self._nats = await connect_to_any(
                DirectConnection,
                self._servers,
                prepare=listen_to_all,
                error_cb=self._on_error,
                reconnected_cb=self._on_reconnect,
                **self._options,
            )
        except NoServer as exc:
            raise ProviderUnavailable(str(exc)) from exc
        return self

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
        priority: Urgency = "interactive",
        deadline_s: float = DEFAULT_DEADLINE_S,
        **fields: Unpack[RequestFields],
    ) -> Stream:
        """One completion, event by event: `Stream` says when it is published, and what ends it.

        `model` is `provider/model`, a bare model or an alias. Raises MalformedRequest.

        A `failed` event is yielded, not raised. Reading raises QueueFull, MalformedRequest, InvalidRequest or
        DeadlineExceeded when the fleet could not be asked or did not answer.
        """
        with _malformed("the request"):
            request = CompletionRequest(
                **_asked(model, messages, **fields),
                id=id or request_ids.new(),
                tenant=self.tenant,
                agent=self.agent,
                deadline=utc_now() + timedelta(seconds=deadline_s),
            )
            publish = partial(self._publish, request, priority=Priority(priority), deadline_s=deadline_s)
        return self._listen(request.id, publish=publish)

    async def complete(
        self,
        model: str,
        messages: Messages,
        *,
        id: str | None = None,  # noqa: A002 - the contract's name
        priority: Urgency = "interactive",
        deadline_s: float = DEFAULT_DEADLINE_S,
        **fields: Unpack[RequestFields],
    ) -> Completed:
        """The whole answer; the arguments are those of `stream`.

        Raises the error of a `failed` event, RequestCancelled, and what reading a stream raises. A task that is
        cancelled here, as `asyncio.wait_for` does it, cancels the request.
        """
        whole: RequestFields = {"stream": False, **fields}
        async with self.stream(model, messages, id=id, priority=priority, deadline_s=deadline_s, **whole) as events:
            async for event in events:
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

        While NATS is away the cancel waits, and is sent when NATS is back. Raises ProviderUnavailable.
        """
        with _malformed("the request's id"):
            cancel = Cancel(request_id=request_id)
        try:
            await self._nats.publish(subjects.cancel(self.tenant), cancel.to_json())
        except nats.errors.Error as exc:
            raise ProviderUnavailable(f"NATS cannot be told to cancel: {exc}") from exc

    async def resume(
        self, request_id: str, *, after: Position = BEGINNING, deadline_s: float | None = None
    ) -> AsyncGenerator[Event]:
        """Goes on reading a request after `(attempt, seq)`, also in another process than the one that sent it.

        However it is left, the request goes on. Raises InvalidRequest when the fleet has nothing stored of it.
        """
        deadline, give_up_s = float("inf"), self._patience.resume_for_s
        with _malformed("what is to be resumed"):
            after = Resume(request_id=request_id, agent=self.agent, after=after).after
            if deadline_s is not None:
                deadline = time.monotonic() + timedelta(seconds=deadline_s).total_seconds()
                give_up_s = min(give_up_s, deadline_s)
        stream = self._listen(request_id, publish=None, after=after, deadline=deadline)
        try:
            await self._feed_stored(stream, give_up=time.monotonic() + give_up_s)
            async for event in stream:
                yield event
        finally:
            await stream.aclose()

    async def count_tokens(
        self,
        model: str,
        messages: Messages,
        *,
        tools: Sequence[Tool | Mapping[str, Any]] | None = None,
        provider: str | None = None,
    ) -> TokenCount:
        """How many input tokens a request would have, as the vendor counts them or as an estimate.

        One worker of the model's provider answers; for a bare model or an alias `provider` says which one is asked.
        Raises MalformedRequest, UnknownTenant, UnknownModel, NoProvider, an error of the vendor's, and
        ProviderUnavailable when no worker answers.
        """
        with _malformed("the question"):
            question = CountTokens(**_asked(model, messages, tools=tools))
        return await self._ask(provider or _pool_of(model), RpcMethod.COUNT_TOKENS, question, answer=TokenCount)

    async def estimate_cost(
        self,
        model: str,
        messages: Messages,
        *,
        tools: Sequence[Tool | Mapping[str, Any]] | None = None,
        max_tokens: int | None = None,
        provider: str | None = None,
    ) -> CostEstimate:
        """The most that a request can cost, for the tenant's prices; `cost` is None when no price is known.

        Without `max_tokens` the model's usual limit bounds the output. Otherwise as `count_tokens`.
        """
        with _malformed("the question"):
            question = EstimateCost(**_asked(model, messages, tools=tools), max_tokens=max_tokens)
        return await self._ask(provider or _pool_of(model), RpcMethod.ESTIMATE_COST, question, answer=CostEstimate)

    async def models(self, provider: str) -> tuple[ModelInfo, ...]:
        """The models that the tenant's key of a provider can be used for. Raises as `count_tokens`."""
        return (await self._ask(provider, RpcMethod.MODELS, None, answer=Models)).models

    async def _ask(self, provider: str, method: RpcMethod, question: WireModel | None, *, answer: type[A]) -> A:
        if provider not in list(Provider):
            known = ", ".join(Provider)
            raise MalformedRequest(f"a question goes to the workers of one provider; name one of {known}")
        subject = subjects.rpc(provider, method, self.tenant)
        payload = question.to_json() if question else b""
        self._must_fit(payload)
        try:
            said = await first_answer(self._nats, subject, payload, within_s=self._patience.answer_s)
        except nats.errors.NoRespondersError as exc:
            raise ProviderUnavailable(f"no worker of the pool {provider} is running") from exc
        except (nats.errors.Error, TimeoutError) as exc:
            raise ProviderUnavailable(f"the pool {provider} did not answer {method}: {reason(exc)}") from exc
        try:
            if "error" in from_json(said):
                raise from_wire(Refusal.model_validate_json(said).error)
            return answer.model_validate_json(said)
        except (ValueError, TypeError) as exc:  # pydantic's and the JSON parser's, and of JSON that is no object
            raise ProviderUnavailable(f"the pool {provider} answered {method} with what is no answer") from exc

    async def _feed_stored(self, stream: Stream, *, give_up: float) -> None:
        """Feeds a stream with what is stored, and tries again until `give_up`, a time of the monotonic clock: NATS
        asks one worker of all, and may not know yet that it is gone."""
        while True:
            try:
                async with aclosing(self._stored(stream.request_id, stream.position)) as stored:
                    async for event in stored:
                        stream.feed(event)
            except ProviderUnavailable:
                if time.monotonic() + self._patience.resume_again_s >= give_up:
                    raise
                await asyncio.sleep(self._patience.resume_again_s)
            else:
                stream.was_fed_with_stored()
                return

    def _listen(
        self,
        request_id: str,
        *,
        publish: Callable[[], Awaitable[float]] | None,
        after: Position = BEGINNING,
        deadline: float = float("inf"),
    ) -> Stream:
        """A stream that is fed with what arrives of a request, until it is forgotten."""
        source = Source(
            stored=partial(self._stored, request_id), cancel=partial(self.cancel, request_id), forget=self._forget
        )
        stream = Stream(request_id, source, publish=publish, after=after, deadline=deadline, patience=self._patience)
        self._streams.setdefault(request_id, set()).add(stream)
        return stream

    def _forget(self, stream: Stream) -> None:
        listening = self._streams.get(stream.request_id, set())
        listening.discard(stream)
        if not listening:
            self._streams.pop(stream.request_id, None)

    async def _publish(self, request: CompletionRequest, *, priority: Priority, deadline_s: float) -> float:
        """Publishes until JetStream has it, with one message id throughout; a full queue is met with patience.

        Returns the deadline, which counts from now, as a time of the monotonic clock.
        """
        patience = self._patience
        deadline = time.monotonic() + deadline_s
        with _malformed("the request"):
            timed = request.model_copy(update={"deadline": utc_now() + timedelta(seconds=deadline_s)})
        payload = timed.to_json()
        self._must_fit(payload)
        subject = subjects.request(_pool_of(request.model) or AUTO, priority, request.tenant)
        backoff_s, busy_s, problem = patience.backoff_first_s, patience.busy_first_s, "NATS did not confirm it"
        msg_id = message_id(request.tenant, request.agent, request.id)
        perhaps_stored = False
        async with Tries() as tries:
            while (left_s := deadline - time.monotonic()) > 0:
                headers = {MSG_ID: msg_id, MSG_TTL: str(int(left_s) + patience.ttl_slack_s)}
                is_full = is_busy = False
                try:
                    publish = partial(self._nats.publish_to_stream, subject, payload, headers=headers)
                    stored = await tries.one_more(publish, within_s=min(patience.puback_s, left_s))
                    if not stored.duplicate or perhaps_stored:
                        return deadline
                    # Nothing of this request was sent before: so somebody else had the message id, and it is not
                    # stored. Should it be a copy all the same, workers know it by tenant, agent and id.
                    msg_id = f"{msg_id}.{uuid4().hex}"
                    continue
                except nats.js.errors.APIError as exc:
                    is_full = exc.err_code in jetstream_codes.NO_ROOM
                    is_busy = exc.err_code == jetstream_codes.TOO_MANY_REQUESTS
                    problem = exc.description or str(exc)
                    if not (is_full or is_busy) and exc.code != 503:
                        raise InvalidRequest(f"NATS refused the request: {problem}") from exc
                except (nats.errors.Error, TimeoutError) as exc:
                    perhaps_stored = True
                    problem = str(exc) or type(exc).__name__
                # While others flood the stream, room is found by asking often: there is some every few milliseconds.
                wait_s = random.uniform(0, busy_s if is_busy else backoff_s)
                if time.monotonic() + wait_s >= deadline and not tries.are_open:
                    if is_full:
                        raise QueueFull(f"the queue of {subject} stayed full until the deadline")
                    break
                await tries.pause(min(wait_s, max(0.0, deadline - time.monotonic())))
                if is_busy:
                    busy_s = min(patience.backoff_first_s, busy_s * 2)
                else:
                    backoff_s = min(patience.backoff_max_s, backoff_s * 2)
        raise DeadlineExceeded(f"the request could not be published before its deadline: {problem}")

    def _must_fit(self, payload: bytes) -> None:
        """Raises MalformedRequest for more than the server takes."""
        room = min(MAX_REQUEST_BYTES, self._nats.max_payload - _HEADER_ROOM_BYTES)
        if len(payload) > room:
            raise MalformedRequest(f"the request has {len(payload)} bytes; at most {room} are possible")

    async def _stored(self, request_id: str, after: Position) -> AsyncGenerator[Event]:
        """The events that the fleet has stored after a position. An empty message ends them, or an error does.

        Raises InvalidRequest when nothing is stored, ProviderUnavailable.
        """
        answers: asyncio.Queue[Msg] = asyncio.Queue()
        inbox = self._nats.new_inbox()
        ask = Resume(request_id=request_id, agent=self.agent, after=after)
        subscription: Subscription | None = None
        try:
            subscription = await self._nats.subscribe(inbox, cb=answers.put)
            await self._nats.publish(subjects.resume(self.tenant), ask.to_json(), reply=inbox)
            while True:
                async with asyncio.timeout(self._patience.resume_s):
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

    def _on_event(self, subject: bytes, data: bytes) -> None:
        request_id = subject.rpartition(b".")[2].decode()
        if (listening := self._streams.get(request_id)) is None:
            return
        if (event := _event(data)) is not None:
            for stream in listening:
                stream.feed(event)

    async def _on_reconnect(self) -> None:
        """What was sent meanwhile is stored; every open stream takes it from there."""
        for request_id, listening in list(self._streams.items()):
            task = asyncio.create_task(self._catch_up(request_id, list(listening)), name=f"resume {request_id}")
            self._refill.add(task)
            task.add_done_callback(self._refill.discard)

    async def _catch_up(self, request_id: str, listening: list[Stream]) -> None:
        """Feeds streams of one request with what is stored. When that fails, they ask for it themselves as soon as an
        event is missing, or none arrives."""
        after = min(stream.position for stream in listening)
        with suppress(FleetError):
            async with aclosing(self._stored(request_id, after)) as stored:
                async for event in stored:
                    for stream in listening:
                        stream.feed(event)
        for stream in listening:
            stream.was_fed_with_stored()

    async def _on_error(self, exc: Exception) -> None:
        log.debug("nats_error", extra={"error": reason(exc)})


def _asked(model: str, messages: Messages, **fields: Any) -> dict[str, Any]:
    """The fields of a request or a question. A text is one user message; halves of surrogate pairs become U+FFFD."""
    said = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    return all_without_halves({"model": model, "messages": said, **fields})


def _pool_of(model: str) -> str:
    """The provider that a model's name begins with; empty for a bare model and an alias, which the fleet resolves."""
    prefix = model.partition("/")[0]
    return prefix if prefix in list(Provider) else ""


def _event(data: bytes) -> Event | None:
    """The event in a message; None, and a line in the log, for one that only a later version of the fleet knows."""
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
