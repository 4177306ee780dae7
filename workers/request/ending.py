"""Carrying out what became of a request: what is published, in which order, and what JetStream is told at last.

The order is what makes the fleet safe: the terminal event, then the result (the same event, on disk) and the usage
record with their PubAcks awaited, then the ack, all on one connection. A PubAck says that the server has the terminal
event, too. Whatever dies in between is repeated by the next delivery, and what is repeated is deduplicated by id.

| outcome | in this order | ack |
|---|---|---|
| Completed | `completed`; result; usage record. An answer that is too large: usage record, then as Failed | Acked |
| Failed | `failed`; result (the usage record of each call was published when the call failed) | Acked |
| (the same, refused for a limit before any call) | `failed` | Acked |
| Cancelled | `cancelled`; result; usage record of the call that was broken off | Acked |
| MovedOn | the request, to the other pool. When its queue is full, or it was moved too often: as Failed | Acked |
| DoneBefore | result, when there is none; usage record of the last call, when it may have none | Acked |
| Known | the terminal event that is kept, once more | Acked |
| Refused | `failed`, to whoever listens: what is kept of the id is another request's | Acked |
| GivenBack | usage record of the call that was broken off; `retrying` | GaveBack |
| Buried | the message, to `LLM_DEAD`; `failed`; result | Acked |
| TakenAway | nothing | NotAcked |
| (a request that cannot be read) | the message, to `LLM_DEAD`; `failed`, where its agent is known | Terminated |
| (the same, over its tenant's limits) | `failed`, where its agent is known | Terminated |

`retrying` follows the usage record, because takeover.py concludes from it that the call is booked. A dead letter comes
before `failed`, because a request that has failed is not looked at again.

`NotStored` and `Lost` end here, because only here is it known what the next delivery will find: after the first the
request is given back, after the second nothing more is said.
"""

import logging
from typing import assert_never

from contracts import subjects, usage
from contracts.errors import (
    ErrorCode,
    FleetError,
    InternalError,
    InvalidRequest,
    NoProvider,
    QueueFull,
    StreamInterrupted,
)
from contracts.events import Failed as FailedEvent
from runtime.jetstream.dead_letters import bury
from runtime.jetstream.publishing import NotStored, Publisher, TooLarge
from workers import telemetry
from workers.endpoints.names import Candidate
from workers.intake.delivery import Ack, Acked, Delivery, GaveBack, NotAcked, Terminated
from workers.intake.lease import Lost
from workers.request.answer import TOO_LONG
from workers.request.events import EventStream
from workers.request.handover import Handovers
from workers.request.job import Job
from workers.request.outcome import (
    Buried,
    Cancelled,
    Completed,
    DoneBefore,
    Failed,
    GivenBack,
    Known,
    MovedOn,
    Outcome,
    Refused,
    TakenAway,
)
from workers.request.parsing import reply_address, who_asks
from workers.request.results import Results
from workers.request.settlement import Settlement
from workers.request.usage_records import Bill, VendorCall, usage_record

log = logging.getLogger(__name__)

_REFUSALS = (ErrorCode.TENANT_RATE_LIMITED, ErrorCode.BUDGET_EXCEEDED, ErrorCode.QUEUE_FULL)
"""What is refused for these before any call leaves no result: a flood of refusals costs the disk nothing."""
CRASHED = "the fleet failed on this request; its operators can see why"
UNCONFIRMED_S = 5.0
"""A request is delivered again after so long when JetStream did not confirm what had to be stored for it."""


