"""One request → one outcome.

The order of the last three steps is what makes the fleet safe: the terminal event, then the usage record with its
PubAck awaited, then the ack, all on one connection. Whatever dies in between is repeated, and what is repeated is
deduplicated by id.
"""

import logging
from typing import assert_never

from contracts import subjects
from contracts.errors import (
    AuthenticationFailed,
    DeadlineExceeded,
    FleetError,
    InternalError,
    MalformedRequest,
    NoProvider,
)
from contracts.providers import PublishedTenant
from runtime.jetstream.publishing import NotStored
from workers import telemetry
from workers.endpoints.admission import CandidateTries
from workers.endpoints.names import Candidate
from workers.intake.delivery import Ack, Acked, Delivery, NotNow, Terminated
from workers.intake.lease import Lost
from workers.interruption import Interrupted, Interruption
from workers.providers.base import CredentialReplaced, Provider
from workers.request import policy, recovery, usage_records
from workers.request.attempts import AttemptFailed, AttemptRunner, note_end
from workers.request.dead_letters import bury, reply_address
from workers.request.events import EventStream
from workers.request.handover import hand_over, is_proven
from workers.request.job import Job, check_model, parse_handover, parse_request
from workers.request.services import Services
from workers.request.settlement import Settlement
from workers.request.takeover import Takeover

log = logging.getLogger(__name__)


