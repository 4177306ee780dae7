"""Slots of an endpoint, over workers that share a bucket."""

import asyncio
from typing import Any

import pytest

from tests.bucket import Bucket
from tests.driven_clock import DrivenClock
from workers.endpoints.concurrency import ConcurrencyLimit, ConcurrencySlot
from workers.endpoints.names import EndpointId

ENDPOINT = EndpointId("acme", "openai", "default")
FIRST = "slot.acme.openai.default.0"


class Worker:
    def __init__(self, bucket: Bucket, clock: DrivenClock, name: str) -> None:
        self.bucket = bucket
        self.name = name
        self.limit = ConcurrencyLimit(bucket.broker, worker=name, clock=clock)

    async def take(self, *, most: int = 1, at_most_s: float = 0) -> ConcurrencySlot | None:
        return await self.limit.take(ENDPOINT, most, at_most_s=at_most_s)

    async def must_take(self, *, most: int = 1) -> ConcurrencySlot:
        slot = await self.take(most=most)
        assert slot is not None
        return slot

    def hear(self) -> None:
        """The watch tells what lies in the bucket."""
        for subject, (sequence, value) in self.bucket.last.items():
            key = subject.removeprefix("$KV.llm_health.")
            self.limit.bucket._take(key, value or None, sequence)  # pyright: ignore[reportPrivateUsage]


@pytest.fixture
def clock() -> DrivenClock:
    return DrivenClock()


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture
def one(bucket: Bucket, clock: DrivenClock) -> Worker:
    return Worker(bucket, clock, "one")


@pytest.fixture
def other(bucket: Bucket, clock: DrivenClock) -> Worker:
    return Worker(bucket, clock, "other")


async def turns() -> None:
    """Lets everything that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def in_line(worker: Worker) -> asyncio.Task[Any]:
    """A request that waits for the slot."""
    waiting = asyncio.create_task(worker.take(at_most_s=60))
    await turns()
    assert not waiting.done()
    return waiting


async def test_all_workers_together_have_no_more_than_the_bound(one: Worker, other: Worker) -> None:
    taken = [await worker.take(most=3) for worker in (one, other, one, other, one, other)]

    assert [slot is not None for slot in taken].count(True) == 3
    assert len({slot.key for slot in taken if slot}) == 3


async def test_a_slot_that_is_given_back_is_left_to_the_next_in_line_here(one: Worker, clock: DrivenClock) -> None:
    slot = await one.must_take()
    first, second = await in_line(one), await in_line(one)

    await one.limit.release(slot)

    assert await first is slot
    assert not second.done()
    second.cancel()


async def test_a_slot_that_was_kept_here_for_long_goes_to_all_workers(
    one: Worker, other: Worker, clock: DrivenClock, bucket: Bucket
) -> None:
    slot = await one.must_take()
    assert await other.take() is None
    other.hear()
    waiting = await in_line(other)
    clock.pass_by(10)

    await one.limit.release(slot)
    assert bucket.value(FIRST) == b""
    other.hear()

    assert await waiting is not None


async def test_a_slot_whose_worker_died_is_free_again(one: Worker, other: Worker, bucket: Bucket) -> None:
    await one.must_take()
    other.hear()
    assert await other.take() is None

    bucket.expire(FIRST)
    other.hear()

    assert await other.take() is not None


async def test_a_slot_that_was_lost_while_its_worker_was_stopped_is_not_given_back(
    one: Worker, other: Worker, bucket: Bucket
) -> None:
    slot = await one.must_take()
    bucket.expire(FIRST)
    other.hear()
    await other.must_take()
    one.hear()

    await one.limit.release(slot)

    assert bucket.value(FIRST) == b"other"


async def test_who_lost_a_claim_to_what_is_free_by_now_tries_again(one: Worker, other: Worker, bucket: Bucket) -> None:
    """The watch was faster than the answer."""
    slot = await one.must_take()
    await one.limit.release(slot)  # without a heir it goes to all
    answer = bucket.request

    async def late(*args: Any, **options: Any) -> Any:
        answered = await answer(*args, **options)
        other.hear()
        return answered

    bucket.request = late
    assert await other.take() is None
    bucket.request = answer

    assert await other.take() is not None


async def test_without_an_answer_there_is_no_slot_and_it_is_tried_again(one: Worker, bucket: Bucket) -> None:
    bucket.is_silent = True
    assert await one.take() is None

    bucket.is_silent = False
    assert await one.take() is not None


async def test_slots_are_said_again_to_a_new_server(one: Worker, other: Worker, bucket: Bucket) -> None:
    await one.must_take()
    bucket.last.clear()
    bucket.sequence = 0

    for callback in bucket.on_reconnect:
        await callback()

    assert bucket.value(FIRST) == b"one"
    assert await other.take() is None


async def test_who_stops_waiting_leaves_the_slot_that_it_was_just_left(one: Worker) -> None:
    slot = await one.must_take()
    first, second = await in_line(one), await in_line(one)

    await one.limit.release(slot)
    first.cancel()

    assert await second is slot
