"""The judge of the chaos suite: each promise that is broken shows, and a plan is its seed's."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from contracts.errors import DeadlineExceeded, Error, ErrorCode
from contracts.events import Cancelled, Completed, Delta, Event, Failed, Retrying, Started, Timings
from contracts.requests import AssistantMessage
from contracts.usage import Usage
from fleet.simulator.ledger import Entry
from tests.acceptance.chaos.agents import Seen
from tests.acceptance.chaos.books import Begun, Books, Record
from tests.acceptance.chaos.cluster import LEADERS
from tests.acceptance.chaos.ends import Ends
from tests.acceptance.chaos.plan import Ask, Conduct, Kind, Leave, Read, draw, kill_leaders
from tests.acceptance.chaos.verdict import cut_by_a_stop, missing, problems

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
ANSWER = "one two"
BROKER_BACK_AT = 1000.0
ENDS = Ends(
    broker_killed=[(BROKER_BACK_AT - 6, BROKER_BACK_AT)],
    of_workers={"openai": [BROKER_BACK_AT - 15, BROKER_BACK_AT + 25]},
    broker_away=[(BROKER_BACK_AT - 6, BROKER_BACK_AT), (BROKER_BACK_AT + 20, BROKER_BACK_AT + 30)],
)


def event(kind: Any, attempt: int, seq: int, **fields: Any) -> Any:
    return kind(request_id="r1", attempt=attempt, seq=seq, **fields)


def started(attempt: int) -> Event:
    return event(Started, attempt, 0, provider="openai", endpoint="east", model="m", worker="w", at=NOW)


def completed(attempt: int, seq: int, *, answer: str = ANSWER) -> Event:
    message = AssistantMessage(role="assistant", content=answer)
    timings = Timings(queued_s=0, duration_s=1)
    return event(
        Completed, attempt, seq, message=message, finish_reason="stop", usage=Usage(), provider="openai", model="m",
        timings=timings,
    )  # fmt: skip


def failed(attempt: int, seq: int, code: str) -> Event:
    return event(Failed, attempt, seq, error=Error.model_validate({"code": code, "message": "", "retryable": False}))


STREAM: Sequence[Event] = (
    started(1),
    event(Delta, 1, 1, text="one "),
    event(Delta, 1, 2, text="two"),
    completed(1, 3),
)


RETRYING: dict[str, Any] = {
    "error": Error.model_validate({"code": "overloaded", "message": "", "retryable": True}),
    "delay_s": 0,
    "next": {"provider": "openai", "model": "m"},
}


def seen(events: Sequence[Event] = STREAM, **changes: Any) -> Seen:
    ask = Ask(
        number=1, at_s=0, agent=0, model="openai/m", fallbacks=(), scripts={}, texts=(ANSWER,), conduct=Read()
    )  # fmt: skip
    return replace(Seen(ask, request_id="r1", events=list(events), ended_at=BROKER_BACK_AT + 100), **changes)


def record(attempt: int = 1, **changes: Any) -> Record:
    made = Record(
        request_id="r1", attempt=attempt, provider="openai", started_at=NOW, outcome="completed", error_code=None,
        usage_source="vendor", input_tokens=10, output_tokens=20, cost=Decimal("0.5"),
    )  # fmt: skip
    return replace(made, **changes)


def call(**changes: Any) -> Entry:
    entry = Entry("openai", "/v1", "m", "r1", None, True, at=BROKER_BACK_AT + 50)
    entry.outcome, entry.input_tokens, entry.output_tokens = "finished", 10, 20
    for name, value in changes.items():
        setattr(entry, name, value)
    return entry


def books(records: Sequence[Record] = (), calls: Sequence[Entry] = (), **changes: Any) -> Books:
    records, calls = records or [record()], calls or [call()]
    sums = (
        len(records),
        sum(r.input_tokens for r in records),
        sum(r.output_tokens for r in records),
        sum(r.cost or Decimal(0) for r in records),
    )
    ends = {"results": {"r1": [STREAM[-1].to_json()]}, **changes}
    return replace(Books(records, rolled_up=sums, served=calls, dead=0), **ends)


def kept(events: Sequence[Event]) -> dict[str, list[bytes]]:
    """LLM_RESULTS as it is when these events are all that was said."""
    return {"r1": [event.to_json() for event in events[-1:]]}


def judge(one: Seen, closed: Books) -> list[str]:
    return problems([one], closed, ends=ENDS)


def test_finds_nothing_where_all_is_well() -> None:
    assert judge(seen(), books()) == []


def test_lets_pass_what_is_promised_to_fail() -> None:
    ask = replace(seen().ask, on_interrupt="fail")
    records = [record(outcome="failed", usage_source="estimated")]
    calls = [call(outcome="cut")]
    said = [started(1), failed(1, 1, "stream_interrupted")]
    assert judge(seen(said, ask=ask), books(records, calls, results=kept(said))) == []


@pytest.mark.parametrize(
    ("providers", "is_right"),
    [
        (["openai", "google", "google", "google"], True),
        (["google", "google", "openai", "google"], False),
        (["google", "google"], False),
    ],
)
def test_lets_fail_what_was_tried_often_enough_at_its_last_provider(providers: list[str], is_right: bool) -> None:
    records = [
        record(number, provider=provider, outcome="failed", usage_source="estimated")
        for number, provider in enumerate(providers, start=1)
    ]
    calls = [call(vendor=provider, outcome="cut") for provider in providers]
    one = seen([event(Retrying, 1, 0, **RETRYING), failed(len(providers), 0, "overloaded")])
    assert ("failed after" not in "\n".join(judge(one, books(records, calls)))) is is_right


@pytest.mark.parametrize(("waited_s", "is_right"), [(31, True), (29, False)])
def test_lets_fail_what_has_waited_for_an_endpoint_long_enough(waited_s: float, is_right: bool) -> None:
    error = Error(code=ErrorCode.OVERLOADED, message="not called", retryable=True, retry_after_s=5)
    end = event(Failed, 1, 1, error=error)
    one = seen([started(1), end], asked_at=BROKER_BACK_AT, ended_at=BROKER_BACK_AT + waited_s)
    records = [record(outcome="failed", usage_source="estimated")]
    assert (judge(one, books(records, [call(outcome="cut")], results=kept([end]))) == []) is is_right


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (seen(STREAM[:-1]), "ended with []"),
        (seen([*STREAM, completed(2, 0)]), "ended with ['completed', 'completed']"),
        (seen(STREAM[:1], error=DeadlineExceeded("late")), "got no end"),
        (seen([STREAM[0], STREAM[2], STREAM[3]]), "(1, 2) came after (1, 0)"),
        (seen([STREAM[0], STREAM[1], STREAM[1], *STREAM[2:]]), "(1, 1) came after (1, 1)"),
        (seen([started(2), *STREAM]), "(1, 0) came after (2, 0)"),
        (seen([*STREAM[:3], completed(1, 3, answer="three")]), "not the vendor's"),
        (seen([*STREAM[:2], completed(1, 2)]), "the deltas of attempt 1"),
        (seen([started(1), event(Cancelled, 1, 1)]), "nobody asked"),
        (seen([started(1), failed(1, 1, "stream_interrupted")]), "failed after 1 attempts"),
        (seen([started(1), failed(1, 1, "internal")]), "failed after 1 attempts: internal"),
        (seen(read_again={(1, 0): []}), "after (1, 0) gets nothing"),
        (seen(read_again={(1, 1): list(STREAM[1:])}), "after (1, 1) gets (1, 1)"),
        (seen(read_again={(0, -1): list(STREAM[:2])}), "sees it end with []"),
        (seen(read_again={(0, -1): [started(1), failed(1, 1, "overloaded")]}), "sees it end with b'"),
        (seen(read_again={(1, 0): [STREAM[2], completed(1, 3, answer="one")]}), "sees it end with b'"),
        (seen(resumed=[]), "an agent that came back later gets nothing"),
        (seen(resumed=[completed(1, 4)]), "an agent that came back later sees it end with b'"),
        (seen(resumed=list(STREAM[:2])), "an agent that came back later sees it end with []"),
        (seen(resumed=[STREAM[0], STREAM[2], STREAM[3]]), "came back later reads: (1, 2) came after (1, 0)"),
        (seen(asked_again=[]), "whoever sent it again gets nothing"),
        (seen(asked_again=[started(2), completed(2, 1)]), "whoever sent it again sees it end with b'"),
    ],
)  # fmt: skip
def test_sees_what_an_agent_should_not_have_seen(one: Seen, words: str) -> None:
    assert words in "\n".join(judge(one, books()))


@pytest.mark.parametrize(
    ("closed", "words"),
    [
        (
            books(calls=[call(), call()]),
            "2 calls were made, 1 are booked; one at openai is missing: nothing explains it",
        ),
        (books(calls=[call(output_tokens=21)]), "the vendor knows 0"),
        (books(calls=[call(outcome="hung_up")]), "the vendor knows 0"),
        (books([record(usage_source="estimated")]), "is estimated"),
        (books([record(provider="google")], [call(vendor="google")]), "attempt 1 at openai is booked as google"),
        (books([record(request_id="r2")], [call(request_id="r2")]), "r2 was asked by nobody"),
        (books(rolled_up=(1, 10, 20, Decimal("0.6"))), "the roll-up says"),
        (books(dead=1), "1 messages are in LLM_DEAD, 0 requests failed as poison"),
        (books(left=["LLM_USAGE/usage: 0 waiting, 3 not acked"]), "3 not acked"),
        (books(results={}), "0 results of it are stored"),
        (books(results={"r1": [completed(1, 4).to_json()]}), "its agent heard b'"),
        (books(results={**kept(STREAM), "r2": [b""]}), "r2 was asked by nobody"),
        (books(served_again=[call()]), "openai was called for its id once more"),
    ],
)
def test_sees_what_the_books_should_not_say(closed: Books, words: str) -> None:
    assert words in "\n".join(judge(seen(), closed))


@pytest.mark.parametrize(
    ("lost", "is_explained"),
    [
        ({"at": BROKER_BACK_AT + 21, "ended_at": BROKER_BACK_AT + 22}, True),
        ({"at": BROKER_BACK_AT + 19.6, "outcome": "hung_up"}, True),
        ({"at": BROKER_BACK_AT + 19, "outcome": "hung_up"}, False),
        ({"at": BROKER_BACK_AT + 21, "vendor": "google"}, False),
        ({"at": BROKER_BACK_AT + 26, "outcome": "hung_up"}, False),
        ({"at": BROKER_BACK_AT - 20, "outcome": "hung_up"}, False),
        ({"at": BROKER_BACK_AT - 5, "outcome": "hung_up"}, False),
    ],
)
def test_explains_a_call_without_a_row_only_by_a_broker_that_was_away_and_a_worker_that_died_then(
    lost: dict[str, Any], is_explained: bool
) -> None:
    """A worker of openai died at -15 s and at +25 s; NATS was killed at -6 s and stopped from +20 s to +30 s."""
    served = [*(call() for _ in range(199)), call(**lost)]
    closed = books([record(n) for n in range(1, 200)], served)

    (told,) = missing([seen()], closed, ends=ENDS)

    assert ("nothing explains it" not in told) is is_explained
    assert ("nothing explains it" not in "\n".join(judge(seen(), closed))) is is_explained


@pytest.mark.parametrize(("lost", "is_too_much"), [(2, False), (3, True)])
def test_lets_no_more_than_a_hundredth_of_the_calls_be_missing(lost: int, is_too_much: bool) -> None:
    served = [call() for _ in range(200 - lost)] + [call(at=BROKER_BACK_AT + 21) for _ in range(lost)]
    closed = books([record(n) for n in range(1, len(served) + 1 - lost)], served)

    assert ("of 200 calls are not booked" in "\n".join(judge(seen(), closed))) is is_too_much


def test_says_of_a_call_without_a_row_who_made_it_and_whether_its_beginning_is_on_disk() -> None:
    lost = call(at=NOW.timestamp() + 0.1)
    closed = books([record(2, started_at=NOW + timedelta(hours=1))], [call(at=NOW.timestamp() + 3600), lost])
    begun = Begun("x", "r1", 1, "openai", "w", NOW)

    (told,) = missing([seen()], closed, ends=ENDS)
    (told_with_begun,) = missing([seen()], replace(closed, begun=[begun]), ends=ENDS)

    assert "made by w, its beginning not on disk" in told
    assert "made by w, its beginning on disk" in told_with_begun


def test_a_retried_attempt_is_followed_by_the_next_from_its_start() -> None:
    first = [started(1), event(Retrying, 1, 1, **RETRYING)]
    second = [started(2), event(Delta, 2, 1, text=ANSWER), completed(2, 2)]
    records = [record(1, outcome="failed", usage_source="estimated"), record(2)]
    closed = books(records, [call(outcome="cut"), call()], results=kept(second))
    assert judge(seen([*first, *second]), closed) == []
    assert judge(seen([*first, *second[1:]]), closed) != []


@pytest.mark.parametrize(
    ("lasted", "is_forgiven"),
    [
        ({"ended_at": BROKER_BACK_AT + 28.1}, True),
        ({"ended_at": BROKER_BACK_AT + 27.9}, False),
        ({"ended_at": BROKER_BACK_AT + 24}, False),
        ({"ended_at": BROKER_BACK_AT - 11}, False),
        ({"at": BROKER_BACK_AT - 14, "ended_at": BROKER_BACK_AT - 11.9}, True),
        ({"ended_at": BROKER_BACK_AT + 28.1, "outcome": "cut"}, False),
        ({"ended_at": BROKER_BACK_AT + 28.1, "vendor": "google"}, False),
    ],
)
def test_a_stopping_worker_may_cut_off_only_what_outlasts_its_drain(lasted: dict[str, Any], is_forgiven: bool) -> None:
    """Workers of openai were stopped at -15 s and at +25 s."""
    late = call(**{"at": BROKER_BACK_AT - 12, "outcome": "hung_up", **lasted})
    assert cut_by_a_stop([call(), late], ends=ENDS) == ([late] if is_forgiven else [])


DURING_THE_KILL = {"asked_at": BROKER_BACK_AT - 10, "ended_at": BROKER_BACK_AT + 5}


@pytest.mark.parametrize(
    ("conduct", "agent", "when", "may_miss_events"),
    [
        (Leave(after=1, away_s=1), 0, DURING_THE_KILL, True),
        (Read(), 3, DURING_THE_KILL, True),
        (Read(), 0, DURING_THE_KILL, False),
        (Leave(after=1, away_s=1), 0, {"asked_at": BROKER_BACK_AT + 1, "ended_at": BROKER_BACK_AT + 5}, False),
    ],
)
def test_whoever_did_not_listen_while_nats_was_killed_may_hear_the_end_alone(
    conduct: Conduct, agent: int, when: dict[str, float], may_miss_events: bool
) -> None:
    """Agents 2 and 3 have a bad line."""
    ask = replace(seen().ask, conduct=conduct, agent=agent)
    assert (judge(seen([STREAM[0], STREAM[-1]], ask=ask, **when), books()) == []) is may_miss_events
    assert judge(seen([STREAM[0], STREAM[2], STREAM[-1]], ask=ask, **when), books()) != []


def test_an_agent_that_comes_back_later_may_hear_the_end_alone() -> None:
    assert judge(seen(resumed=[STREAM[-1]], asked_again=[STREAM[-1]]), books()) == []
    assert judge(seen(resumed=list(STREAM), asked_again=list(STREAM)), books()) == []


def test_a_plan_is_its_seeds_alone() -> None:
    assert draw(7, requests=50) == draw(7, requests=50)
    assert draw(7, requests=50) != draw(8, requests=50)
    assert len(draw(7, requests=50, faults=5).faults) == 5
    assert draw(8, requests=50, long=True) != draw(8, requests=50)


def test_every_part_is_hit_in_every_trial() -> None:
    killed = {fault.what for fault in draw(3, requests=1).faults if fault.kind is Kind.KILL}
    stopped = {fault.what for fault in draw(3, requests=1).faults if fault.kind is Kind.STOP}

    assert killed >= {"worker-openai", "worker-anthropic", "usage", "admin", "nats", "vault", "postgres"}
    assert stopped >= {"worker-openai", "outlying", "usage", "admin", "nats", "vault", "postgres"}


@pytest.mark.parametrize("faults", [None, 5])
def test_nats_is_killed_twice_in_every_trial(faults: int | None) -> None:
    (first,) = (fault for fault in draw(3, requests=1, faults=faults).faults if fault.then)

    assert (first.kind, first.what) == (Kind.KILL, "nats")
    assert (first.then[0].kind, first.then[0].what) == (Kind.KILL, "nats")
    assert 1 <= first.then[0].at_s <= 5


def test_of_two_seeds_one_fills_the_disk_and_one_keeps_postgresql_away() -> None:
    (full,) = (fault for fault in draw(2, requests=1, long=True).faults if fault.kind is Kind.FULL)
    of_postgres = [fault.kind for fault in draw(3, requests=1, long=True).faults if fault.what == "postgres"]

    assert full.what == "nats"
    assert of_postgres == [Kind.AWAY]


def test_every_leader_is_killed_once() -> None:
    plan = kill_leaders(3, LEADERS, requests=1)

    killed = [fault.what for fault in plan.faults if fault.what.startswith("leader-")]
    assert sorted(killed) == sorted(f"leader-{name}" for name in LEADERS)
    assert plan.nodes == 3
