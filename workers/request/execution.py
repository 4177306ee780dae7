"""One request from its delivery to its ack: parse → take over → admit → candidates → tries → outcome → ending.

Each step returns what it found out, and an outcome (outcome.py) as soon as one is certain; ending.py carries it out.
What stops the work on a request in the middle of a step comes as an exception, because the steps that notice it lie in
other rooms, many calls deep, and know no outcomes. Those exceptions end in `_outcome`, and nowhere above it:

| exception | raised when | outcome |
|---|---|---|
| Interrupted | the agent cancels, or the worker drains, while no vendor is being called | Cancelled, or GivenBack |
| NotNow | the tenant's requests that wait hold all slots that they may | GivenBack |
| Contested | another worker has begun the call that was to be made | GivenBack |
| EndedBefore | the request's id has ended already | Known, Refused, or GivenBack to run again |
| NotStored | JetStream does not confirm what must be kept before the request goes on | GivenBack |
| FleetError | the request cannot be served | Failed |
| any other | a bug, which would meet the request again in every worker that it is given to | Failed |

An interruption of a vendor call, and an endpoint that is out of service, end in attempts.py; what JetStream does not
confirm of an outcome, and a lease that was lost meanwhile, end in ending.py.
"""

import logging
import random
from datetime import timedelta
from functools import lru_cache
from typing import assert_never

from contracts import subjects
from contracts.control import HANDOVER
from contracts.errors import AuthenticationFailed, FleetError, InternalError, MalformedRequest, QueueFull
from contracts.providers import PublishedTenant
from contracts.requests import DEFAULT_DEADLINE_S
from runtime.jetstream.publishing import NotStored, Publisher
from workers import telemetry
from workers.clock import Clock
from workers.control.cancellations import Cancellations
from workers.endpoints.admission import CandidateTries, EndpointGate
from workers.endpoints.names import Candidate
from workers.endpoints.router import Router
from workers.intake.delivery import Ack, Delivery, NotNow
from workers.intake.waiting_room import WaitingRoom
from workers.interruption import Interrupted
from workers.providers.base import CredentialReplaced
from workers.quotas.budgets import Budgets
from workers.quotas.rate_limiter import RateLimiter
from workers.request import policy
from workers.request.attempts import AttemptFailed, AttemptRunner
from workers.request.ending import CRASHED, UNCONFIRMED_S, Ending
from workers.request.events import EventStream
from workers.request.handover import Handovers
from workers.request.job import Job
from workers.request.journal import Contested
from workers.request.live_streams import LiveStreams, Tracked
from workers.request.outcome import DoneBefore, Failed, GivenBack, MovedOn, Outcome, of_interruption
from workers.request.parsing import parse, who_asks
from workers.request.provenance import Origin, provenance_of
from workers.request.results import EndedBefore, Results, of_another, runs_again
from workers.request.takeover import Fresh, GoOn, Takeover

log = logging.getLogger(__name__)

_QUEUED_BYTES = "queued_bytes"
"""In the metric of refusals: what a tenant may have waiting (workers/intake/backlog.py)."""


