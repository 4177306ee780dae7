"""Taking the questions that agents and the admin API ask: at once an answer, a place in a lane, or "busy".

They come on a connection of their own, because a server cuts off a connection that it cannot send on as fast as
messages come, and requests, leases and events must not end with it. question_feed.py bounds what is sent at all.
Resume has a lane of its own, so neither kind of question keeps the other waiting; the pools of one worker share the
lane of rpc.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial

import nats.errors
from nats.aio.msg import Msg
from pydantic import ValidationError

from contracts import subjects
from contracts.control import Resume
from contracts.errors import FleetError, InvalidRequest, MalformedRequest, ProviderUnavailable
from contracts.events import Event, Terminal, parse
from contracts.requests import MAX_REQUEST_BYTES
from contracts.rpc import MAX_SHORT_QUESTION_BYTES, Refusal
from contracts.subjects import RpcMethod
from contracts.wire import errors_in_one_line
from runtime.broker import Broker
from workers.clock import Clock
from workers.control.lane import Bound, Lane
from workers.control.question_feed import QuestionFeed
from workers.control.rpc import TIMEOUT_S, Rpc
from workers.jetstream import stored_events, stored_results

log = logging.getLogger(__name__)

_BUSY_S = 1.0
_YIELD_EVERY = 20
_UNSENT_BYTES = 1024**2
"""With more waiting to be sent, "busy" is not said any more: the asker's own patience ends its question."""
_TENANT_OF_CONTROL, _TENANT_OF_RPC = 3, 5
"""Which token of the subject is the tenant."""
_LONG = (RpcMethod.COUNT_TOKENS, RpcMethod.ESTIMATE_COST)
"""The methods that are asked about a whole request."""


@dataclass(frozen=True, slots=True)
class _Question:
    subject: str
    reply: str
    data: bytes
    asked_at: float
    """Monotonic."""


_Answer = Callable[[_Question], Awaitable[None]]


