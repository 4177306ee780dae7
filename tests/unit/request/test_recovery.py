"""What stored events tell of a request's past."""

from collections.abc import Sequence

import pytest

from contracts.attempts import Begun
from contracts.events import Event
from tests.memory import begun, cancelled, completed, delta, failed, retrying, started
from workers.endpoints.names import Candidate
from workers.request import recovery

FIRST, SECOND = Candidate("mock", "echo"), Candidate("mock", "other")


def read(*events: Event) -> recovery.Past:
    past = recovery.read(events)
    assert past is not None
    return past


def test_nothing_that_is_stored_is_no_past() -> None:
    assert recovery.read([]) is None


@pytest.mark.parametrize(
    ("events", "ended", "abandoned", "unbooked", "calls", "dead", "output"),
    [
        ([started(1)], False, True, True, 1, 1, False),
        ([started(1), delta(1)], False, True, True, 1, 1, True),
        ([started(1), delta(1), retrying(1)], False, False, False, 1, 0, True),
        ([started(1), delta(1), retrying(1), started(2)], False, True, True, 2, 1, False),
        ([started(1), started(2), started(3)], False, True, True, 3, 3, False),
        ([started(1), completed(1)], True, False, True, 1, 0, False),
        ([started(1), failed(1)], True, False, True, 1, 0, False),
        ([started(1), retrying(1), failed(2)], True, False, False, 1, 0, False),
        ([started(1), cancelled(1)], True, False, True, 1, 0, False),
        ([cancelled(1)], True, False, False, 0, 0, False),
        ([retrying(1)], False, False, False, 0, 0, False),
        ([delta(1)], False, False, False, 0, 0, True),
    ],
)
def test_tells_how_far_a_request_came(
    events: Sequence[Event], ended: bool, abandoned: bool, unbooked: bool, calls: int, dead: int, output: bool
) -> None:
    past = read(*events)

    assert (past.ended, past.abandoned, past.perhaps_unbooked is not None) == (ended, abandoned, unbooked)
    assert (past.vendor_calls, past.dead_attempts, past.output_sent) == (calls, dead, output)


def test_the_order_of_storing_does_not_matter() -> None:
    events = [started(1), delta(1), retrying(1), started(2), delta(2)]

    assert read(*events) == read(*reversed(events))


def test_only_calls_that_failed_are_in_the_history() -> None:
    past = read(started(1), retrying(1), started(2, model="other"), retrying(2), started(3))

    assert [(attempt.model, attempt.error.code) for attempt in past.failed] == [
        ("echo", "overloaded"),
        ("other", "overloaded"),
    ]


@pytest.mark.parametrize(
    ("events", "left"),
    [
        ([started(1)], [FIRST, SECOND]),
        ([started(1, model="other")], [SECOND]),
        ([started(1), retrying(1)], [FIRST, SECOND]),
        ([started(1), retrying(1, to=SECOND)], [SECOND]),
        ([retrying(1, to=SECOND)], [SECOND]),
        ([cancelled(1)], [FIRST, SECOND]),
        ([started(1, model="one that is not configured any more")], None),
    ],
)
def test_goes_on_with_what_was_being_tried_or_was_to_come_next(
    events: Sequence[Event], left: list[Candidate] | None
) -> None:
    gone = Candidate("mock", "one that is not configured any more")

    assert recovery.remaining(read(*events), [], [FIRST, SECOND]) == (left if left is not None else [gone, SECOND])


def test_a_request_that_another_pool_has_has_moved() -> None:
    assert recovery.has_moved(read(started(1, provider="openai")), pool="mock")
    assert not recovery.has_moved(read(started(1)), pool="mock")
    assert not recovery.has_moved(read(retrying(1)), pool="mock")


@pytest.mark.parametrize(
    ("events", "calls", "left"),
    [
        ([], [begun(1, model="other")], [SECOND]),
        ([started(1), retrying(1)], [begun(2, model="other")], [SECOND]),
        ([started(1), retrying(1), started(2)], [begun(1, model="other")], [FIRST, SECOND]),
    ],
)
def test_a_call_of_which_nothing_was_said_may_have_been_the_last_one(
    events: Sequence[Event], calls: list[Begun], left: list[Candidate]
) -> None:
    assert recovery.remaining(recovery.read(events), calls, [FIRST, SECOND]) == left
