"""Each outcome of a request as it is carried out: what is published, in which order, and what JetStream is told."""

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import pytest

from contracts.errors import InternalError, InvalidRequest, NoProvider, Overloaded
from contracts.events import Completed as CompletedEvent
from contracts.events import Failed as FailedEvent
from runtime.jetstream.publishing import NotStored, SubjectFull, TooLarge
from tests.driven_clock import NOON
from tests.memory import ECHO, FINISH, Message, Way, completed, started
from workers.endpoints.names import Candidate
from workers.intake.delivery import Ack, Acked, GaveBack, NotAcked
from workers.providers.base import Chunk
from workers.request import recovery
from workers.request.ending import UNCONFIRMED_S
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
from workers.request.usage_records import VendorCall

UNCONFIRMED = GaveBack(UNCONFIRMED_S)
ANOTHER = Candidate("openai", "gpt-4o")
NOT_STORED = NotStored("not confirmed after 20 tries")


def call() -> VendorCall:
    """A call that brought an answer, whether the vendor said its end or not."""
    made = VendorCall(
        id="call-1", number=1, candidate=ECHO, provider_id="p", endpoint="e", started_at=NOON, started=0.0, queued_s=0.0
    )
    made.gathering.add(Chunk(text="Hello"))
    return made


PAST = recovery.read([started(1), completed(1)])

STEPS: list[tuple[Outcome, list[str], Ack]] = [
    (Completed(call(), FINISH), ["completed", "result", "usage"], Acked()),
    (Failed(Overloaded("full")), ["failed", "result"], Acked()),
    (Cancelled(), ["cancelled", "result"], Acked()),
    (Cancelled(call()), ["cancelled", "result", "usage"], Acked()),
    (MovedOn(ANOTHER), ["request"], Acked()),
    (DoneBefore(), [], Acked()),
    (DoneBefore(PAST), ["usage"], Acked()),
    (DoneBefore(PAST, unstored=completed(1)), ["result", "usage"], Acked()),
    (Known(completed(1).to_json()), ["completed"], Acked()),
    (Refused(InvalidRequest("another messages"), after=1), ["failed"], Acked()),
    (GivenBack(), [], GaveBack()),
    (GivenBack(2.5), [], GaveBack(2.5)),
    (GivenBack(call=call()), ["usage", "retrying"], GaveBack()),
    (GivenBack(5.0, unconfirmed=NOT_STORED), [], GaveBack(5.0)),
    (Buried(InternalError("3 workers died")), ["dead", "failed", "result"], Acked()),
    (TakenAway(), [], NotAcked()),
]


def test_every_outcome_is_in_the_table() -> None:
    assert {type(outcome) for outcome, _, _ in STEPS} == set(get_args(Outcome))


@pytest.mark.parametrize(("outcome", "steps", "ack"), STEPS)
async def test_each_outcome_has_its_steps_in_order(outcome: Outcome, steps: Sequence[str], ack: Ack) -> None:
    way = Way()

    assert await way.ending.carry_out(outcome, way.job()) == ack

    assert way.publisher.kinds == steps


UNCONFIRMED_AT = [
    (outcome, steps, at)
    for outcome, steps, _ in STEPS
    for at, kind in enumerate(steps)
    if kind in ("result", "usage", "request", "dead")
]


@pytest.mark.parametrize(("outcome", "steps", "at"), UNCONFIRMED_AT)
async def test_what_is_not_confirmed_gives_the_request_back_and_stops_the_steps(
    outcome: Outcome, steps: Sequence[str], at: int, caplog: pytest.LogCaptureFixture
) -> None:
    way = Way()
    way.publisher.refuses = {steps[at]: NOT_STORED}

    assert await way.ending.carry_out(outcome, way.job()) == UNCONFIRMED

    assert way.publisher.kinds == steps[:at]
    (line,) = [record for record in caplog.records if record.message == "request_given_back"]
    assert line.__dict__["error"] == str(NOT_STORED)


