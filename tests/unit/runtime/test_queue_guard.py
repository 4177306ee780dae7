"""How much a tenant has of the queue, and how much it may have."""

import random

import pytest

from runtime.jetstream.direct_get import Sample
from runtime.jetstream.queue_guard import SHARE, estimate, share_of

CAPACITY = 8 * 1024**3


def some_of(sizes: list[int], *, places: int = 8, at_each: int = 4) -> list[Sample]:
    """As the guard reads them: the first ones, and some in a row from other places on."""
    rng = random.Random(7)
    starts = [0, *(rng.randrange(len(sizes)) for _ in range(places - 1))]
    read = sorted({at for start in starts for at in range(start, min(start + at_each, len(sizes)))})
    return [Sample(at, sizes[at], len(sizes) - 1 - at) for at in read]


def test_of_no_messages_there_are_no_bytes() -> None:
    assert estimate([]) == 0


@pytest.mark.parametrize("count", [1, 3, 1000])
def test_messages_of_one_size_are_estimated_exactly(count: int) -> None:
    assert estimate(some_of([7_000_000] * count)) == count * 7_000_000


@pytest.mark.parametrize(
    "sizes",
    [
        [100, 7_000_000] * 500,
        [100] * 4 + [7_000_000] * 1000 + [100] * 4,
        [7_000_000] * 300 + [100] * 300,
        [100, 100, 100, 7_000_000] * 200,
    ],
)
def test_messages_of_several_sizes_are_estimated_well_enough(sizes: list[int]) -> None:
    assert 0.5 * sum(sizes) < estimate(some_of(sizes)) < 2 * sum(sizes)


def test_one_tenant_may_have_an_eighth_of_what_is_free_then() -> None:
    share = share_of(CAPACITY, [CAPACITY], others=0)

    assert share == pytest.approx(SHARE * (CAPACITY - share))
    assert share == pytest.approx(CAPACITY / 9)


@pytest.mark.parametrize("greedy", [2, 8, 100])
def test_the_more_tenants_want_all_the_less_each_has_and_something_stays_free(greedy: int) -> None:
    share = share_of(CAPACITY, [CAPACITY] * greedy, others=0)

    assert share == pytest.approx(CAPACITY * SHARE / (1 + greedy * SHARE))
    assert CAPACITY - greedy * share > share


def test_who_has_little_takes_nothing_from_the_share_of_others_but_its_own_bytes() -> None:
    alone, beside = share_of(CAPACITY, [CAPACITY], others=0), share_of(CAPACITY, [CAPACITY, 9000], others=0)

    assert beside == pytest.approx(alone, rel=1e-3)


def test_a_full_queue_leaves_a_share_to_each() -> None:
    assert share_of(CAPACITY, [CAPACITY - 1000, 1000], others=0) > 1000
    assert share_of(CAPACITY, [CAPACITY // 2], others=CAPACITY // 2) > 0
