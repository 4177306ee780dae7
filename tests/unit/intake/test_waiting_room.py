"""How many requests of a tenant may wait in a worker."""

import random
from contextlib import ExitStack

import pytest

from workers.intake.delivery import NotNow
from workers.intake.waiting_room import WaitingRoom


@pytest.fixture
def room() -> WaitingRoom:
    return WaitingRoom(places=2, rng=random.Random(7))


def test_a_tenant_that_has_all_its_places_waits_elsewhere(room: WaitingRoom) -> None:
    with ExitStack() as waiting:
        for _ in range(2):
            waiting.enter_context(room.place("acme", due_s=0))

        with pytest.raises(NotNow), room.place("acme", due_s=0):
            pass
        with room.place("quiet", due_s=0):
            pass


def test_a_place_is_free_again_however_the_waiting_ended(room: WaitingRoom) -> None:
    for _ in range(5):
        with pytest.raises(ZeroDivisionError), room.place("acme", due_s=0):
            raise ZeroDivisionError

    with room.place("acme", due_s=0), room.place("acme", due_s=0):
        pass


@pytest.mark.parametrize(("due_s", "soonest_s", "latest_s"), [(0, 1, 2), (4, 4, 8), (300, 10, 20)])
def test_who_found_no_place_comes_again_around_the_time_that_it_waits_for(
    due_s: float, soonest_s: float, latest_s: float
) -> None:
    room = WaitingRoom(places=0, rng=random.Random(7))
    for _ in range(20):
        with pytest.raises(NotNow) as not_now, room.place("acme", due_s=due_s):
            pass
        assert soonest_s <= not_now.value.delay_s < latest_s