class Execution:
    """Runs the requests of one pool. Without an adapter (for `auto`) it resolves the model and hands over."""

    def __init__(self, pool: str, adapter: Provider | None, services: Services) -> None:
        self._pool = pool
        self._adapter = adapter
        self._use = services
        accounts = Settlement(services)
        self._attempts = AttemptRunner(pool, services, accounts)
        self._takeover = Takeover(pool, services, accounts)

    async def run(self, delivery: Delivery) -> Ack:
        """Raises only what means "deliver this again": NATS does not confirm, or a bug of ours after the end."""
        if delivery.deliveries > 1:
            telemetry.REDELIVERIES.labels(self._pool).inc()
        try:
            address, request, body = parse_request(delivery)
            handover = parse_handover(delivery, address)
            if handover is None:
                check_model(address, request)
        except MalformedRequest as error:
            return await self._reject(delivery, error)
        job = Job(
            delivery=delivery,
            address=address,
            request=request,
            body=body,
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
                    self._use.budgets.release_later(job.reservation.hold)
            await self._use.live.say_what_was_lost(job.events)
            return settlement

    async def _run(self, job: Job) -> Ack:
        try:
            return await self._serve(job)
        except Interrupted as interrupted:
            return await self._attempts.end_interrupted(job, interrupted.reason)
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

    async def _serve(self, job: Job) -> Ack:
        await self._inherit(job)
        if (settled := await self._takeover.settle_the_past(job)) is not None:
            return settled
        await self._admit(job)
        while True:
            job.interruption.check()
            self._check_deadline(job)
            candidate = job.candidates.pop(0)
            if candidate.provider != self._pool or self._adapter is None:
                return await self._move(job, candidate)
            result = await self._try(job, self._adapter, CandidateTries(candidate))
            if isinstance(result, Ack):
                return result
            await job.say_retrying(result, next_up=job.candidates[0])

    async def _inherit(self, job: Job) -> None:
        """The tenant's settings, the way to go, and what the pools before this one have done."""
        job.tenant = await self._use.router.tenant(job.address.tenant)
        if job.handover:
            job.candidates = [Candidate.parse(text) for text in (job.handover.model, *job.handover.remaining)]
            job.attempts = job.handover.vendor_calls
            job.history = list(job.handover.history)
            job.bill = usage_records.Bill.inherited(job.handover.usage, job.handover.cost)
            job.left_out = list(job.handover.left_out)
            return
        job.candidates, job.left_out = await self._use.router.candidates(
            job.request, tenant=job.tenant, pool=job.address.provider
        )

    async def _admit(self, job: Job) -> None:
        """A request counts against its tenant's limits once, before anything is done for it."""
        if job.is_new and not is_proven(self._use.keyring, job):
            job.interruption.check()
            self._check_deadline(job)
            delivered_before = job.delivery.deliveries > 1
            await self._use.admission.admit(
                job.tenant, key=str(job.delivery.stream_seq), delivered_before=delivered_before
            )

    async def _move(self, job: Job, to: Candidate) -> Ack:
        if job.handover and job.handover.hops >= policy.MAX_ATTEMPTS:
            raise NoProvider(f"the request was handed over {job.handover.hops} times and found no provider")
        await hand_over(
            self._use.publisher,
            self._use.keyring,
            job,
            to,
            pool=self._pool,
            time_left_s=self._time_left_s(job),
        )
        log.info("handed_over", extra={**job.log_facts(), "to": str(to)})
        return Acked()

    async def _try(self, job: Job, adapter: Provider, visit: CandidateTries) -> Ack | FleetError:
        """Works on one candidate until the request has ended, or the error that makes the next candidate due."""
        while True:
            result = await self._attempts.make(job, adapter, visit)
            if isinstance(result, Ack):
                return result
            error = result.error
            job.drop_smaller_windows(visit.candidate, error)
            decision = await self._decide(job, visit, result)
            match decision:
                case policy.RetryHere(delay_s):
                    await job.say_retrying(error, next_up=visit.candidate, delay_s=delay_s)
                    with self._use.waiting.place(job.address.tenant, due_s=delay_s):
                        async with job.interruption.scope():
                            await self._use.clock.sleep(delay_s)
                case policy.AwaitService(patience_s):
                    await job.say_retrying(error, next_up=visit.candidate, delay_s=result.out_of_service_s or 0)
                    visit.patience_s = patience_s
                case policy.NextEndpoint():
                    await job.say_retrying(error, next_up=visit.candidate)
                    visit.leave()
                case policy.NextFallback():
                    return error
                case policy.Fail(final):
                    raise final
                case _:
                    assert_never(decision)
            self._check_deadline(job)

    async def _decide(self, job: Job, visit: CandidateTries, setback: AttemptFailed) -> policy.Decision:
        decision = policy.decide(
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
                has_newer_credential=await self._has_newer_credential(job, visit, setback.error),
            ),
        )
        then = type(decision).__name__
        telemetry.DECISIONS.labels(then).inc()
        facts = {"attempt": job.events.attempt, "code": setback.error.code, "then": then}
        log.debug("attempt_failed", extra={**job.log_facts(), **facts})
        return decision

    async def _has_newer_credential(self, job: Job, visit: CandidateTries, error: FleetError) -> bool:
        """The key is read anew once for each candidate."""
        if isinstance(error, CredentialReplaced):
            return True
        if not isinstance(error, AuthenticationFailed) or visit.key_read_anew:
            return False
        visit.key_read_anew = True
        return await self._use.endpoints.key_has_changed(visit, tenant=job.address.tenant)

    async def _fail(self, job: Job, error: FleetError) -> Ack:
        job.delivery.lease.check()
        await job.events.failed(
            job.with_left_out(error), attempts=tuple(job.history), usage=job.bill.usage, cost=job.bill.cost()
        )
        note_end(job, self._pool, "failed", error.code)
        return Acked()

    async def _reject(self, delivery: Delivery, error: MalformedRequest) -> Ack:
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
            nothing = usage_records.Bill()
            await events.failed(error.to_wire(), attempts=(), usage=nothing.usage, cost=nothing.cost())
        telemetry.REQUESTS.labels(self._pool, "failed", error.code).inc()
        return Terminated()

    def _check_deadline(self, job: Job) -> None:
        if self._time_left_s(job) <= 0:
            raise DeadlineExceeded(f"the deadline {job.deadline.isoformat()} has passed")

    def _time_left_s(self, job: Job) -> float:
        return job.time_left_s(self._use.clock.now())
