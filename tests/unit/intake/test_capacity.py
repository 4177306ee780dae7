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
    ("running", "parked", "count"), [(0, 0, 12 + 3), (4, 0, 8 + 3), (4, 2, 8 + 1), (12, 0, 3), (12, 3, 3), (12, 1, 3)]
)
def test_asks_for_free_slots_and_a_prefetch_and_never_for_nothing(running: int, parked: int, count: int) -> None:
    assert Capacity(12).to_ask(running=running, parked=parked) == count


@pytest.mark.parametrize(("background_running", "first"), [(0, "background"), (1, "background"), (2, "interactive")])
def test_interactive_goes_first_except_for_the_share_of_background(background_running: int, first: str) -> None:
    order = Capacity(20).order(background_running=background_running)

    assert order[0] == first
    assert set(order) == set(Priority)
