"""How many requests are made ready at once, and when one leaves its place to the next."""

import asyncio

from workers.intake import preparation
from workers.intake.asker import Asker
from workers.intake.preparation import Overdue, Preparation


def test_one_tenant_leaves_places_to_others() -> None:
    shares, greedy = preparation.shares(), 0
    while shares.may_take(Asker("greedy", f"a{greedy}")):
        shares.take(Asker("greedy", f"a{greedy}"))
        greedy += 1

    assert greedy == 12
    for _ in range(2):
        assert shares.may_take(Asker("quiet", "a"))
        shares.take(Asker("quiet", "a"))


async def test_ends_once() -> None:
    ended: list[str] = []
    ready = Preparation()

    ready.end()  # nothing has begun
    ready.begin(lambda: ended.append("ended"))
    assert not ended
    ready.end()
    ready.end()
    assert ended == ["ended"]


async def test_who_waits_for_something_leaves_the_place_to_others() -> None:
    ended = [asyncio.Event() for _ in range(3)]
    overdue = Overdue()
    for each in ended[:2]:
        begun = Preparation()
        begun.begin(each.set)
        overdue.end_in_time(begun)

    await ended[0].wait()
    await ended[1].wait()

    later = Preparation()  # after the timer of those before it
    later.begin(ended[2].set)
    overdue.end_in_time(later)
    await ended[2].wait()