class Execution:
    """Runs the requests of one pool. Without attempts (for `auto`) it resolves the model and hands over."""

    def __init__(
        self,
        pool: str,
        *,
        attempts: AttemptRunner | None,
        takeover: Takeover,
        ending: Ending,
        results: Results,
        budgets: Budgets,
        handovers: Handovers,
        router: Router,
        endpoints: EndpointGate,
        limiter: RateLimiter,
        waiting: WaitingRoom,
        cancellations: Cancellations,
        live: LiveStreams,
        publisher: Publisher,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._pool = pool
        self._attempts = attempts
        self._takeover = takeover
        self._ending = ending
        self._results = results
        self._budgets = budgets
        self._handovers = handovers
        self._router = router
        self._endpoints = endpoints
        self._limiter = limiter
        self._waiting = waiting
        self._cancellations = cancellations
        self._live = live
        self._publisher = publisher
        self._clock = clock
        self._rng = rng

    async def run(self, delivery: Delivery) -> Ack:
        """Raises nothing but bugs."""
        if delivery.deliveries > 1:
            telemetry.REDELIVERIES.labels(self._pool).inc()
        if self._limiter.has_refused(delivery.tenant) and (refusal := await self._unread_refusal(delivery)):
            return await self._ending.refuse(delivery, refusal, kept=False)
        try:
            asked = parse(delivery, self._handovers)
        except MalformedRequest as error:
            return await self._refuse(delivery, error)
        request, handover = asked.request, asked.handover
        queued_at = handover.queued_at if handover else delivery.queued_at
        job = Job(
            delivery=delivery,
            provenance=provenance_of(delivery, request, handed_over=handover is not None, is_replay=asked.is_replay),
            address=asked.address,
            request=request,
            body=asked.body,
            handover=handover,
            journal_subject=subjects.attempt(request.tenant, request.agent, request.id),
            result_subject=subjects.result(request.tenant, request.agent, request.id),
            origin=queued_at.isoformat(),
            events=EventStream(
                self._publisher,
                subject=subjects.reply(request.tenant, request.agent, request.id),
                request_id=request.id,
                attempt=handover.attempt if handover else 1,
            ),
            queued_at=queued_at,
            deadline=request.deadline or queued_at + timedelta(seconds=DEFAULT_DEADLINE_S),
            queued_s=max(0.0, (self._clock.now() - delivery.queued_at).total_seconds()),
            tenant=_bare(asked.address.tenant),
        )
        async with (
            Tracked(self._live, job.events),
            self._cancellations.watch(request.tenant, request.id, job.interruption),
        ):
            try:
                return await self._ending.carry_out(await self._outcome(job), job)
            finally:
                if job.reservation is not None:
                    self._budgets.release_later(job.reservation.hold)

    async def _outcome(self, job: Job) -> Outcome:
        try:
            is_first = job.provenance.origin is Origin.FIRST
            if not (is_first and job.handover):
                queued_at = job.queued_at if is_first else None
                job.look = await self._results.look(job.result_subject, request_id=job.request.id, queued_at=queued_at)
            job.tenant = await self._router.tenant(job.address.tenant)
            if job.handover:
                job.inherit(job.handover)
            else:
                job.candidates, job.left_out = await self._router.candidates(
                    job.request, tenant=job.tenant, pool=job.address.provider
                )
            match Fresh() if is_first else await self._takeover.look_back(job):
                case Fresh() | GoOn(after=None, vendor_calls=0) if job.handover is None:
                    job.check_goes_on(self._clock.now())
                    again = job.delivery.deliveries > 1
                    job.admitted_at = self._clock.now()
                    await self._limiter.admit(job.tenant, key=job.delivery.place, delivered_before=again)
                case Fresh() | GoOn():
                    pass  # it counted against its tenant's limits when it came to the first worker
                case outcome:
                    return outcome
            while True:
                job.check_goes_on(self._clock.now())
                candidate = job.candidates.pop(0)
                if candidate.provider != self._pool or self._attempts is None:
                    return await self._known(job) or MovedOn(candidate)
                result = await self._try(job, candidate, self._attempts)
                if not isinstance(result, AttemptFailed):
                    return (isinstance(result, Failed) and await self._known(job)) or result
                await job.publish_retrying(result.error, next_up=job.candidates[0])
        except Interrupted as interrupted:
            return of_interruption(interrupted.reason)
        except NotNow as exc:
            return GivenBack(exc.delay_s)
        except EndedBefore:
            return await self._known(job) or GivenBack()
        except Contested:
            return GivenBack()  # whoever gets it next looks back, and finds what has been begun
        except NotStored as exc:
            return GivenBack(UNCONFIRMED_S, unconfirmed=exc)
        except FleetError as error:
            return await self._known(job) or Failed(error)
        except Exception:
            log.exception("request_crashed", extra=job.log_facts())
            return Failed(InternalError(CRASHED))

    async def _known(self, job: Job) -> Outcome | None:
        """The outcome of a request whose id has ended before, when no vendor was asked for it; None of any other."""
        if job.look is None or job.vendor_calls:
            return None
        try:
            result = await job.look.found()
        except NotStored as exc:
            return GivenBack(UNCONFIRMED_S, unconfirmed=exc)
        if result is None or (job.provenance.is_replay and result.origin != job.origin):
            return None
        if result.origin == job.origin:
            return DoneBefore()
        if job.admitted_at is not None and not runs_again(result):
            await self._limiter.take_back(job.tenant, key=job.delivery.place, at=job.admitted_at)
        return of_another(result, job.request) or GivenBack()  # who gets it next goes on after that end

    async def refuse_to_wait(self, delivery: Delivery) -> Ack | None:
        """Refuses a request that nobody had before, because its tenant has as many bytes in the queue as it may.

        None when another pool has handed it over: then it goes on to wait. Raises nothing but bugs.
        """
        if HANDOVER in delivery.headers and self._handovers.is_ours(delivery, delivery.tenant):
            return None
        telemetry.REFUSALS.labels(_QUEUED_BYTES).inc()
        message = "the tenant's requests that wait take as many bytes of the queue as they may; try again later"
        return await self._ending.refuse(delivery, QueueFull(message), kept=False)

    async def _unread_refusal(self, delivery: Delivery) -> FleetError | None:
        """Why a request is refused without being read, because its tenant has used up a limit: a flood is cheap."""
        if delivery.deliveries > 1 or HANDOVER in delivery.headers:
            return None  # it may have been counted, and be in
        try:
            self._limiter.check_used_up(await self._router.tenant(delivery.tenant))
        except FleetError as refusal:
            return None if await self._has_ended(delivery) else refusal
        return None

    async def _has_ended(self, delivery: Delivery) -> bool:
        """Whether the id of a request that is about to be refused is known to have ended; then it is read after all."""
        if (address := who_asks(delivery)) is None:
            return False
        subject = subjects.result(delivery.tenant, *address)
        return await self._results.has(subject, tenant=delivery.tenant)

    async def _refuse(self, delivery: Delivery, error: MalformedRequest) -> Ack:
        """What cannot be read counts as a request before it is kept for anybody to look at."""
        try:
            tenant = await self._router.tenant(delivery.tenant)
            await self._limiter.admit(tenant, key=delivery.place, delivered_before=delivery.deliveries > 1)
        except FleetError as refusal:
            return await self._ending.refuse(delivery, refusal, kept=False)
        return await self._ending.refuse(delivery, error, kept=True)

    async def _try(self, job: Job, candidate: Candidate, attempts: AttemptRunner) -> Outcome | AttemptFailed:
        """Works on one candidate until the outcome is certain, or with the failure that makes the next one due."""
        tries = CandidateTries(candidate)
        while True:
            result = await attempts.make(job, tries)
            if not isinstance(result, AttemptFailed):
                return result
            error = result.error
            job.drop_smaller_windows(candidate, error)
            decision = await self._decide(job, tries, result)
            match decision:
                case policy.RetryHere(delay_s):
                    await job.publish_retrying(error, next_up=candidate, delay_s=delay_s)
                    with self._waiting.place(job.address.tenant, due_s=delay_s):
                        async with job.interruption.scope():
                            await self._clock.sleep(delay_s)
                case policy.AwaitService(patience_s):
                    await job.publish_retrying(error, next_up=candidate, delay_s=result.out_of_service_s or 0)
                    tries.patience_s = patience_s
                case policy.NextEndpoint():
                    await job.publish_retrying(error, next_up=candidate)
                    tries.leave()
                case policy.NextFallback():
                    return result
                case policy.Fail(final):
                    return Failed(final)
                case _:
                    assert_never(decision)
            job.check_goes_on(self._clock.now())

    async def _decide(self, job: Job, tries: CandidateTries, failed: AttemptFailed) -> policy.Decision:
        """The policy's decision. For a refused key it is first found out whether Vault has another one by now."""
        has_newer_credential = isinstance(failed.error, CredentialReplaced)
        key_refused = isinstance(failed.error, AuthenticationFailed) and not has_newer_credential
        if key_refused and not tries.key_read_anew:  # once for each candidate, because each read asks Vault
            tries.key_read_anew = True
            has_newer_credential = await self._endpoints.key_has_changed(tries, tenant=job.address.tenant)
        decision = policy.decide(
            failed.error,
            policy.Situation(
                attempts=job.vendor_calls,
                tries_here=tries.tries,
                output_sent=failed.output_sent and job.request.stream,
                on_interrupt=job.request.on_interrupt,
                endpoints_left=len(tries.endpoints) > 1,
                fallbacks_left=bool(job.candidates),
                time_left_s=job.time_left_s(self._clock.now()),
                jitter=self._rng.random(),
                out_of_service_s=failed.out_of_service_s,
                waited_for_service=tries.patience_s > 0,
                has_newer_credential=has_newer_credential,
            ),
        )
        then = type(decision).__name__
        telemetry.DECISIONS.labels(then).inc()
        facts = {"attempt": job.events.attempt, "code": failed.error.code, "then": then}
        log.debug("attempt_failed", extra={**job.log_facts(), **facts})
        return decision


@lru_cache(maxsize=1024)
def _bare(tenant: str) -> PublishedTenant:
    """A tenant whose settings have not been asked for."""
    return PublishedTenant(slug=tenant)
