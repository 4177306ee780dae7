"""One request → one outcome.

The order of the last three steps is what makes the fleet safe: the terminal event, then the usage record with its
PubAck awaited, then the ack, all on one connection. Whatever dies in between is repeated, and what is repeated is
deduplicated by id.
"""

import logging
import random
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import assert_never

import nats.errors

from contracts import subjects
from contracts.errors import (
    AuthenticationFailed,
    DeadlineExceeded,
    FleetError,
    InternalError,
    InvalidRequest,
    MalformedRequest,
    NoProvider,
    StreamInterrupted,
    UnknownTenant,
)
from contracts.events import FailedAttempt, Started, Timings
from contracts.providers import PublishedProvider, PublishedTenant
from contracts.subjects import AUTO
from contracts.subjects import Provider as ProviderName
from contracts.usage import Cost, Outcome, UsageRecord
from runtime.broker import Broker
from runtime.catalogue import provider_of_model
from runtime.sealing import Keyring
from workers import booking, policy, recovery, replies, telemetry
from workers.admission import Admission
from workers.booking import Attempt
from workers.breaker import OutOfService
from workers.budgets import BudgetedCall, Budgets
from workers.cancellations import Cancellations
from workers.clock import Clock
from workers.config import Configuration
from workers.dead_letters import bury, reply_address
from workers.endpoints import Endpoints, Permit, Visit
from workers.handover import hand_over, is_proven
from workers.intake import Delivery, NotNow, Settlement
from workers.interruption import Interrupted, Interruption, Reason
from workers.job import Job, check_model, parse_handover, parse_request
from workers.lease import Lost
from workers.memory import memory
from workers.providers.base import Call, Finish, Provider, Stated, Target
from workers.publisher import NotStored, Publisher, TooLarge
from workers.routing import Candidate, Routes
from workers.stream import SAID_AGAIN_S, EventStream, LiveStreams
from workers.waiting import WaitingRoom

log = logging.getLogger(__name__)

_NO_ANSWER_S = 1.0
"""Until a request whose past cannot be read is delivered again."""
_WAITS = 5
"""For what other workers say again; the stream of events may be gone for longer."""


@dataclass(frozen=True, slots=True)
class Services:
    """What every request needs, wired once in `workers.app`."""

    worker: str
    broker: Broker
    publisher: Publisher
    config: Configuration
    endpoints: Endpoints
    keyring: Keyring
    default_models: Mapping[str, str]
    cancellations: Cancellations
    live: LiveStreams
    admission: Admission
    budgets: Budgets
    waiting: WaitingRoom
    clock: Clock
    rng: random.Random


@dataclass(frozen=True, slots=True)
class _Setback:
    """An attempt came to nothing."""

    error: FleetError
    output_sent: bool = False
    out_of_service_s: float | None = None
    """No endpoint may be called for this long."""


_Ended = Settlement
"""An attempt ended the request; this is what becomes of its message."""


