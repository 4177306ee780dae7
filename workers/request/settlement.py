"""The money and tokens of a request: kept free before a call, settled and booked after it."""

import logging

from contracts import subjects
from contracts.errors import FleetError
from contracts.events import Started
from contracts.usage import Outcome, UsageRecord
from runtime.jetstream.publishing import TooLarge
from workers import telemetry
from workers.endpoints.names import Candidate
from workers.quotas.cost_bounds import BudgetedCall
from workers.request import recovery, usage_records
from workers.request.job import Job
from workers.request.services import Services
from workers.request.usage_records import Attempt

log = logging.getLogger(__name__)


class Settlement:
    def __init__(self, services: Services) -> None:
        self._use = services

    async def reserve(self, job: Job, candidate: Candidate) -> None:
        call = BudgetedCall(
            job.request,
            provider=candidate.provider,
            model=candidate.model,
            at=self._use.clock.now(),
            deadline=job.deadline,
        )
        job.reservation = await self._use.budgets.reserve(job.tenant, call, interruption=job.interruption)

    async def unreserve(self, job: Job) -> None:
        """For an attempt that is not made."""
        if job.reservation is not None:
            await self._use.budgets.release(job.reservation.hold)
            job.reservation = None

    def record(self, job: Job, attempt: Attempt, *, outcome: Outcome, error: FleetError | None = None) -> UsageRecord:
        duration_s = self._use.clock.monotonic() - attempt.started
        return self._record(job, attempt, outcome, error, duration_s=duration_s, queued_s=job.queued_s)

    async def book(self, job: Job, record: UsageRecord) -> None:
        """Returns when NATS has it, without metadata that leave no room for the rest. Raises NotStored."""
        await self._use.budgets.settle(job.tenant, record, job.reservation)
        job.reservation = None
        key = f"{job.delivery.stream_seq}-{record.attempt}"
        await self._use.admission.count_tokens(job.tenant, record.usage, key=key)
        subject = subjects.usage(record.provider, record.tenant)
        try:
            await self._use.publisher.durable(subject, record.to_json(), msg_id=record.id)
        except TooLarge:
            log.warning("metadata_not_booked", extra={"record": record.id, "tenant": record.tenant})
            booked = record.model_copy(update={"metadata": {}})
            await self._use.publisher.durable(subject, booked.to_json(), msg_id=record.id)
        telemetry.count_attempt(record)

    async def book_dead(self, job: Job, past: recovery.Past, started: Started) -> None:
        """The last attempt of a worker that died, from the events that it sent."""
        configured = await self._use.config.provider(job.address.tenant, started.provider)
        attempt = usage_records.attempt_from_events(
            started, past.events, provider_id=configured.provider_id if configured else ""
        )
        outcome, error = usage_records.outcome_of(past.last)
        duration_s = max(0.0, (self._use.clock.now() - started.at).total_seconds())
        queued_s = max(0.0, (started.at - job.queued_at).total_seconds())
        book = self._record(job, attempt, outcome, error, duration_s=duration_s, queued_s=queued_s)
        job.bill.add(book)
        await self.book(job, book)

    def _record(
        self,
        job: Job,
        attempt: Attempt,
        outcome: Outcome,
        error: FleetError | None,
        *,
        duration_s: float,
        queued_s: float,
    ) -> UsageRecord:
        return usage_records.record(
            job.request,
            attempt,
            outcome=outcome,
            error_code=error.code if error else None,
            usage=usage_records.usage_of(attempt, job.request, error),
            prices=job.tenant.prices,
            finished_at=self._use.clock.now(),
            duration_s=duration_s,
            queued_s=queued_s,
        )
