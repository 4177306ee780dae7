"""The money and tokens of a call: what was kept free for it is settled, and the usage record published."""

import logging

from contracts import subjects
from contracts.attempts import Begun
from contracts.errors import FleetError
from contracts.events import FailedAttempt
from contracts.usage import Outcome, UsageRecord
from runtime.jetstream.publishing import Publisher, TooLarge
from workers import telemetry
from workers.clock import Clock
from workers.endpoints.configuration import Configuration
from workers.quotas.budgets import Budgets
from workers.quotas.rate_limiter import RateLimiter
from workers.request.job import Job
from workers.request.recovery import Past
from workers.request.usage_records import VendorCall, call_from_events, call_from_journal, outcome_of, usage_record

log = logging.getLogger(__name__)


class Settlement:
    def __init__(
        self, *, budgets: Budgets, limiter: RateLimiter, config: Configuration, publisher: Publisher, clock: Clock
    ) -> None:
        self._budgets = budgets
        self._limiter = limiter
        self._config = config
        self._publisher = publisher
        self._clock = clock

    async def book(self, job: Job, record: UsageRecord) -> None:
        """Returns when NATS has the record, without metadata that leave no room for the rest. Raises NotStored."""
        await self._budgets.settle(job.tenant, record, job.reservation)
        job.reservation = None
        await self._limiter.count_tokens(job.tenant, record.usage, key=record.id)
        subject = subjects.usage(record.provider, record.tenant)
        try:
            await self._publisher.durable(subject, record.to_json(), msg_id=record.id)
        except TooLarge:
            log.warning("metadata_not_booked", extra={"record": record.id, "tenant": record.tenant})
            shorter = record.model_copy(update={"metadata": {}})
            await self._publisher.durable(subject, shorter.to_json(), msg_id=record.id)
        telemetry.count_attempt(record)

    async def book_failed(self, job: Job, call: VendorCall, error: FleetError) -> None:
        """Books a call that failed, and notes it for the request's end. Raises NotStored."""
        record = usage_record(job.request, call, outcome=Outcome.FAILED, error=error, prices=job.tenant.prices)
        job.bill.add(record)
        await self.book(job, record)
        job.history.append(
            FailedAttempt(provider=call.candidate.provider, model=call.candidate.model, error=error.to_wire())
        )

    async def book_past(self, job: Job, past: Past) -> None:
        """Books the last call of an earlier delivery, from the events that its worker published. Raises NotStored."""
        if (started := past.last_started) is None:
            return
        configured = await self._config.provider(job.address.tenant, started.provider)
        begun = job.begun.get(started.attempt)
        call = call_from_events(
            started,
            past.events,
            # A worker of an earlier version (0.1) kept no journal, and made its ids of these.
            record_id=begun.id if begun else f"{started.request_id}:{started.attempt}",
            provider_id=configured.provider_id if configured else "",
            queued_at=job.queued_at,
            ended_at=self._clock.now(),
        )
        outcome, error = outcome_of(past.last)
        await self._book_for_another(job, call, outcome=outcome, error=error)

    async def book_unsaid(self, job: Job, begun: Begun) -> None:
        """Books a call of an earlier delivery of which the journal alone knows. It may have been booked before, with
        more that was known; then that counts. Raises NotStored."""
        call = call_from_journal(begun, ended_at=self._clock.now())
        await self._book_for_another(job, call, outcome=Outcome.ABANDONED)

    async def _book_for_another(
        self, job: Job, call: VendorCall, *, outcome: Outcome, error: FleetError | None = None
    ) -> None:
        record = usage_record(job.request, call, outcome=outcome, error=error, prices=job.tenant.prices)
        job.bill.add(record)
        await self.book(job, record)
