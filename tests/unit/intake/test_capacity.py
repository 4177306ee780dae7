"""How much a pool asks for, and which of its requests is started next."""

import pytest

from contracts.subjects import Priority
from workers.intake.capacity import Capacity


@pytest.mark.parametrize(
    ("slots", "prefetch", "background_share"), [(1, 2, 1), (4, 2, 1), (10, 3, 1), (64, 16, 6), (100, 25, 10)]
)
def test_parts_of_the_slots_are_never_nothing(slots: int, prefetch: int, background_share: int) -> None:
    capacity = Capacity(slots)

    assert (capacity.prefetch, capacity.background_share) == (prefetch, background_share)


@pytest.mark.parametrize(
    ("running", "parked", "asked", "count"),
    [
        (0, 0, 0, 12 + 3),
        (4, 0, 0, 8 + 3),
        (12, 0, 0, 3),
        (12, 3, 0, 0),
        (12, 2, 0, 1),
        (13, 0, 0, 3),
        (0, 0, 15, 0),
        (0, 1, 15, 0),
    ],
)
def test_asks_for_free_slots_and_a_prefetch(running: int, parked: int, asked: int, count: int) -> None:
    assert Capacity(12).to_ask(running=running, parked=parked, asked=asked) == count


@pytest.mark.parametrize(("asked", "count"), [(13, 0), (12, 3), (0, 15)])
def test_while_something_is_under_way_a_few_more_are_not_worth_a_message(asked: int, count: int) -> None:
    assert Capacity(12).to_ask(running=0, parked=0, asked=asked) == count


@pytest.mark.parametrize(
    ("interactive", "background", "background_running", "served"),
    [
        (0, 0, 0, None),
        (1, 0, 0, Priority.INTERACTIVE),
        (0, 1, 9, Priority.BACKGROUND),
        (5, 5, 0, Priority.BACKGROUND),
        (5, 5, 1, Priority.BACKGROUND),
        (5, 5, 2, Priority.INTERACTIVE),
    ],
)
def test_interactive_goes_first_except_for_the_share_of_background(
    interactive: int, background: int, background_running: int, served: Priority | None
) -> None:
    chosen = Capacity(20).next(interactive=interactive, background=background, background_running=background_running)

    assert chosen == served
