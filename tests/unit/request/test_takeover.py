"""What a worker does with a request that others may have had: a table over its past and what the server remembers."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import nats.errors
import pytest

from contracts.attempts import Begun
from contracts.events import Event
from runtime.jetstream.publishing import NotStored
from tests.driven_clock import NOON
from tests.memory import Message, Way, begun, cancelled, completed, delta, failed, request, retrying, started
from workers.endpoints.names import Candidate
from workers.jetstream.server_memory import ServerMemory
from workers.request import recovery
from workers.request.outcome import Buried, DoneBefore, Failed, GivenBack, Known
from workers.request.policy import MAX_ATTEMPTS
from workers.request.provenance import Origin, Provenance
from workers.request.takeover import COPY_WAITS_S, MOST_WAITS, NO_ANSWER_S, Fresh, GoOn, left_to_another, take_over

FIRST, SECOND = Candidate("mock", "echo"), Candidate("mock", "other")

NOW = NOON + timedelta(seconds=60)

BEFORE = ServerMemory(NOON - timedelta(hours=1), age_s=3600.0)
"""The server has kept replies since long before the request was queued."""
SINCE = ServerMemory(NOON + timedelta(seconds=1), age_s=60.0)
"""The server lost the replies after the request was queued, and all that was known has been said again."""
JUST_NOW = ServerMemory(NOON + timedelta(seconds=1), age_s=0.5)

FIRST_TIME = Provenance(Origin.PERHAPS_A_COPY, 1, perhaps_forgotten=False)
AGAIN = Provenance(Origin.REDELIVERED, 2, perhaps_forgotten=False)
AFTER_A_KILL = Provenance(Origin.REDELIVERED, 1, perhaps_forgotten=True)
REPLAYED = Provenance(Origin.REPLAYED, 1, perhaps_forgotten=False)
REPLAYED_AFTER_A_KILL = Provenance(Origin.REPLAYED, 1, perhaps_forgotten=True)


def found(
    provenance: Provenance,
    events: Sequence[Event],
    memory: ServerMemory | None,
    written: Sequence[Begun] = (),
    **fields: Any,
) -> Fresh | GoOn | DoneBefore | GivenBack:
    job = Way().job(provenance=provenance, candidates=[FIRST, SECOND], **fields)
    return take_over(job, recovery.read(events), written, memory, pool="mock", republished_s=1.5)


@pytest.mark.parametrize(
    ("provenance", "memory", "expected"),
    [
        (FIRST_TIME, None, Fresh()),
        (REPLAYED, None, Fresh()),
        (AGAIN, BEFORE, Fresh()),
        (AGAIN, SINCE, GoOn((FIRST, SECOND), forgotten_deliveries=2)),
        (AGAIN, JUST_NOW, GoOn((FIRST, SECOND), forgotten_deliveries=2)),
        (AGAIN, None, GoOn((FIRST, SECOND), forgotten_deliveries=2)),
        (AFTER_A_KILL, BEFORE, Fresh()),
        (AFTER_A_KILL, SINCE, GoOn((FIRST, SECOND), forgotten_deliveries=1)),
        (AFTER_A_KILL, JUST_NOW, GivenBack(1.5)),
        (AFTER_A_KILL, None, GivenBack(1.5)),
        (REPLAYED_AFTER_A_KILL, JUST_NOW, GivenBack(1.5)),
        (REPLAYED_AFTER_A_KILL, SINCE, GoOn((FIRST, SECOND), forgotten_deliveries=1)),
        (Provenance(Origin.REDELIVERED, MOST_WAITS, perhaps_forgotten=True), None, GivenBack(1.5)),
        (
            Provenance(Origin.REDELIVERED, MOST_WAITS + 1, perhaps_forgotten=True),
            None,
            GoOn((FIRST, SECOND), forgotten_deliveries=MOST_WAITS + 1),
        ),
    ],
)
def test_what_nothing_is_stored_of_is_fresh_unless_that_can_be_forgotten(
    provenance: Provenance, memory: ServerMemory | None, expected: object
) -> None:
    assert found(provenance, [], memory) == expected


def test_goes_on_after_a_dead_worker() -> None:
    events = [started(1), retrying(1), started(2), delta(2)]

    match found(AGAIN, events, BEFORE):
        case GoOn(remaining, after, forgotten_deliveries, vendor_calls, failed, unbooked, (), end):
            assert (remaining, after, forgotten_deliveries) == ((FIRST, SECOND), delta(2), 0)
            assert (vendor_calls, len(failed), end) == (2, 1, None)
            assert unbooked is not None, "the call of the dead worker"
        case other:
            raise AssertionError(f"{other} does not go on")


def test_numbers_that_were_forgotten_are_skipped_although_some_events_are_known() -> None:
    match found(AGAIN, [started(1), retrying(1)], SINCE):
        case GoOn(after=after, forgotten_deliveries=2, unbooked=None):
            assert after == retrying(1)
        case other:
            raise AssertionError(f"{other} skips nothing")


@pytest.mark.parametrize("provenance", [FIRST_TIME, AGAIN, AFTER_A_KILL])
def test_what_has_ended_is_done_and_booked_if_need_be(provenance: Provenance) -> None:
    past = recovery.read([started(1), completed(1)])

    assert found(provenance, [started(1), completed(1)], JUST_NOW) == DoneBefore(past, unstored=completed(1))
    assert found(provenance, [cancelled(1)], JUST_NOW) == DoneBefore(unstored=cancelled(1))


def test_what_another_pool_has_is_left_to_it() -> None:
    assert found(AGAIN, [started(1, provider="openai")], BEFORE) == DoneBefore()


def test_a_replay_runs_once_more_with_numbers_of_its_own_and_books_nothing_again() -> None:
    events = [started(1), completed(1)]

    assert found(REPLAYED, events, None) == GoOn((FIRST, SECOND), after=completed(1))


def test_a_replay_that_is_delivered_again_is_done_once_it_has_ended() -> None:
    again = Provenance(Origin.REDELIVERED, 2, perhaps_forgotten=False)

    assert isinstance(found(again, [started(1), completed(1)], BEFORE), DoneBefore)


@pytest.mark.parametrize(
    ("events", "fields", "code"),
    [
        ([started(1), started(2), started(3)], {}, "buried"),
        ([started(1), started(2), started(3), retrying(3)], {}, None),
        ([started(1), started(2)], {}, None),
        ([started(1), delta(1)], {"request": request(on_interrupt="fail")}, "stream_interrupted"),
        ([started(1)], {"request": request(on_interrupt="fail")}, None),
        ([started(1), delta(1), retrying(1)], {"request": request(on_interrupt="fail")}, None),
        ([started(1)], {"vendor_calls": MAX_ATTEMPTS - 1}, "stream_interrupted"),
        ([started(1)], {"vendor_calls": MAX_ATTEMPTS - 2}, None),
        ([started(1), retrying(1)], {"vendor_calls": MAX_ATTEMPTS - 1}, "stream_interrupted"),
    ],
)
def test_a_past_may_leave_nothing_to_try(events: Sequence[Event], fields: dict[str, Any], code: str | None) -> None:
    went_on = found(AGAIN, events, BEFORE, **fields)
    assert isinstance(went_on, GoOn)

    match went_on.end:
        case None:
            assert code is None
        case Buried(error):
            assert (code, error.code) == ("buried", "internal")
        case Failed(error):
            assert code == error.code


async def test_a_job_is_left_where_its_past_ended() -> None:
    way = Way(stored=[started(1), retrying(1, to=SECOND), started(2, model="other"), delta(2)], memory=BEFORE)
    job = way.job(deliveries=2, provenance=AGAIN, candidates=[FIRST, SECOND], vendor_calls=3)

    assert isinstance(await way.takeover().look_back(job), GoOn)

    assert (job.events.attempt, job.vendor_calls, job.candidates) == (3, 5, [SECOND])
    assert [attempt.error.code for attempt in job.history] == ["overloaded"]
    (record,) = way.publisher.records()
    assert (record.attempt, record.outcome, record.provider_id) == (2, "abandoned", "id-of-mock")
    assert job.bill.usage == record.usage


async def test_attempts_of_the_pools_before_are_known_from_the_handover_and_not_counted_again() -> None:
    way = Way(stored=[started(1, provider="openai"), retrying(1)], memory=BEFORE)
    job = way.job(provenance=AGAIN, candidates=[FIRST])
    job.events.continue_after(1)

    assert await way.takeover().look_back(job) == Fresh()


async def test_a_past_that_ends_the_request_is_told_with_what_went_before() -> None:
    way = Way(stored=[started(1), started(2), started(3)], memory=BEFORE)
    job = way.job(deliveries=2, provenance=AGAIN, candidates=[FIRST])

    assert isinstance(await way.takeover().look_back(job), Buried)

    assert (job.events.attempt, job.vendor_calls) == (4, 3)
    assert [record.attempt for record in way.publisher.records()] == [3]


async def test_numbers_that_may_have_been_used_are_left_out() -> None:
    way = Way(memory=SINCE)
    job = way.job(provenance=AFTER_A_KILL, candidates=[FIRST])

    await way.takeover().look_back(job)

    assert job.events.attempt == 101


@pytest.mark.parametrize("error", [nats.errors.TimeoutError(), TimeoutError()])
async def test_a_past_that_cannot_be_read_is_asked_for_again(error: Exception) -> None:
    way = Way(unanswered=error)

    assert await way.takeover().look_back(way.job(provenance=AGAIN)) == GivenBack(NO_ANSWER_S)


async def test_nothing_goes_on_before_the_dead_workers_call_is_booked() -> None:
    way = Way(stored=[started(1)], memory=BEFORE)
    way.publisher.refuses = {"usage": NotStored("no")}
    job = way.job(provenance=AGAIN, candidates=[FIRST])

    with pytest.raises(NotStored):
        await way.takeover().look_back(job)

    assert job.events.attempt == 1


def left(
    calls: Sequence[Begun], events: Sequence[Event], memory: ServerMemory | None, *, deliveries: int = 1, **fields: Any
) -> DoneBefore | Known | GivenBack | None:
    job = Way().job(provenance=Provenance(Origin.PERHAPS_A_COPY, deliveries, perhaps_forgotten=False), **fields)
    last = events[-1] if events else None
    return left_to_another(job, calls, last, memory, now=NOW, pool="mock", republished_s=1.5)


LATE = NOW - timedelta(seconds=1)
OTHER = 8
"""The place of another message with the same request; that of the one at hand is 7."""


@pytest.mark.parametrize("memory", [BEFORE, SINCE])
def test_a_call_that_was_begun_and_never_spoken_of_is_booked_and_counts(memory: ServerMemory) -> None:
    match found(AGAIN, [], memory, [begun(1)]):
        case GoOn(remaining=(c1, c2), after=None, vendor_calls=1, unbooked=None, died=(call,), end=None):
            assert (c1, c2, call) == (FIRST, SECOND, begun(1))
        case other:
            raise AssertionError(f"{other} does not go on")


def test_what_was_said_and_what_was_only_written_down_are_one_past() -> None:
    events = [started(1), retrying(1, to=SECOND)]

    match found(AGAIN, events, BEFORE, [begun(1), begun(2, model="other")]):
        case GoOn(remaining=remaining, vendor_calls=2, unbooked=None, died=(call,)):
            assert (remaining, call.attempt) == ((SECOND,), 2)
        case other:
            raise AssertionError(f"{other} does not go on")


def test_three_workers_that_died_before_they_said_a_word_bury_a_request() -> None:
    calls = [begun(1, worker="w1"), begun(2, worker="w2"), begun(3, worker="w3")]
    went_on = found(AGAIN, [started(1)], BEFORE, calls)

    assert isinstance(went_on, GoOn)
    assert isinstance(went_on.end, Buried)


def test_calls_that_ended_and_are_forgotten_are_no_deaths_and_booked() -> None:
    """A worker makes another call only after one has ended; what it said of that may be lost with the server."""
    went_on = found(AGAIN, [], SINCE, [begun(1), begun(2), begun(3)])

    assert isinstance(went_on, GoOn)
    assert (went_on.vendor_calls, [call.attempt for call in went_on.died], went_on.end) == (3, [3], None)


@pytest.mark.parametrize(
    ("events", "last", "memory", "expected"),
    [
        # Another message with the same request is being worked on.
        ([started(1), delta(1)], begun(1, seq=OTHER), BEFORE, GivenBack(COPY_WAITS_S)),
        ([], begun(1, seq=OTHER, at=LATE), BEFORE, GivenBack(COPY_WAITS_S)),
        ([], begun(1, seq=OTHER), JUST_NOW, GivenBack(COPY_WAITS_S)),
        ([], begun(1, seq=OTHER), None, GivenBack(COPY_WAITS_S)),
        # Another pool works on it.
        ([], begun(1, seq=OTHER, provider="openai", at=LATE), BEFORE, DoneBefore()),
        # It has ended.
        ([started(1), completed(1)], begun(1, seq=OTHER), BEFORE, Known(completed(1).to_json())),
        ([started(1), failed(1)], begun(1, seq=OTHER), BEFORE, GivenBack(NO_ANSWER_S)),
        # Its time is over, or nothing is said of it any more: its id is used once more.
        ([started(1), delta(1)], begun(1, seq=OTHER, at=NOW - timedelta(seconds=90)), BEFORE, None),
        ([], begun(1, seq=OTHER), BEFORE, None),
        ([], begun(1, seq=OTHER, provider="openai"), BEFORE, None),
        ([], begun(1, seq=OTHER), SINCE, None),
        ([started(1), completed(1)], begun(2, seq=OTHER), BEFORE, None),
    ],
)
def test_a_copy_is_known_by_the_journal(
    events: Sequence[Event], last: Begun, memory: ServerMemory | None, expected: object
) -> None:
    assert left([last], events, memory) == expected


def test_who_has_begun_before_another_message_did_leaves_the_request_to_that() -> None:
    assert left([begun(1), begun(2, seq=OTHER)], [], BEFORE) == DoneBefore()


def test_a_copy_waits_longer_each_time() -> None:
    running = [begun(1, seq=OTHER, at=LATE)]

    waits = [left(running, [], BEFORE, deliveries=times) for times in (1, 2, 50)]

    assert waits == [GivenBack(2.0), GivenBack(4.0), GivenBack(30.0)]


def test_a_copy_whose_own_time_is_over_leaves_the_end_to_the_other() -> None:
    running = [begun(1, seq=OTHER, at=LATE)]

    assert left(running, [], BEFORE, deadline=NOW) == DoneBefore()


async def test_a_copy_reads_no_more_of_the_request_than_its_last_event() -> None:
    way = Way(stored=[started(1), delta(1)], memory=BEFORE)
    way.publisher.journal = [Message("llm.v1.attempt.acme.a.r1", begun(1, seq=OTHER).to_json())]
    read: list[str] = []
    way.note_read = read.append

    assert await way.takeover().look_back(way.job(provenance=FIRST_TIME)) == GivenBack(COPY_WAITS_S)

    assert read == ["last"]


async def test_a_call_that_is_known_from_the_journal_only_is_booked_under_its_id() -> None:
    way = Way(memory=BEFORE)
    way.publisher.journal = [Message("llm.v1.attempt.acme.a.r1", begun(1).to_json())]
    job = way.job(deliveries=2, provenance=AGAIN, candidates=[FIRST])

    assert isinstance(await way.takeover().look_back(job), GoOn)

    (record,) = way.publisher.records()
    assert (record.id, record.outcome, record.usage.source) == ("call-7-1", "abandoned", "estimated")
    assert (job.events.attempt, job.vendor_calls, job.journal_seq) == (2, 1, 1)


async def test_a_call_that_is_begun_while_the_past_is_read_is_left_to_its_worker() -> None:
    way = Way(stored=[started(1)], memory=BEFORE)

    def begin(_: str) -> None:
        way.publisher.journal = [Message("llm.v1.attempt.acme.a.r1", begun(1, seq=OTHER).to_json())]

    way.note_read = begin

    assert await way.takeover().look_back(way.job(provenance=FIRST_TIME)) == GivenBack(NO_ANSWER_S)

    assert way.publisher.records() == []


def test_a_replay_that_was_put_off_is_still_one() -> None:
    again = Provenance(Origin.REPLAYED, 3, perhaps_forgotten=False)

    assert found(again, [started(1), completed(1)], BEFORE, [begun(1, seq=OTHER)]) == GoOn(
        (FIRST, SECOND), after=completed(1)
    )
    assert isinstance(found(again, [started(1), completed(1)], BEFORE, [begun(1)]), DoneBefore), "it has run"


async def test_the_attempts_of_an_id_that_is_used_once_more_count_on() -> None:
    way = Way(memory=BEFORE)
    way.clock.passed_s = 3600
    way.publisher.journal = [Message("llm.v1.attempt.acme.a.r1", begun(1, seq=OTHER).to_json())]
    job = way.job(provenance=FIRST_TIME, candidates=[FIRST])

    assert await way.takeover().look_back(job) == Fresh()

    assert (job.events.attempt, job.vendor_calls, job.journal_seq) == (2, 0, 1)
    assert way.publisher.records() == []