class Ending:
    def __init__(
        self, pool: str, *, settlement: Settlement, results: Results, handovers: Handovers, publisher: Publisher
    ) -> None:
        self._pool = pool
        self._settlement = settlement
        self._results = results
        self._handovers = handovers
        self._publisher = publisher

    async def carry_out(self, outcome: Outcome, job: Job) -> Ack:
        """The steps of the table above, for a request that could be read.

        A bug that shows before the terminal event fails the request, because it would meet it again in every worker
        that the request is given to. Raises nothing but bugs that show after it.
        """
        try:
            match outcome:
                case Completed():
                    return await self._complete(outcome, job)
                case Failed(error):
                    return await self._fail(error, job)
                case Cancelled(call):
                    return await self._cancel(call, job)
                case MovedOn(to):
                    return await self._move_on(to, job)
                case DoneBefore(unbooked, unstored):
                    if unstored:
                        await self._results.store(job, unstored.to_json())
                    if unbooked:
                        await self._settlement.book_past(job, unbooked)
                    return Acked()
                case Known(said):
                    await self._publisher.event(job.events.subject, said)
                    self._note_end(job, "known")
                    return Acked()
                case Refused():
                    return self._refuse_id(outcome, job)
                case GivenBack():
                    return await self._give_back(outcome, job)
                case Buried(error):
                    await self._bury(job.delivery, error)
                    return await self._fail(error, job)
                case TakenAway():
                    return NotAcked()
                case _:
                    assert_never(outcome)
        except NotStored as exc:
            return await self._give_back(GivenBack(UNCONFIRMED_S, unconfirmed=exc), job)
        except Lost:
            return NotAcked()
        except Exception:
            if job.events.ended:
                raise
            log.exception("request_crashed", extra=job.log_facts())
            return await self._fail(InternalError(CRASHED), job)

    async def _complete(self, completed: Completed, job: Job) -> Ack:
        record = usage_record(job.request, completed.call, outcome=usage.Outcome.COMPLETED, prices=job.tenant.prices)
        warnings = [*completed.finish.warnings, *job.left_out]
        if job.reservation and job.reservation.max_tokens is not None:
            most = job.reservation.max_tokens
            warnings.append(
                f"the answer was bounded to {most} tokens, because that is what was left of the tenant's budget"
            )
        if job.request.keep_s is not None and (warning := self._results.keeping(job).warning):
            warnings.append(warning)
        try:
            await job.events.completed(completed.call, completed.finish, record, warnings=tuple(warnings))
        except TooLarge:
            job.bill.add(record)
            await self._settlement.book(job, record)
            return await self._fail(InvalidRequest(TOO_LONG), job)
        ack: Ack = Acked()
        try:
            await self._results.store(job, job.events.end)
        except Lost:
            ack = NotAcked()  # what was called is booked all the same
            await self._results.store_though_lost(job, job.events.end)
        await self._settlement.book(job, record)
        self._note_end(job, "completed")
        return ack

    async def _fail(self, error: FleetError, job: Job) -> Ack:
        if not job.delivery.lease.holds:
            return NotAcked()
        await job.events.failed(job.with_left_out(error), attempts=tuple(job.history), bill=job.bill, said=job.said)
        if job.vendor_calls or error.code not in _REFUSALS:
            await self._results.store(job, job.events.end)
        self._note_end(job, "failed", code=error.code)
        return Acked()

    async def _cancel(self, call: VendorCall | None, job: Job) -> Ack:
        record = call and usage_record(job.request, call, outcome=usage.Outcome.CANCELLED, prices=job.tenant.prices)
        if record:
            job.bill.add(record)
        await job.events.cancelled(bill=job.bill)
        ack: Ack = Acked()
        try:
            await self._results.store(job, job.events.end)
        except Lost:
            ack = NotAcked()
            await self._results.store_though_lost(job, job.events.end)
        if record:
            await self._settlement.book(job, record)
        self._note_end(job, "cancelled")
        return ack

    def _refuse_id(self, refused: Refused, job: Job) -> Ack:
        error = refused.error.to_wire()
        said = FailedEvent(request_id=job.request.id, attempt=refused.after + 1, seq=0, error=error)
        self._publisher.pass_on(job.events.subject, said.to_json())
        self._note_end(job, "failed", code=error.code)
        return Acked()

    async def _move_on(self, to: Candidate, job: Job) -> Ack:
        try:
            await self._handovers.publish(job, to)
        except (NoProvider, QueueFull, InvalidRequest) as error:
            return await self._fail(error, job)
        log.info("handed_over", extra={**job.log_facts(), "to": str(to)})
        return Acked()

    async def _give_back(self, given_back: GivenBack, job: Job) -> Ack:
        if given_back.unconfirmed:
            facts = {"subject": job.delivery.subject, "error": str(given_back.unconfirmed)}
            log.warning("request_given_back", extra=facts)
        if (call := given_back.call) is not None:
            error = StreamInterrupted("the worker was stopped; another one goes on", provider=self._pool)
            await self._settlement.book_failed(job, call, error)
            await job.publish_retrying(error, next_up=call.candidate)
        return GaveBack(given_back.delay_s)

    async def refuse(self, delivery: Delivery, error: FleetError, *, kept: bool) -> Ack:
        """The steps of the table's last two rows; `kept`: whether the message is. What is not is not read either.

        Raises nothing but bugs.
        """
        try:
            if kept:
                await self._bury(delivery, error)
        except NotStored as exc:
            log.warning("request_given_back", extra={"subject": delivery.subject, "error": str(exc)})
            return GaveBack(UNCONFIRMED_S)
        if address := reply_address(delivery) if kept else who_asks(delivery):
            agent, request_id = address
            subject = subjects.reply(delivery.tenant, agent, request_id)
            events = EventStream(self._publisher, subject=subject, request_id=request_id, attempt=1)
            await events.failed(error.to_wire(), attempts=(), bill=Bill())
        telemetry.REQUESTS.labels(self._pool, "failed", error.code).inc()
        return Terminated()

    async def _bury(self, delivery: Delivery, error: FleetError) -> None:
        await bury(
            self._publisher,
            delivery.data,
            came_on=delivery.subject,
            to=subjects.dead(self._pool, delivery.tenant),
            code=error.code,
            reason=error.message,
            msg_id=f"dead:{delivery.place}",
        )
        telemetry.DEAD_LETTERS.labels(self._pool, error.code).inc()
        facts = {"code": error.code, "subject": delivery.subject, "reason": error.message}
        log.warning("request_dead", extra=facts)

    def _note_end(self, job: Job, outcome: str, *, code: str = "") -> None:
        telemetry.of(telemetry.REQUESTS, self._pool, outcome, code).inc()
        if not log.isEnabledFor(logging.INFO):
            return
        facts = {
            **job.log_facts(),
            "outcome": outcome,
            "attempts": job.vendor_calls,
            "queued_s": round(job.queued_s, 4),
            **({"code": code} if code else {}),
        }
        log.info("request_ended", extra=facts)
