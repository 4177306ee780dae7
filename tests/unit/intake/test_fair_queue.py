"""Turns of tenants and of their agents."""

from workers.intake.asker import Asker
from workers.intake.fair_queue import FairQueue


def queue(*items: str) -> FairQueue[str]:
    """Items like `a.x1`: tenant, agent, and their place is that in the stream."""
    queue = FairQueue[str]()
    for place, item in enumerate(items):
        put(queue, item, place=place)
    return queue


def put(queue: FairQueue[str], item: str, *, place: int) -> None:
    queue.put(Asker(item[0], item[2]), item, place=place)


def anything(_: str) -> bool:
    return True


def all_of(queue: FairQueue[str]) -> list[str]:
    taken: list[str] = []
    while (item := queue.take(anything)) is not None:
        taken.append(item)
    return taken


def test_takes_one_of_each_tenant_in_turn() -> None:
    assert all_of(queue("a.x1", "a.x2", "a.x3", "b.x1", "c.x1", "c.x2")) == [
        "a.x1",
        "b.x1",
        "c.x1",
        "a.x2",
        "c.x2",
        "a.x3",
    ]


def test_takes_one_of_each_agent_of_a_tenant_in_turn() -> None:
    assert all_of(queue("a.x1", "a.x2", "a.y1", "b.z1", "b.z2")) == ["a.x1", "b.z1", "a.y1", "b.z2", "a.x2"]


def test_many_agents_have_no_more_turns_than_their_tenant() -> None:
    assert all_of(queue("a.x1", "a.y1", "a.z1", "b.x1", "b.x2"))[:4] == ["a.x1", "b.x1", "a.y1", "b.x2"]


def test_what_comes_again_late_has_the_place_that_it_had_in_the_stream() -> None:
    late = queue("a.x1")
    put(late, "a.x9", place=9)
    put(late, "a.x5", place=5)

    assert all_of(late) == ["a.x1", "a.x5", "a.x9"]


def test_who_may_not_start_loses_no_turn_and_holds_up_nobody() -> None:
    waiting = queue("a.x1", "a.y1", "b.x1")

    assert waiting.take(lambda item: item == "b.x1") == "b.x1"
    assert waiting.take(lambda item: item.startswith("a.y")) == "a.y1"
    assert waiting.take(lambda _: False) is None
    assert all_of(waiting) == ["a.x1"]


def test_a_newcomer_waits_for_one_round_only() -> None:
    waiting = queue(*["a.x"] * 100)
    waiting.take(anything)
    put(waiting, "b.q", place=100)

    assert "b.q" in [waiting.take(anything), waiting.take(anything)]


def test_room_is_made_by_the_last_item_of_who_has_the_most() -> None:
    waiting = queue("a.x1", "a.x2", "a.y1", "b.x1", "b.x2")

    assert [waiting.take_from_longest() for _ in range(3)] == ["a.x2", "b.x2", "a.y1"]
    assert len(waiting) == 2


def test_among_equals_the_newcomer_makes_room() -> None:
    assert queue("a.x1", "b.x1", "c.x1").take_from_longest() == "c.x1"


def test_draining_empties_it() -> None:
    waiting = queue("a.x1", "b.x1")

    assert sorted(waiting.drain()) == ["a.x1", "b.x1"]
    assert len(waiting) == 0
    assert waiting.take(anything) is None