class Execution:
    """Runs the requests of one pool. Without an adapter (for `auto`) it resolves the model and hands over."""

    def __init__(self, pool: str, adapter: Provider | None, services: Services) -> None:
        self._pool = pool
        self._adapter = adapter
        self._use = services

    async def run(self, delivery: Delivery) -> Settlement:
        """Raises only what means "deliver this again": NATS does not confirm, or a bug of ours after the end."""
        if delivery.deliveries > 1:
            telemetry.REDELIVERIES.labels(self._pool).inc()
        try:
            address, request = parse_request(delivery)
            handover = parse_handover(delivery, address)
            if handover is None:
                check_model(address, request)
        except MalformedRequest as error:
            return await self._reject(delivery, error)
        job = Job(
            delivery=delivery,
            address=address,
            request=request,
            handover=handover,
            events=EventStream(
                self._use.publisher.event,
                subject=subjects.reply(request.tenant, request.agent, request.id),
                request_id=request.id,
                attempt=handover.attempt if handover else 1,
            ),
            interruption=Interruption(),
            queued_at=handover.queued_at if handover else delivery.queued_at,
            queued_s=max(0.0, (self._use.clock.now() - delivery.queued_at).total_seconds()),
            tenant=PublishedTenant(slug=address.tenant),
        )
        with (
            self._use.live.keep(job.events),
            self._use.cancellations.watch(request.tenant, request.id, job.interruption),
        ):
            try:
                settlement = await self._run(job)
            finally:
                if job.reservation is not None:
                    self._use.budgets.owe(job.reservation.hold)
            await self._use.live.say_what_was_lost(job.events)
            return settlement

    async def _run(self, job: Job) -> Settlement:
        try:
            return await self._serve(job)
        except Interrupted as interrupted:
            return await self._interrupted(job, interrupted.reason)
        except (NotStored, NotNow, Lost):
            raise
        except recovery.Poisonous as error:
            await bury(self._use.publisher, job.delivery, error, provider=self._pool)
            return await self._fail(job, error)
        except FleetError as error:
            return await self._fail(job, error)
        except Exception:
            if job.events.ended:
                raise
            log.exception("request_crashed", extra=job.log_facts())
            return await self._fail(job, InternalError("the fleet failed on this request; its operators can see why"))

    async def _serve(self, job: Job) -> Settlement:
        await self._inherit(job)
        if (settled := await self._recover(job)) is not None:
            return settled
        await self._admit(job)
        while True:
            job.interruption.check()
            self._check_deadline(job)
            candidate = job.candidates.pop(0)
            if candidate.provider != self._pool or self._adapter is None:
                return await self._move(job, candidate)
            result = await self._try(job, self._adapter, Visit(candidate))
            if isinstance(result, Settlement):
                return result
            await self._retrying(job, result, next_up=job.candidates[0])

    async def _inherit(self, job: Job) -> None:
        """The tenant's settings, the way to go, and what the pools before this one have done."""
        tenant = await self._use.config.tenant(job.address.tenant)
        if tenant is None:
            raise UnknownTenant(f"there is no tenant {job.address.tenant}; add it with POST /api/v1/tenants")
        job.tenant = tenant
        if job.handover:
            job.candidates = [Candidate.parse(text) for text in (job.handover.model, *job.handover.remaining)]
            job.attempts = job.handover.vendor_calls
            job.history = list(job.handover.history)
            job.bill = booking.Bill.inherited(job.handover.usage, job.handover.cost)
            return
        prefix = job.request.model.partition("/")[0]
        if prefix in list(ProviderName):
            await self._use.config.provider(tenant.slug, prefix)
        routes = Routes(
            tenant=tenant,
            providers=self._use.config.providers_of(tenant.slug),
            default_models=self._use.default_models,
            vendor_of=provider_of_model,
        )
        pool = None if job.address.provider == AUTO else job.address.provider
        job.candidates = routes.candidates(job.request.model, pool=pool, fallbacks=job.request.fallbacks)

    async def _recover(self, job: Job) -> Settlement | None:
        """What an earlier delivery left to do: books what is not booked. None: the request goes on here."""
        if not job.may_have_a_past:
            return None
        past = await self._past(job)
        if past is None:
            return None
        if job.runs_once_more:
            job.events.go_on_after(past.last)
            return None
        if recovery.has_moved(past, pool=self._pool):
            return Settlement.ACK
        if past.last_started is not None and not past.booked:
            await self._book_dead(job, past, past.last_started)
        if past.ended:
            return Settlement.ACK
        job.attempts += past.vendor_calls
        job.history += past.failed
        job.candidates = recovery.remaining(past, job.candidates)
        job.events.go_on_after(past.last)
        if past.abandoned:
            log.warning("attempt_abandoned", extra={**job.log_facts(), "attempt": past.last.attempt})
            if past.dead_attempts >= recovery.MAX_DEAD_ATTEMPTS:
                raise recovery.Poisonous(f"{past.dead_attempts} workers died while they worked on this request")
            if past.output_sent and job.request.on_interrupt == "fail":
                raise StreamInterrupted("the worker died after output was sent", provider=self._pool)
        return None

    async def _past(self, job: Job) -> recovery.Past | None:
        """Raises NotNow when NATS cannot say."""
        try:
            events = await replies.events(self._use.broker, job.events.subject)
            past = recovery.read([event for event in events if event.attempt >= job.events.attempt])
            if past is None and (job.delivery.deliveries > 1 or job.delivery.may_be_again):
                await self._mind_what_is_forgotten(job)
        except (nats.errors.Error, TimeoutError) as exc:
            raise NotNow(_NO_ANSWER_S) from exc
        return past

    async def _mind_what_is_forgotten(self, job: Job) -> None:
        """Raises NotNow as long as other workers may yet say again what they had said."""
        kept = await memory(self._use.broker)
        if kept is not None and kept.begins_at <= job.delivery.queued_at:
            return
        waits = job.delivery.may_be_again and job.delivery.deliveries <= _WAITS
        if waits and (kept is None or kept.age_s < SAID_AGAIN_S):
            raise NotNow(SAID_AGAIN_S)
        job.events.skip_attempts(job.delivery.deliveries - 1)

    async def _admit(self, job: Job) -> None:
        """A request counts against its tenant's limits once, before anything is done for it."""
        if job.is_new and not is_proven(self._use.keyring, job):
            job.interruption.check()
            self._check_deadline(job)
            delivered_before = job.delivery.deliveries > 1
            await self._use.admission.admit(
                job.tenant, key=str(job.delivery.stream_seq), delivered_before=delivered_before
            )

    async def _move(self, job: Job, to: Candidate) -> Settlement:
        if job.handover and job.handover.hops >= policy.MAX_ATTEMPTS:
            raise NoProvider(f"the request was handed over {job.handover.hops} times and found no provider")
        job.delivery.lease.check()
        await hand_over(
            self._use.publisher, self._use.keyring, job, to, pool=self._pool, time_left_s=self._time_left_s(job)
        )
        log.info("handed_over", extra={**job.log_facts(), "to": str(to)})
        return Settlement.ACK

    async def _try(self, job: Job, adapter: Provider, visit: Visit) -> Settlement | FleetError:
        """Works on one candidate until the request has ended, or the error that makes the next candidate due."""
        while True:
            result = await self._attempt(job, adapter, visit)
            if isinstance(result, Settlement):
                return result
            error = result.error
            job.drop_smaller_windows(visit.candidate, error)
            match await self._decide(job, visit, result):
                case policy.RetryHere(delay_s):
                    await self._retrying(job, error, next_up=visit.candidate, delay_s=delay_s)
                    with self._use.waiting.seat(job.address.tenant, due_s=delay_s):
                        async with job.interruption:
                            await self._use.clock.sleep(delay_s)
                case policy.AwaitService(patience_s):
                    await self._retrying(job, error, next_up=visit.candidate, delay_s=result.out_of_service_s or 0)
                    visit.patience_s = patience_s
                case policy.NextEndpoint():
                    await self._retrying(job, error, next_up=visit.candidate)
                    visit.leave()
                case policy.NextFallback():
                    return error
                case policy.FailInterrupted():
                    raise StreamInterrupted(
                        f"the stream broke after output was sent: {error.message}", provider=visit.candidate.provider
                    ) from error
                case policy.Fail():
                    raise error
            self._check_deadline(job)

    async def _decide(self, job: Job, visit: Visit, setback: _Setback) -> policy.Decision:
        if isinstance(setback.error, AuthenticationFailed) and not visit.key_read_anew:
            visit.key_read_anew = True
            if await self._use.endpoints.key_has_changed(visit, tenant=job.address.tenant):
                return policy.RetryHere(0)
        return policy.decide(
            setback.error,
            policy.Situation(
                attempts=job.attempts,
                tries_here=visit.tries,
                output_sent=setback.output_sent and job.request.stream,
                on_interrupt=job.request.on_interrupt,
                endpoints_left=len(visit.endpoints) > 1,
                fallbacks_left=bool(job.candidates),
                time_left_s=self._time_left_s(job),
                jitter=self._use.rng.random(),
                out_of_service_s=setback.out_of_service_s,
                waited_for_service=visit.patience_s > 0,
            ),
        )

    async def _attempt(self, job: Job, adapter: Provider, visit: Visit) -> _Ended | _Setback:
        """One vendor call, or the error that prevented it."""
        candidate = visit.candidate
        try:
            adapter.check_supported(job.request, model=candidate.model)
            configured = await self._configured(job, candidate)
            await self._reserve(job, candidate)
            permit = await self._use.endpoints.enter(
                visit, configured, interruption=job.interruption, time_left_s=self._time_left_s(job)
            )
        except OutOfService as exc:
            await self._unreserve(job)
            return _Setback(exc.to_error(), out_of_service_s=exc.retry_after_s)
        except FleetError as error:
            await self._unreserve(job)
            return _Setback(error)
        except BaseException:
            await self._unreserve(job)
            raise
        async with permit:
            return await self._call_endpoint(job, adapter, visit, configured, permit)

    async def _call_endpoint(
        self, job: Job, adapter: Provider, visit: Visit, configured: PublishedProvider, permit: Permit
    ) -> _Ended | _Setback:
        attempt = Attempt(
            number=job.events.attempt,
            candidate=visit.candidate,
            provider_id=configured.provider_id,
            endpoint=permit.endpoint.name,
            started_at=self._use.clock.now(),
            started=self._use.clock.monotonic(),
        )
        call = Call(
            request=job.affordable_request,
            model=visit.candidate.model,
            target=Target(permit.endpoint, configured.config.timeouts, permit.key.secret if permit.key else None),
            time_left_s=self._time_left_s(job),
        )
        return await self._call_vendor(job, adapter, attempt, call, permit)

    async def _call_vendor(
        self, job: Job, adapter: Provider, attempt: Attempt, call: Call, permit: Permit
    ) -> _Ended | _Setback:
        job.delivery.lease.check()
        job.attempts += 1
        if job.attempts == 1:
            telemetry.QUEUED.labels(self._pool).observe(job.queued_s)
        await job.events.started(
            provider=attempt.candidate.provider,
            endpoint=attempt.endpoint,
            model=attempt.candidate.model,
            worker=self._use.worker,
            at=attempt.started_at,
        )
        try:
            async with job.interruption:
                await self._stream(job, adapter, attempt, call, permit)
        except Interrupted as interrupted:
            return await self._interrupted(job, interrupted.reason, attempt)
        except FleetError as error:
            await permit.failed(error)
            return await self._set_back(job, attempt, error)
        except Exception:
            log.exception("adapter_crashed", extra={**job.log_facts(), "provider": self._pool})
            return await self._set_back(job, attempt, InternalError(f"the adapter of {self._pool} failed"))
        await permit.completed()
        return await self._complete(job, attempt)

    async def _stream(self, job: Job, adapter: Provider, attempt: Attempt, call: Call, permit: Permit) -> None:
        async with aclosing(adapter.stream_completion(call)) as chunks:
            async for item in chunks:
                if isinstance(item, Finish):
                    attempt.finish = item
                    continue
                if isinstance(item, Stated):
                    attempt.stated = item
                    continue
                if attempt.time_to_first_token_s is None:
                    attempt.time_to_first_token_s = self._use.clock.monotonic() - attempt.started
                    await permit.first_output(attempt.time_to_first_token_s)
                attempt.gathering.add(item)
                if job.request.stream:
                    await job.events.delta(item)

    async def _complete(self, job: Job, attempt: Attempt) -> Settlement:
        finish = attempt.finish
        if finish is None:
            raise AssertionError(f"the adapter of {self._pool} ended without a Finish and without an error")
        book = self._entry(job, attempt, outcome=Outcome.COMPLETED)
        try:
            await job.events.completed(
                message=attempt.gathering.message(finish.provider_data),
                finish_reason=finish.finish_reason,
                usage=book.usage,
                cost=Cost(amount=book.cost) if book.cost is not None else None,
                provider=attempt.candidate.provider,
                model=attempt.candidate.model,
                response_model=finish.response_model,
                response_id=finish.response_id,
                service_tier=finish.service_tier,
                timings=Timings(
                    queued_s=job.queued_s,
                    time_to_first_token_s=attempt.time_to_first_token_s,
                    duration_s=book.duration_s,
                ),
                warnings=(*finish.warnings, *job.warnings),
            )
        except TooLarge:
            await self._book(job, book)
            job.bill.add(book)
            raise InvalidRequest("the answer is larger than one message may be; bound it with max_tokens") from None
        await self._book(job, book)
        self._note_end(job, "completed", "")
        return Settlement.ACK

    async def _set_back(self, job: Job, attempt: Attempt, error: FleetError) -> _Setback:
        book = self._entry(job, attempt, outcome=Outcome.FAILED, error=error)
        await self._book(job, book)
        job.bill.add(book)
        job.history.append(
            FailedAttempt(provider=attempt.candidate.provider, model=attempt.candidate.model, error=error.to_wire())
        )
        log.debug("attempt_failed", extra={**job.log_facts(), "attempt": attempt.number, "code": error.code})
        return _Setback(error, output_sent=attempt.gathering.started)

    async def _interrupted(self, job: Job, reason: Reason, attempt: Attempt | None = None) -> Settlement:
        """The agent cancelled, or this worker has to go; with an attempt, that one is booked."""
        match reason:
            case Reason.CANCELLED:
                book = self._entry(job, attempt, outcome=Outcome.CANCELLED) if attempt else None
                if book:
                    job.bill.add(book)
                await job.events.cancelled(usage=job.bill.usage, cost=job.bill.cost())
                if book:
                    await self._book(job, book)
                self._note_end(job, "cancelled", "")
                return Settlement.ACK
            case Reason.DRAINING:
                if attempt:
                    error = StreamInterrupted("the worker was stopped; another one goes on", provider=self._pool)
                    await self._set_back(job, attempt, error)
                    await self._retrying(job, error, next_up=attempt.candidate)
                return Settlement.NAK
            case _:
                assert_never(reason)

    async def _fail(self, job: Job, error: FleetError) -> Settlement:
        job.delivery.lease.check()
        await job.events.failed(
            error.to_wire(), attempts=tuple(job.history), usage=job.bill.usage, cost=job.bill.cost()
        )
        self._note_end(job, "failed", error.code)
        return Settlement.ACK

    async def _reject(self, delivery: Delivery, error: MalformedRequest) -> Settlement:
        """Not a request that could be worked on: the bytes are kept, and the agent is told where it can be known."""
        await bury(self._use.publisher, delivery, error, provider=self._pool)
        if address := reply_address(delivery):
            agent, request_id = address
            events = EventStream(
                self._use.publisher.event,
                subject=subjects.reply(delivery.tenant, agent, request_id),
                request_id=request_id,
                attempt=1,
            )
            nothing = booking.Bill()
            await events.failed(error.to_wire(), attempts=(), usage=nothing.usage, cost=nothing.cost())
        telemetry.REQUESTS.labels(self._pool, "failed", error.code).inc()
        return Settlement.TERM

    async def _retrying(self, job: Job, error: FleetError, *, next_up: Candidate, delay_s: float = 0) -> None:
        await job.events.retrying(error.to_wire(), delay_s=delay_s, provider=next_up.provider, model=next_up.model)

    async def _configured(self, job: Job, candidate: Candidate) -> PublishedProvider:
        configured = await self._use.config.provider(job.address.tenant, candidate.provider)
        if configured is None:
            raise NoProvider(
                f"tenant {job.address.tenant} has no active provider {candidate.provider}; "
                "add one with POST /api/v1/llm-providers"
            )
        return configured

    def _entry(self, job: Job, attempt: Attempt, *, outcome: Outcome, error: FleetError | None = None) -> UsageRecord:
        return booking.record(
            job.request,
            attempt,
            outcome=outcome,
            error_code=error.code if error else None,
            usage=booking.usage_of(attempt, job.request, error),
            prices=job.tenant.prices,
            finished_at=self._use.clock.now(),
            duration_s=self._use.clock.monotonic() - attempt.started,
            queued_s=job.queued_s,
        )

    async def _book_dead(self, job: Job, past: recovery.Past, started: Started) -> None:
        """The last attempt of a worker that died, from the events that it sent."""
        configured = await self._use.config.provider(job.address.tenant, started.provider)
        attempt = booking.attempt_from_events(
            started, past.events, provider_id=configured.provider_id if configured else ""
        )
        outcome, error = booking.outcome_of(past.last)
        book = booking.record(
            job.request,
            attempt,
            outcome=outcome,
            error_code=error.code if error else None,
            usage=booking.usage_of(attempt, job.request, error),
            prices=job.tenant.prices,
            finished_at=self._use.clock.now(),
            duration_s=max(0.0, (self._use.clock.now() - started.at).total_seconds()),
            queued_s=max(0.0, (started.at - job.queued_at).total_seconds()),
        )
        job.bill.add(book)
        await self._book(job, book)

    async def _reserve(self, job: Job, candidate: Candidate) -> None:
        call = BudgetedCall(
            job.request,
            provider=candidate.provider,
            model=candidate.model,
            at=self._use.clock.now(),
            deadline=job.deadline,
        )
        job.reservation = await self._use.budgets.reserve(job.tenant, call, interruption=job.interruption)

    async def _unreserve(self, job: Job) -> None:
        """For an attempt that is not made."""
        if job.reservation is not None:
            await self._use.budgets.release(job.reservation.hold)
            job.reservation = None

    async def _book(self, job: Job, book: UsageRecord) -> None:
        await self._use.budgets.settle(job.tenant, book, job.reservation)
        job.reservation = None
        await self._use.admission.count_tokens(job.tenant, book.usage, key=f"{job.delivery.stream_seq}-{book.attempt}")
        await self._use.publisher.durable(subjects.usage(book.provider, book.tenant), book.to_json(), msg_id=book.id)
        telemetry.count_attempt(book)

    def _check_deadline(self, job: Job) -> None:
        if self._time_left_s(job) <= 0:
            raise DeadlineExceeded(f"the deadline {job.deadline.isoformat()} has passed")

    def _time_left_s(self, job: Job) -> float:
        return (job.deadline - self._use.clock.now()).total_seconds()

    def _note_end(self, job: Job, outcome: str, code: str) -> None:
        telemetry.REQUESTS.labels(self._pool, outcome, code).inc()
        facts = {**job.log_facts(), "outcome": outcome, "attempts": job.attempts, "queued_s": round(job.queued_s, 4)}
        log.info("request_ended", extra={**facts, "code": code} if code else facts)