@pytest.mark.parametrize(
    ("outcome", "steps", "ack"),
    [
        (Failed(Overloaded("full")), [], NotAcked()),
        (MovedOn(ANOTHER), [], NotAcked()),
        (Buried(InternalError("3 workers died")), ["dead"], NotAcked()),
        (Completed(call(), FINISH), ["completed", "result", "usage"], NotAcked()),
        (Cancelled(call()), ["cancelled", "result", "usage"], NotAcked()),
    ],
)
async def test_after_its_lease_a_worker_only_says_to_its_end_what_it_was_saying(
    outcome: Outcome, steps: Sequence[str], ack: Ack
) -> None:
    """Whether an ack is passed on then is the puller's to see."""
    way = Way()
    job = way.job()
    way.leases.lose()

    assert await way.ending.carry_out(outcome, job) == ack

    assert way.publisher.kinds == steps


async def test_what_another_worker_has_begun_anew_has_no_end_by_who_lost_it() -> None:
    way = Way()
    job = way.job()
    way.leases.lose()
    job.journal_seq = -1

    assert await way.ending.carry_out(Completed(call(), FINISH), job) == NotAcked()

    assert way.publisher.kinds == ["completed", "usage"]
    assert job.events.sent == [], "what is not said again cannot be heard in place of the end that counts"


async def test_an_answer_that_no_event_can_hold_is_booked_and_fails_with_its_bill() -> None:
    way = Way()
    way.publisher.refuses = {"completed": TooLarge("completed")}

    assert await way.ending.carry_out(Completed(call(), FINISH), way.job()) == Acked()

    assert way.publisher.kinds == ["usage", "failed", "result"]
    (failed,) = way.publisher.events()
    assert isinstance(failed, FailedEvent)
    assert failed.error.code == "invalid_request"
    assert failed.usage == way.publisher.records()[0].usage


async def test_an_event_holds_no_name_of_a_reply_without_an_end() -> None:
    way = Way()

    await way.ending.carry_out(Completed(call(), replace(FINISH, response_id="r" * 10**6)), way.job())

    (event,) = way.publisher.events()
    assert isinstance(event, CompletedEvent)
    assert event.response_id == "r" * 256


@pytest.mark.parametrize(("refusal", "code"), [(SubjectFull("q"), "queue_full"), (TooLarge("q"), "invalid_request")])
async def test_a_request_that_the_other_pool_cannot_take_fails(refusal: Exception, code: str) -> None:
    way = Way()
    way.publisher.refuses = {"request": refusal}

    assert await way.ending.carry_out(MovedOn(ANOTHER), way.job()) == Acked()

    (failed,) = way.publisher.events()
    assert isinstance(failed, FailedEvent)
    assert failed.error.code == code


async def test_a_request_is_not_handed_over_when_too_much_of_its_tenant_waits() -> None:
    way = Way(may_wait_bytes=10)

    assert await way.ending.carry_out(MovedOn(ANOTHER), way.job()) == Acked()

    (failed,) = way.publisher.events()
    assert isinstance(failed, FailedEvent)
    assert failed.error.code == "queue_full"


async def test_a_failure_tells_the_attempts_before_it_and_why_fallbacks_were_left_out() -> None:
    way = Way()
    job = way.job(left_out=["the fallback x was left out"])
    await way.settlement.book_failed(job, call(), InvalidRequest("no"))

    await way.ending.carry_out(Failed(NoProvider("none")), job)

    failed = way.publisher.events()[-1]
    assert isinstance(failed, FailedEvent)
    assert failed.error.message == "none; the fallback x was left out"
    assert [attempt.error.code for attempt in failed.attempts] == ["invalid_request"]


async def test_metadata_that_leave_no_room_for_a_record_are_left_out_of_it() -> None:
    way = Way()
    refused: list[Message] = []

    def refuse_once(message: Message) -> None:
        if message.kind == "usage" and not refused:
            refused.append(message)
            raise TooLarge("usage")

    way.publisher.before_each = refuse_once

    assert await way.ending.carry_out(Completed(call(), FINISH), way.job()) == Acked()

    assert way.publisher.kinds == ["completed", "result", "usage"]
    assert way.publisher.records()[0].metadata == {}


async def test_the_call_of_another_worker_is_booked_with_what_its_vendor_stated() -> None:
    way = Way()

    await way.ending.carry_out(DoneBefore(PAST), way.job())

    (record,) = way.publisher.records()
    assert (record.attempt, record.outcome, record.provider_id) == (1, "completed", "id-of-mock")
