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
    capacity = Capacity(12)

    assert capacity.to_ask(running=running, parked=parked, look=capacity.prefetch) == count


def test_asks_for_more_than_there_is_room_for_where_it_looks_through_a_flood() -> None:
    assert Capacity(12).to_ask(running=12, parked=3, look=48) == 48


def test_looks_ever_farther_through_a_flood_and_then_as_far_as_before() -> None:
    capacity = Capacity(64)
    looks = [capacity.prefetch]
    for _ in range(9):
        looks.append(capacity.next_look(looks[-1], put_off=True))

    assert looks == [16, 32, 64, 128, 256, 512, 1024, 2048, 2048, 2048]
    assert capacity.next_look(looks[-1], put_off=False) == 16


@pytest.mark.parametrize(
    ("running", "preparing", "first"),
    [
        (0, 0, "background"),
        (1, 0, "background"),
        (2, 0, "interactive"),
        (0, 1, "interactive"),
    ],
)
def test_interactive_goes_first_except_for_the_share_of_background(running: int, preparing: int, first: str) -> None:
    order = Capacity(20).order(running=running, preparing=preparing)

    assert order[0] == first
    assert set(order) == set(Priority)


@pytest.mark.parametrize(("running", "parked"), [(0, 12 + 3), (10, 2 + 3), (12, 3), (13, 3)])
def test_what_a_free_slot_waits_for_is_parked(running: int, parked: int) -> None:
    assert Capacity(12).to_park(running=running) == parked
