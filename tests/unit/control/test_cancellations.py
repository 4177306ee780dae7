"""What a worker knows of cancels: of each tenant, for an hour, within bounds, and from the stream where memory ends."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator
from datetime import datetime

import pytest

from contracts.streams import CANCELS_KEPT_PER_TENANT
from runtime.tasks import end
from tests.driven_clock import DrivenClock
from tests.patience import until
from workers.control import cancellations
from workers.control.cancellations import Cancellations
from workers.interruption import Interruption, Reason


class Stream:
    """`LLM_CANCELS` in memory, and a worker that hears it."""

    def __init__(self) -> None:
        self.clock = DrivenClock()
        self.stored: dict[str, list[tuple[str, datetime]]] = defaultdict(list)
        self.reads: list[str] = []
        self.unanswered = False
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.cancellations = Cancellations(self.clock, read_stored=self._read)

    def cancel(self, tenant: str, *request_ids: str, heard: bool = True) -> None:
        for request_id in request_ids:
            kept = self.stored[tenant]
            kept.append((request_id, self.clock.now()))
            del kept[:-CANCELS_KEPT_PER_TENANT]
            if heard:
                self.cancellations.cancel(tenant, request_id)

    async def is_cancelled(self, tenant: str, request_id: str) -> bool:
        """Whether a request that comes now is stopped."""
        interruption = Interruption()
        async with self.cancellations.watch(tenant, request_id, interruption):
            return interruption.reason is Reason.CANCELLED

    async def _read(self, tenant: str) -> AsyncGenerator[tuple[str, datetime]]:
        self.reads.append(tenant)
        found = list(self.stored[tenant])
        await self.may_answer.wait()
        if self.unanswered:
            raise TimeoutError
        for stored in found:
            yield stored


@pytest.fixture
async def stream() -> Stream:
    stream = Stream()
    await stream.cancellations.hear()
    return stream


def many(count: int, name: str = "flood") -> list[str]:
    return [f"{name}-{number}" for number in range(count)]


async def test_a_cancel_reaches_what_runs(stream: Stream) -> None:
    interruption = Interruption()
    async with stream.cancellations.watch("acme", "r1", interruption):
        stream.cancel("globex", "r1")
        stream.cancel("acme", "r2")
        assert interruption.reason is None
        stream.cancel("acme", "r1")
        assert interruption.reason is Reason.CANCELLED


async def test_a_cancel_from_before_reaches_what_comes(stream: Stream) -> None:
    stream.cancel("acme", "r1", heard=False)

    assert await stream.is_cancelled("acme", "r1")
    assert not await stream.is_cancelled("acme", "r2")
    assert not await stream.is_cancelled("globex", "r1")


async def test_the_stream_is_read_once_for_each_tenant(stream: Stream) -> None:
    await asyncio.gather(*(stream.is_cancelled("acme", f"r{number}") for number in range(20)))
    stream.cancel("acme", "r1")

    assert await stream.is_cancelled("acme", "r1")
    assert stream.reads == ["acme"]


@pytest.mark.parametrize("known", [True, False])
async def test_a_cancel_holds_for_an_hour_and_no_longer(stream: Stream, known: bool) -> None:
    if known:
        await stream.is_cancelled("acme", "another")
    stream.cancel("acme", "r1", heard=known)

    stream.clock.pass_by(minutes=59)
    assert await stream.is_cancelled("acme", "r1")
    stream.clock.pass_by(minutes=2)
    assert not await stream.is_cancelled("acme", "r1")


async def test_a_flood_of_one_tenant_costs_only_its_own_cancels(stream: Stream) -> None:
    for tenant in ("mallory", "acme"):
        await stream.is_cancelled(tenant, "another")
        stream.cancel(tenant, "wanted")
    stream.cancel("mallory", *many(150_000))

    assert await stream.is_cancelled("acme", "wanted")
    assert not await stream.is_cancelled("mallory", "wanted")
    assert await stream.is_cancelled("mallory", "flood-149999")
    assert stream.reads == ["mallory", "acme"]


async def test_floods_of_many_tenants_are_bounded_together(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancellations, "_MOST_IDS", 1000)
    await stream.is_cancelled("acme", "another")
    stream.cancel("acme", "wanted")
    for number in range(20):
        await stream.is_cancelled(f"mallory-{number}", "another")
        stream.cancel(f"mallory-{number}", "wanted", *many(300))

    assert stream.cancellations.held <= 1000
    assert await stream.is_cancelled("acme", "wanted")
    assert stream.reads.count("acme") == 1
    assert await stream.is_cancelled("mallory-0", "wanted"), "forgotten, and read again"
    assert stream.reads.count("mallory-0") == 2


async def test_of_tenants_without_requests_nothing_is_kept(stream: Stream) -> None:
    stream.cancel("mallory", *many(1000))

    assert stream.cancellations.held == 0


async def test_what_was_heard_while_it_was_read_is_known(stream: Stream) -> None:
    stream.may_answer.clear()
    reading = asyncio.create_task(stream.is_cancelled("acme", "r1"))
    await until(lambda: stream.reads == ["acme"])
    stream.cancel("acme", "r2")
    stream.stored["acme"].clear()
    stream.may_answer.set()
    assert not await reading

    assert await stream.is_cancelled("acme", "r2")


async def test_what_was_missed_reaches_what_runs_when_cancels_are_heard_again(stream: Stream) -> None:
    interruption = Interruption()
    async with stream.cancellations.watch("acme", "r1", interruption):
        stream.cancellations.hear_no_more()
        stream.cancel("acme", "r1", heard=False)
        await stream.cancellations.hear()

        assert interruption.reason is Reason.CANCELLED


async def test_what_was_missed_by_a_reading_that_had_begun_reaches_what_runs(stream: Stream) -> None:
    stream.cancellations.hear_no_more()
    stream.may_answer.clear()
    interruption = Interruption()

    async def run() -> None:
        async with stream.cancellations.watch("acme", "r1", interruption):
            await asyncio.Event().wait()

    running = asyncio.create_task(run())
    await until(lambda: stream.reads == ["acme"])
    stream.cancel("acme", "r1", heard=False)
    hearing = asyncio.create_task(stream.cancellations.hear())
    await until(lambda: stream.reads == ["acme", "acme"] or hearing.done())
    stream.may_answer.set()
    await hearing

    assert interruption.reason is Reason.CANCELLED
    await end(running)


async def test_closing_ends_whatever_is_read(stream: Stream) -> None:
    stream.may_answer.clear()
    waiting = [asyncio.create_task(stream.is_cancelled("acme", "r1"))]
    await until(lambda: len(stream.reads) == 1)
    hearing = asyncio.create_task(stream.cancellations.hear())
    await until(lambda: len(stream.reads) == 2)

    await stream.cancellations.close()

    await asyncio.wait([*waiting, hearing])
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("read cancels")]


async def test_while_nothing_is_heard_each_request_reads_the_stream(stream: Stream) -> None:
    await stream.is_cancelled("acme", "another")
    stream.cancellations.hear_no_more()
    stream.cancel("acme", "r1", heard=False)

    assert await stream.is_cancelled("acme", "r1")
    stream.cancel("acme", "r2", heard=False)
    assert await stream.is_cancelled("acme", "r2")


async def test_a_stream_that_does_not_answer_keeps_no_request_from_running(stream: Stream) -> None:
    stream.unanswered = True
    stream.cancel("acme", "r1", heard=False)
    assert not await stream.is_cancelled("acme", "r1")

    stream.unanswered = False
    assert await stream.is_cancelled("acme", "r1"), "what could not be read is read again"


async def test_a_request_that_gives_up_waiting_leaves_the_reading_to_others(stream: Stream) -> None:
    stream.may_answer.clear()
    stream.cancel("acme", "r2", heard=False)
    first, second = (asyncio.create_task(stream.is_cancelled("acme", name)) for name in ("r1", "r2"))
    await until(lambda: stream.reads == ["acme"])
    first.cancel()
    await asyncio.wait({first})
    stream.may_answer.set()

    assert await second


async def test_a_drain_reaches_all_that_runs(stream: Stream) -> None:
    interruption = Interruption()
    async with stream.cancellations.watch("acme", "r1", interruption):
        stream.cancellations.interrupt_all()

    assert interruption.reason is Reason.DRAINING
