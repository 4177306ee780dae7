"""One vendor call for a request: from the endpoint that may be called to what came of the call.

`Interrupted` and `OutOfService` end here, because only here is it known whether a vendor was being called, and with
what result so far. What else stops the work on a request (workers/request/execution.py) passes through, after what was
kept free of the tenant's budget was given back.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from contracts.attempts import new_id
from contracts.errors import BudgetExceeded, DeadlineExceeded, FleetError, InternalError
from contracts.providers import Timeouts
from runtime.jetstream.publishing import NotStored
from workers import telemetry
from workers.clock import Clock
from workers.endpoints.admission import CallPermit, CandidateTries, EndpointGate
from workers.endpoints.circuit_breaker import OutOfService
from workers.endpoints.router import Router
from workers.intake.lease import Lost
from workers.interruption import Interrupted
from workers.providers.base import Call, NotToBeSent, Provider, Target
from workers.quotas.budgets import Budgets
from workers.quotas.cost_bounds import BudgetedCall
from workers.request.answer import Answer
from workers.request.coalescing import Moments
from workers.request.job import Job
from workers.request.journal import Contested, Journal
from workers.request.outcome import Cancelled, Completed, GivenBack, TakenAway, of_interruption
from workers.request.results import EndedBefore
from workers.request.settlement import Settlement
from workers.request.usage_records import VendorCall

log = logging.getLogger(__name__)

_ROUNDS_TO_SEND = 2
"""Rounds of the event loop until the journal's entry is on its way: its task writes it, and nats-py's sends it. What
the adapter does before it may ask the vendor, it does while the server stores the entry."""


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """An attempt came to nothing; the policy decides what follows."""

    error: FleetError
    output_sent: bool = False
    out_of_service_s: float | None = None
    """No endpoint may be called for this long; None when an endpoint was called, or something else prevented it."""


class AttemptRunner:
    def __init__(
        self,
        adapter: Provider,
        *,
        router: Router,
        endpoints: EndpointGate,
        budgets: Budgets,
        settlement: Settlement,
        journal: Journal,
        worker: str,
        max_event_bytes: Callable[[], int],
        backlog: Callable[[], Awaitable[None] | None],
        clock: Clock,
    ) -> None:
        """`max_event_bytes` is what a message may hold; the server says so whenever a connection is made. `backlog`:
        what to wait for before more is published, if anything."""
        self._adapter = adapter
        self._router = router
        self._endpoints = endpoints
        self._budgets = budgets
        self._settlement = settlement
        self._journal = journal
        self._worker = worker
        self._max_event_bytes = max_event_bytes
        self._backlog = backlog
        self._moments = Moments()
        self._clock = clock

    async def make(
        self, job: Job, tries: CandidateTries
    ) -> Completed | Cancelled | GivenBack | TakenAway | AttemptFailed:
        """One vendor call, or the error that prevented it. Raises Interrupted, NotNow, Contested, EndedBefore and
        NotStored before the call, NotStored after it."""
        try:
            self._adapter.check_supported(job.request, model=tries.candidate.model)
            configured = await self._router.provider(job.address.tenant, tries.candidate.provider)
            job.reservation = await self._budgets.reserve(
                job.tenant,
                BudgetedCall(
                    job.request,
                    provider=tries.candidate.provider,
                    model=tries.candidate.model,
                    at=self._clock.now(),
                    deadline=job.deadline,
                ),
                interruption=job.interruption,
            )
            time_left_s = job.time_left_s(self._clock.now())
            permit = await self._endpoints.enter(
                tries, configured, interruption=job.interruption, time_left_s=time_left_s
            )
        except BaseException as exc:
            if job.reservation is not None:
                await self._budgets.release(job.reservation.hold)
                job.reservation = None
            match exc:
                case OutOfService():
                    return AttemptFailed(exc.to_error(), out_of_service_s=exc.retry_after_s)
                case FleetError():
                    return AttemptFailed(exc)
                case _:
                    raise
        async with permit:
            now = self._clock.now()
            if not job.delivery.lease.holds:
                return TakenAway()
            if job.time_left_s(now) <= 0:
                return AttemptFailed(_too_late(tries.candidate.provider))
            call = VendorCall(
                id=new_id(now),
                number=job.events.attempt,
                candidate=tries.candidate,
                provider_id=configured.provider_id,
                endpoint=permit.endpoint.name,
                started_at=now,
                started=self._clock.monotonic(),
                queued_s=job.queued_s,
            )
            return await self._call_vendor(job, call, permit, configured.config.timeouts)

    async def _call_vendor(
        self, job: Job, call: VendorCall, permit: CallPermit, timeouts: Timeouts
    ) -> Completed | Cancelled | GivenBack | TakenAway | AttemptFailed:
        provider = call.candidate.provider
        writing = asyncio.create_task(self._journal.begin(job, call, total_s=timeouts.total_s), name=f"begin {call.id}")

        async def may_send() -> None:
            """Returns when the journal has the call, and the vendor is asked next."""
            try:
                await asyncio.shield(writing)
                if job.look is not None and await job.look.found() is not None:
                    raise EndedBefore
                job.delivery.lease.check()
                if job.time_left_s(self._clock.now()) <= 0:
                    raise _too_late(provider)
            except (Contested, EndedBefore, NotStored, Lost, DeadlineExceeded) as exc:
                raise NotToBeSent from exc
            job.vendor_calls += 1
            if job.vendor_calls == 1:
                telemetry.QUEUED.labels(provider).observe(job.queued_s)
            await job.events.started(call, worker=self._worker)
            call.sent = True
            job.delivery.preparation.end()

        most = job.reservation.max_tokens if job.reservation else None
        question = Call(
            request=job.request if most is None else job.request.model_copy(update={"max_tokens": most}),
            model=call.candidate.model,
            target=Target(
                permit.endpoint, timeouts, permit.key.secret if permit.key else None, tenant=job.address.tenant
            ),
            time_left_s=job.time_left_s(call.started_at),
            may_send=may_send,
        )
        answer = Answer(
            call,
            permit=permit,
            events=job.events if job.request.stream else None,
            coalesce_s=job.request.coalesce_ms / 1000,
            moments=self._moments,
            backlog=self._backlog,
            most_characters=self._max_event_bytes(),
            growth=job.reservation.growth if job.reservation else None,
            clock=self._clock,
        )
        try:
            try:
                async with job.interruption.scope():
                    for _ in range(_ROUNDS_TO_SEND):
                        await asyncio.sleep(0)
                    finish = await answer.read(self._adapter, question)
            finally:
                call.duration_s = self._clock.monotonic() - call.started
                if not call.sent:
                    await self._journal.unmake(job, call, begun=writing)
        except Interrupted as interrupted:
            return of_interruption(interrupted.reason, call=call if call.sent else None)
        except NotToBeSent as stopped:
            match stopped.__cause__:
                case DeadlineExceeded() as late:
                    failed = late
                case Contested() | EndedBefore() | NotStored() as other:
                    raise other from None
                case _:
                    return TakenAway()
        except NotStored:
            raise
        except FleetError as error:
            await permit.failed(error)
            failed = error
        except Exception:
            log.exception("adapter_crashed", extra={**job.log_facts(), "provider": provider})
            failed = InternalError(f"the adapter of {provider} failed")
        else:
            await permit.completed()
            return Completed(call, finish)
        if isinstance(failed, BudgetExceeded) and call.gathering.started:
            job.said = call.gathering.message()
        if call.sent:
            await self._settlement.book_failed(job, call, failed)
        elif job.reservation is not None:
            await self._budgets.release(job.reservation.hold)
            job.reservation = None
        return AttemptFailed(failed, output_sent=call.gathering.started)


def _too_late(provider: str) -> DeadlineExceeded:
    return DeadlineExceeded(f"the deadline passed before {provider} could be asked", provider=provider)
