"""How what is kept free grows ahead of an answer, and when the answer is broken off."""

import asyncio
from datetime import UTC, datetime

import pytest

from contracts.budget import Hold
from contracts.errors import BudgetExceeded
from runtime.jetstream.publishing import NotStored
from workers.quotas.growth import Growth, Rate

RATE = Rate(base=50, per_token=10, most_tokens=1000)


class Purse:
    """What is left of a budget, in units."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.failures = 0
        self.steps: list[int] = []
        self.returned: list[Hold] = []
        self.opens = asyncio.Event()
        self.opens.set()

    async def keep_free(self, amount: int, least: int) -> Hold | None:
        await self.opens.wait()
        if self.failures:
            self.failures -= 1
            raise NotStored("budget")
        kept = min(amount, self.left)
        if kept < least:
            return None
        self.left -= kept
        self.steps.append(kept)
        return Hold(
            tenant="t", window="d", worker="w", slot=0, number=1, units=kept, at=datetime(2026, 11, 23, tzinfo=UTC)
        )

    async def give_back(self, hold: Hold) -> None:
        self.returned.append(hold)

    def growth(self, *, density: float = 1.0) -> Growth:
        """Of a call for whose answer a hundred tokens are kept free."""
        return Growth(
            RATE,
            kept=50 + 100 * 10,
            first_tokens=20,
            tokens_per_estimated=density,
            keep_free=self.keep_free,
            give_back=self.give_back,
            refusal=lambda: BudgetExceeded("used up"),
        )


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_it_grows_before_the_answer_gets_there() -> None:
    purse = Purse(10_000)
    growth = purse.growth()
    assert (growth.mark_pieces, growth.mark_characters) == (88, 352)

    assert growth.reach(88, 0) is None
    await turns()

    assert purse.steps == [250]
    assert growth.mark_pieces == 125 - 15


async def test_characters_count_where_the_vendor_sends_many_tokens_at_once() -> None:
    purse = Purse(10_000)

    assert purse.growth().reach(1, 352) is None
    await turns()

    assert purse.steps


async def test_dense_answers_grow_earlier() -> None:
    assert Purse(0).growth(density=2.0).mark_pieces == 44


async def test_an_answer_that_is_faster_waits_for_its_step() -> None:
    purse = Purse(10_000)
    purse.opens.clear()
    growth = purse.growth()
    until_covered = growth.reach(100, 0)
    assert until_covered is not None
    waiting = asyncio.ensure_future(until_covered)
    await turns()
    assert not waiting.done()

    purse.opens.set()

    await waiting


async def test_as_many_steps_are_made_as_one_read_needs() -> None:
    purse = Purse(100_000)
    until_covered = purse.growth().reach(400, 0)

    assert until_covered is not None
    await until_covered

    assert 100 * 10 + sum(purse.steps) > 400 * 10


async def test_an_answer_is_broken_off_where_nothing_is_left() -> None:
    purse = Purse(55)
    growth = purse.growth()
    assert growth.reach(88, 0) is None
    await turns()
    assert purse.steps == [55]
    assert growth.mark_pieces == 105, "all five tokens that were left are used"

    until_covered = growth.reach(105, 0)

    assert until_covered is not None
    with pytest.raises(BudgetExceeded):
        await until_covered


async def test_what_was_given_back_meanwhile_is_used() -> None:
    purse = Purse(0)
    growth = purse.growth()
    assert growth.reach(88, 0) is None
    await turns()
    purse.left = 10_000

    until_covered = growth.reach(100, 0)

    assert until_covered is not None
    await until_covered


async def test_a_count_that_is_not_confirmed_is_tried_again() -> None:
    purse = Purse(10_000)
    purse.failures = 2
    until_covered = purse.growth().reach(100, 0)
    assert until_covered is not None
    await until_covered

    purse.failures = 3
    until_covered = purse.growth().reach(100, 0)
    assert until_covered is not None
    with pytest.raises(NotStored):
        await until_covered


async def test_a_step_that_comes_after_the_end_is_given_back() -> None:
    purse = Purse(10_000)
    purse.opens.clear()
    growth = purse.growth()
    growth.reach(88, 0)
    await turns()

    assert growth.end() == []
    purse.opens.set()
    await turns()

    assert [hold.units for hold in purse.returned] == purse.steps


async def test_the_longest_answer_needs_no_more() -> None:
    purse = Purse(100_000)
    growth = purse.growth()
    until_covered = growth.reach(999, 0)
    assert until_covered is not None
    await until_covered
    steps = len(purse.steps)

    assert growth.reach(1000, 4000) is None
    assert growth.reach(5000, 20_000) is None

    assert (len(purse.steps), sum(purse.steps)) == (steps, 900 * 10)
