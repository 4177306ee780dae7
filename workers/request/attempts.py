"""One vendor call for a request: from the endpoint that may be called to the record of what came of it."""

import logging
from contextlib import aclosing
from dataclasses import dataclass
from typing import assert_never

from contracts.errors import FleetError, InternalError, InvalidRequest, StreamInterrupted
from contracts.events import FailedAttempt, Timings
from contracts.providers import PublishedProvider
from contracts.usage import Cost, Outcome
from runtime.jetstream.publishing import TooLarge
from workers import telemetry
from workers.endpoints.admission import CallPermit, CandidateTries
from workers.endpoints.circuit_breaker import OutOfService
from workers.intake.delivery import Ack, Acked, GaveBack
from workers.interruption import Interrupted, Reason
from workers.providers.base import Call, Chunk, Finish, Provider, Stated, Target
from workers.request.job import Job
from workers.request.services import Services
from workers.request.settlement import Settlement
from workers.request.usage_records import Attempt

log = logging.getLogger(__name__)

_TOO_LONG = "the answer is larger than one message may be; bound it with max_tokens"


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """An attempt came to nothing."""

    error: FleetError
    output_sent: bool = False
    out_of_service_s: float | None = None
    """No endpoint may be called for this long."""


class AttemptRunner:
    def __init__(self, pool: str, services: Services, accounts: Settlement) -> None:
        self._pool = pool
        self._use = services
        self._accounts = accounts

    async def make(self, job: Job, adapter: Provider, visit: CandidateTries) -> Ack | AttemptFailed:
        """One vendor call, or the error that prevented it.

        A settlement says that the attempt ended the request, and what becomes of its message.
        """
        candidate = visit.candidate
        try:
            adapter.check_supported(job.request, model=candidate.model)
            configured = await self._use.router.provider(job.address.tenant, candidate.provider)
            await self._accounts.reserve(job, candidate)
            permit = await self._use.endpoints.enter(
                visit, configured, interruption=job.interruption, time_left_s=job.time_left_s(self._use.clock.now())
            )
        except OutOfService as exc:
            await self._accounts.unreserve(job)
            return AttemptFailed(exc.to_error(), out_of_service_s=exc.retry_after_s)
        except FleetError as error:
            await self._accounts.unreserve(job)
            return AttemptFailed(error)
        except BaseException:
            await self._accounts.unreserve(job)
            raise
        async with permit:
            return await self._call_endpoint(job, adapter, visit, configured, permit)

    async def _call_endpoint(
        self, job: Job, adapter: Provider, visit: CandidateTries, configured: PublishedProvider, permit: CallPermit
    ) -> Ack | AttemptFailed:
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
            time_left_s=job.time_left_s(self._use.clock.now()),
        )
        return await self._call_vendor(job, adapter, attempt, call, permit)

    async def _call_vendor(
        self, job: Job, adapter: Provider, attempt: Attempt, call: Call, permit: CallPermit
    ) -> Ack | AttemptFailed:
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
            async with job.interruption.scope():
                await self._stream(job, adapter, attempt, call, permit)
        except Interrupted as interrupted:
            return await self.end_interrupted(job, interrupted.reason, attempt)
        except FleetError as error:
            await permit.failed(error)
            return await self._set_back(job, attempt, error)
        except Exception:
            log.exception("adapter_crashed", extra={**job.log_facts(), "provider": self._pool})
            return await self._set_back(job, attempt, InternalError(f"the adapter of {self._pool} failed"))
        await permit.completed()
        return await self._complete(job, attempt)

    async def _stream(self, job: Job, adapter: Provider, attempt: Attempt, call: Call, permit: CallPermit) -> None:
        most = self._use.broker.client.max_payload
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
                if attempt.gathering.characters > most:
                    raise InvalidRequest(_TOO_LONG)
                if job.request.stream:
                    await self._pass_on(job, item)

    async def _pass_on(self, job: Job, chunk: Chunk) -> None:
        try:
            await job.events.delta(chunk)
        except TooLarge:
            raise InvalidRequest(_TOO_LONG) from None

    async def _complete(self, job: Job, attempt: Attempt) -> Ack:
        finish = attempt.finish
        if finish is None:
            raise AssertionError(f"the adapter of {self._pool} ended without a Finish and without an error")
        book = self._accounts.record(job, attempt, outcome=Outcome.COMPLETED)
        try:
            await job.events.completed(
                message=attempt.gathering.message(finish.provider_data),
                finish_reason=finish.finish_reason,
                usage=book.usage,
                cost=Cost(amount=book.cost) if book.cost is not None else None,
                provider=attempt.candidate.provider,
                model=attempt.candidate.model,
                response_model=attempt.response_model,
                response_id=attempt.response_id,
                service_tier=finish.service_tier,
                timings=Timings(
                    queued_s=job.queued_s,
                    time_to_first_token_s=attempt.time_to_first_token_s,
                    duration_s=book.duration_s,
                ),
                warnings=(*finish.warnings, *job.warnings),
            )
        except TooLarge:
            await self._accounts.book(job, book)
            job.bill.add(book)
            raise InvalidRequest(_TOO_LONG) from None
        await self._accounts.book(job, book)
        note_end(job, self._pool, "completed", "")
        return Acked()

    async def _set_back(self, job: Job, attempt: Attempt, error: FleetError) -> AttemptFailed:
        book = self._accounts.record(job, attempt, outcome=Outcome.FAILED, error=error)
        await self._accounts.book(job, book)
        job.bill.add(book)
        job.history.append(
            FailedAttempt(provider=attempt.candidate.provider, model=attempt.candidate.model, error=error.to_wire())
        )
        return AttemptFailed(error, output_sent=attempt.gathering.started)

    async def end_interrupted(self, job: Job, reason: Reason, attempt: Attempt | None = None) -> Ack:
        """The agent cancelled, or this worker has to go; with an attempt, that one is booked."""
        match reason:
            case Reason.CANCELLED:
                book = self._accounts.record(job, attempt, outcome=Outcome.CANCELLED) if attempt else None
                if book:
                    job.bill.add(book)
                await job.events.cancelled(usage=job.bill.usage, cost=job.bill.cost())
                if book:
                    await self._accounts.book(job, book)
                note_end(job, self._pool, "cancelled", "")
                return Acked()
            case Reason.DRAINING:
                if attempt:
                    error = StreamInterrupted("the worker was stopped; another one goes on", provider=self._pool)
                    await self._set_back(job, attempt, error)
                    await job.say_retrying(error, next_up=attempt.candidate)
                return GaveBack()
            case _:
                assert_never(reason)


def note_end(job: Job, pool: str, outcome: str, code: str) -> None:
    telemetry.REQUESTS.labels(pool, outcome, code).inc()
    facts = {**job.log_facts(), "outcome": outcome, "attempts": job.attempts, "queued_s": round(job.queued_s, 4)}
    log.info("request_ended", extra={**facts, "code": code} if code else facts)
