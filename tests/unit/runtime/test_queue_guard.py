"""How much a tenant has of the queue, and how much it may have."""

import json
import random
from bisect import bisect_left
from collections.abc import Callable
from typing import Any, cast

import pytest

from contracts import subjects
from contracts.subjects import Priority
from runtime.broker import Broker
from runtime.jetstream import queue_guard
from runtime.jetstream.direct_get import Sample
from runtime.jetstream.queue_guard import SHARE, QueueGuard, estimate, share_of

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


class Queue:
    """`LLM_REQUESTS` in memory: of each tenant the sizes of its messages, all over the stream."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **tenants: list[int]) -> None:
        self.sizes = {
            subjects.request("mock", Priority.INTERACTIVE, tenant): sizes for tenant, sizes in tenants.items()
        }
        self.told: Callable[[int], int] = lambda size: size
        self.read_bytes = 0
        self.purged: list[tuple[str, int]] = []
        monkeypatch.setattr(queue_guard, "samples", self._samples)

    async def guard(self, *, seed: int = 7) -> list[tuple[str, int]]:
        """What a look purges: by tenant, how many messages stay."""
        self.purged.clear()
        await QueueGuard(cast(Broker, self), rng=random.Random(seed)).look()
        return self.purged

    async def request(self, subject: str, payload: bytes) -> bytes:
        asked = json.loads(payload or b"{}")
        if "PURGE" in subject:
            self.purged.append((asked["filter"].rpartition(".")[2], asked["keep"]))
            return b'{"purged": 1}'
        counts = {subject: len(sizes) for subject, sizes in self.sizes.items()}
        state = {"bytes": sum(map(sum, self.sizes.values())), "first_seq": 1, "last_seq": 1_000_000, "subjects": counts}
        return json.dumps({"config": {"max_bytes": CAPACITY}, "state": state, "total": len(counts)}).encode()

    async def _samples(self, broker: Broker, *, subject: str, first_seq: int, count: int, **_: Any) -> list[Sample]:
        sizes = self.sizes[subject]
        every = 1_000_000 // len(sizes)
        begin = bisect_left(range(1, 1_000_001, every), first_seq)
        read = range(begin, min(begin + count, len(sizes)))
        self.read_bytes += sum(sizes[at] for at in read)
        return [Sample(1 + at * every, self.told(sizes[at]), len(sizes) - 1 - at) for at in read]


def quiet(count: int) -> dict[str, list[int]]:
    """Tenants that have too few messages to be asked about, 120 MB each."""
    return {f"quiet-{number}": [7_500_000] * 16 for number in range(count)}


def mixed(count: int, part: float, size: int) -> list[int]:
    large = round(count * part)
    sizes = [size] * large + [1000] * (count - large)
    random.Random(count).shuffle(sizes)
    return sizes


@pytest.mark.parametrize(
    "sizes",
    [
        mixed(9000, 0.002, 6_000_000),
        mixed(5000, 0.005, 7_000_000),
        mixed(9000, 0.02, 1_500_000),
        mixed(2000, 0.01, 7_000_000),
    ],
    ids=["9,000 with 0.2 % of 6 MB", "5,000 with 0.5 % of 7 MB", "9,000 with 2 % of 1.5 MB", "2,000 with 1 % of 7 MB"],
)
async def test_nobody_loses_anything_by_the_luck_of_what_is_read(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int]
) -> None:
    queue = Queue(monkeypatch, honest=sizes, **quiet(19))

    for seed in range(1000):
        assert not await queue.guard(seed=seed)


async def test_what_cannot_be_seen_lowers_nobodys_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a tenant whose messages look small the others are not to bear the bytes."""
    queue = Queue(monkeypatch, loud=[8_000_000] * 900, honest=[1_000_000] * 400)
    queue.told = lambda size: 40_000 if size == 8_000_000 else size

    assert "honest" not in dict(await queue.guard())


async def test_who_has_most_messages_is_purged_before_others_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue(monkeypatch, some=[100_000] * 100, loud=[1_000_000] * 4000)
    read_by_then: list[int] = []
    monkeypatch.setattr(queue_guard, "_PURGE", "PURGE")
    answer = queue.request

    async def request(subject: str, payload: bytes) -> bytes:
        if subject == "PURGE":
            read_by_then.append(queue.read_bytes % 1_000_000)
        return await answer(subject, payload)

    monkeypatch.setattr(queue, "request", request)
    ((tenant, kept),) = await queue.guard()

    assert (tenant, read_by_then) == ("loud", [0])
    assert kept == pytest.approx(CAPACITY / 9 / 1_000_000, rel=0.01)


async def test_of_the_largest_messages_a_bounded_part_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue(monkeypatch, loud=[2_000_000] * 3000)

    assert await queue.guard()
    assert queue.read_bytes < 2 * 400 * 1024**2