class Questions:
    """Answers for one worker process, whose pools are `providers`. `broker` is the connection of their own, and
    `tenants` says which are known."""

    def __init__(
        self,
        broker: Broker,
        rpc: Rpc,
        *,
        providers: Iterable[str],
        tenants: Callable[[], Iterable[str]],
        clock: Clock,
    ) -> None:
        self._broker = broker
        self._rpc = rpc
        self._clock = clock
        self.resumes = Lane(
            of_tenant=Bound(places=4, waiting=64, size=1024**2), of_all=Bound(places=16, waiting=1024, size=8 * 1024**2)
        )
        self.rpcs = Lane(
            of_tenant=Bound(places=8, waiting=32, size=2 * MAX_REQUEST_BYTES),
            of_all=Bound(places=256, waiting=1024, size=8 * MAX_REQUEST_BYTES),
        )

        feed = partial(QuestionFeed, broker.client, tenants=tenants, clock=clock)
        self.feeds = [
            feed(subjects.ALL_RESUMES, tenant_at=_TENANT_OF_CONTROL, queue="resume", take=self._take_resume),
            *(
                feed(
                    subjects.all_rpcs(provider), tenant_at=_TENANT_OF_RPC, queue=f"rpc-{provider}", take=self._take_rpc
                )
                for provider in providers
            ),
        ]

    async def subscribe(self) -> None:
        """One worker of the fleet, or of the pool, answers each question."""
        for feed in self.feeds:
            await feed.open()

    async def run(self) -> None:
        """Keeps floods out, for ever."""
        async with asyncio.TaskGroup() as tasks:
            for feed in self.feeds:
                tasks.create_task(feed.run(), name="look for floods")

    async def close(self) -> None:
        await self.resumes.close()
        await self.rpcs.close()

    async def _take_resume(self, msg: Msg) -> None:
        tenant = subjects.tenant_of_control(msg.subject)
        await self._take(msg, self._resume, tenant, lane=self.resumes, most_bytes=MAX_SHORT_QUESTION_BYTES)

    async def _take_rpc(self, msg: Msg) -> None:
        method, tenant = subjects.method_and_tenant_of_rpc(msg.subject)
        most_bytes = MAX_REQUEST_BYTES if method in _LONG else MAX_SHORT_QUESTION_BYTES
        await self._take(msg, self._ask, tenant, lane=self.rpcs, most_bytes=most_bytes)

    async def _take(self, msg: Msg, answer: _Answer, tenant: str, *, lane: Lane, most_bytes: int) -> None:
        """Nothing is kept of a question, and nothing of it is read, before it is known to have room."""
        if not msg.reply:
            return
        size = len(msg.data)
        question = _Question(msg.subject, msg.reply, msg.data, self._clock.monotonic())
        if size > most_bytes:
            await self._refuse(question, MalformedRequest(f"the question has {size} bytes; {most_bytes} are allowed"))
        elif not lane.take(tenant, partial(self._run, answer, question), size=size):
            await self._refuse(question, _busy())

    async def _run(self, answer: _Answer, question: _Question) -> None:
        try:
            if self._clock.monotonic() - question.asked_at > TIMEOUT_S:
                raise _busy()
            await answer(question)
        except FleetError as error:
            await self._refuse(question, error)
        except (nats.errors.Error, TimeoutError) as exc:
            log.warning("answer_failed", extra={"subject": question.subject, "error": type(exc).__name__})
            await self._refuse(question, ProviderUnavailable(f"NATS did not answer: {type(exc).__name__}"))
        except Exception:  # the top of a task
            log.exception("answer_crashed", extra={"subject": question.subject})

    async def _resume(self, question: _Question) -> None:
        """Sends the stored events that the agent has not seen, and an empty message after the last one.

        The result is the end that counts. An earlier one that is stored as the last event was said by a worker that had
        lost the request, and said again after NATS had forgotten what others said since.
        """
        tenant = subjects.tenant_of_control(question.subject)
        try:
            ask = Resume.model_validate_json(question.data)
        except ValidationError as exc:
            raise MalformedRequest(f"the question is not valid: {errors_in_one_line(exc)}") from None
        found, last, held = 0, None, b""

        async def send(event: Event, data: bytes) -> None:
            if (event.attempt, event.seq) > ask.after:
                await self._broker.client.publish(question.reply, data)

        try:
            async with aclosing(
                stored_events.raw(self._broker, subjects.reply(tenant, ask.agent, ask.request_id))
            ) as stored:
                async for data in stored:
                    found += 1
                    if last and held:
                        await send(last, held)
                    last = parse(data)
                    held = data if isinstance(last, Terminal) else b""
                    if not held:
                        await send(last, data)
                    if found % _YIELD_EVERY == 0:
                        await self._clock.sleep(0)
        except nats.errors.NoRespondersError:  # a server that was restarted has no stream of replies yet
            if found:
                raise
        result = await stored_results.read(self._broker, subjects.result(tenant, ask.agent, ask.request_id))
        if last is None and result is None:
            raise InvalidRequest(f"nothing is stored of request {ask.request_id}: it has not begun, or was forgotten")
        if result and (last is None or (result.event.attempt, result.event.seq) > (last.attempt, last.seq)):
            await send(result.event, result.said)
        elif last and held:
            await send(last, held)
        await self._broker.client.publish(question.reply, b"")

    async def _ask(self, question: _Question) -> None:
        provider = question.subject.split(".")[3]
        method, tenant = subjects.method_and_tenant_of_rpc(question.subject)
        time_left_s = question.asked_at + TIMEOUT_S - self._clock.monotonic()
        answer = await self._rpc.answer(provider, method, tenant, question.data or b"{}", time_left_s=time_left_s)
        await self._broker.client.publish(question.reply, answer.to_json())

    async def _refuse(self, question: _Question, error: FleetError) -> None:
        if self._broker.client.pending_data_size > _UNSENT_BYTES:
            return
        with suppress(nats.errors.Error):
            await self._broker.client.publish(question.reply, Refusal(error=error.to_wire()).to_json())


def _busy() -> ProviderUnavailable:
    return ProviderUnavailable(
        "the worker has as many open questions of this tenant, or of all, as it takes; ask again later",
        retry_after_s=_BUSY_S,
    )
