"""The order of a request's events for who reads them, and what becomes of a request that is left; without NATS."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress

import pytest

from contracts.errors import DeadlineExceeded, FleetError, InvalidRequest, ProviderUnavailable, QueueFull
from contracts.events import Cancelled, Delta, Event
from contracts.usage import Usage
from fleet.event_stream import BEGINNING, Patience, Position, Source, Stream
from tests.patience import until

AT_ONCE = Patience(gap_s=0, silence_s=0, lost_s=10, unknown_s=30, last_word_s=0, cancel_s=0)


def delta(attempt: int, seq: int) -> Event:
    return Delta(request_id="r1", attempt=attempt, seq=seq, text="x")


def end(attempt: int, seq: int) -> Event:
    return Cancelled(request_id="r1", attempt=attempt, seq=seq, usage=Usage(), cost=None)


class Fleet:
    """What a stream asks of the fleet, answered by a script; `now` is its clock."""

    def __init__(self, *, refuses: FleetError | None = None, deadline: float = 600.0) -> None:
        self.now = 0.0
        self.published = 0
        self.cancelled = 0
        self.forgotten = 0
        self.asked: list[Position] = []
        self.kept: list[Event] | FleetError = []
        self.answers_cancels = True
        self.looked = 0
        """How often the clock was looked at."""
        self.passes_s = 0.0
        """How far time moves whenever the fleet is asked for what is stored."""
        self._refuses = refuses
        self._deadline = deadline

    def stream(self, *events: Event, patience: Patience = AT_ONCE, resumed: bool = False) -> Stream:
        source = Source(stored=self._stored, cancel=self._cancel, forget=self._forget)
        publish = None if resumed else self._publish
        stream = Stream("r1", source, publish=publish, patience=patience, clock=self._clock)
        for event in events:
            stream.feed(event)
        return stream

    def _clock(self) -> float:
        self.looked += 1
        return self.now

    async def _publish(self) -> float:
        self.published += 1
        await asyncio.sleep(0)
        if self._refuses:
            raise self._refuses
        return self._deadline

    async def _stored(self, after: Position) -> AsyncGenerator[Event]:
        self.asked.append(after)
        self.now += self.passes_s
        await asyncio.sleep(0)
        if isinstance(self.kept, FleetError):
            raise self.kept
        for event in self.kept:
            yield event

    async def _cancel(self) -> None:
        self.cancelled += 1
        if not self.answers_cancels:
            await asyncio.Event().wait()

    def _forget(self, _: Stream) -> None:
        self.forgotten += 1


async def read(stream: Stream) -> list[Position]:
    return [(event.attempt, event.seq) async for event in stream]


@pytest.mark.parametrize(
    ("arrive", "are_read"),
    [
        ([(1, 0), (1, 1), (1, 2)], [(1, 0), (1, 1), (1, 2)]),
        ([(1, 1), (1, 0), (1, 2)], [(1, 0), (1, 1), (1, 2)]),
        ([(1, 2), (1, 1), (1, 0)], [(1, 0), (1, 1), (1, 2)]),
        ([(1, 0), (1, 0), (1, 1), (1, 0), (1, 2)], [(1, 0), (1, 1), (1, 2)]),
        ([(1, 0), (3, 0), (3, 1)], [(1, 0), (3, 0), (3, 1)]),
        ([(1, 0), (1, 1), (2, 0), (1, 2)], [(1, 0), (1, 1), (2, 0)]),
    ],
    ids=["in order", "swapped", "backwards", "twice", "an attempt is skipped", "late from a void attempt"],
)
async def test_reads_each_event_once_and_in_order(arrive: Sequence[Position], are_read: Sequence[Position]) -> None:
    *before, last = are_read
    fleet = Fleet()
    kinds = [end(*at) if at == last else delta(*at) for at in arrive]

    assert await read(fleet.stream(*kinds)) == [*before, last]
    assert fleet.asked == []


async def test_takes_a_missing_event_from_what_is_stored() -> None:
    fleet = Fleet()
    fleet.kept = [delta(1, 1), delta(1, 2)]

    assert await read(fleet.stream(delta(1, 0), delta(1, 2), end(1, 3))) == [(1, 0), (1, 1), (1, 2), (1, 3)]
    assert fleet.asked == [(1, 0)]


async def test_asks_after_a_silence_for_what_is_stored() -> None:
    fleet = Fleet()
    fleet.kept = [delta(1, 0), end(1, 1)]

    assert await read(fleet.stream()) == [(1, 0), (1, 1)]
    assert fleet.asked == [BEGINNING]


async def test_what_was_said_but_not_stored_yet_is_asked_for_soon() -> None:
    """A request may have ended before it is resumed, and its last event may be stored a moment later."""
    fleet = Fleet()
    stream = fleet.stream(delta(1, 0), patience=Patience(silence_s=3600, stored_again_s=0), resumed=True)
    stream.was_fed_with_stored()
    fleet.kept = [end(1, 1)]

    assert await read(stream) == [(1, 0), (1, 1)]
    assert fleet.asked == [(1, 0)]


async def test_who_waits_already_asks_soon_as_well() -> None:
    """As after a reconnect, in the middle of a silence."""
    fleet = Fleet()
    stream = fleet.stream(delta(1, 0), patience=Patience(silence_s=3600, stored_again_s=0), resumed=True)
    assert await anext(stream) == delta(1, 0)
    reading = asyncio.create_task(read(stream))
    await asyncio.sleep(0)
    fleet.kept = [end(1, 1)]
    stream.was_fed_with_stored()

    assert await reading == [(1, 1)]


async def test_nobody_asks_before_the_silence_has_lasted() -> None:
    """The timer is looked at again and again; what counts is the clock."""
    fleet = Fleet()
    fleet.kept = [end(1, 1)]
    stream = fleet.stream(delta(1, 0), patience=Patience(silence_s=0.001))
    reading = asyncio.create_task(read(stream))
    await until(lambda: fleet.looked > 5)
    assert fleet.asked == []
    fleet.now = 1

    assert await reading == [(1, 0), (1, 1)]
    assert fleet.asked == [(1, 0)]


async def test_a_gap_is_asked_for_sooner_than_a_silence() -> None:
    fleet = Fleet()
    fleet.kept = [delta(1, 0)]
    stream = fleet.stream(patience=Patience(silence_s=3600, gap_s=0))
    reading = asyncio.create_task(read(stream))
    await until(lambda: fleet.looked > 0)
    stream.feed(end(1, 1))

    assert await reading == [(1, 0), (1, 1)]


async def test_two_readers_share_the_events() -> None:
    fleet = Fleet()
    stream = fleet.stream(patience=Patience())
    reading = [asyncio.create_task(read(stream)) for _ in range(2)]
    await until(lambda: fleet.looked > 1)
    for event in (delta(1, 0), delta(1, 1), end(1, 2)):
        stream.feed(event)

    first, second = await asyncio.gather(*reading)
    assert sorted(first + second) == [(1, 0), (1, 1), (1, 2)]


async def test_who_waits_for_a_stream_that_is_closed_waits_no_longer() -> None:
    fleet = Fleet()
    stream = fleet.stream(patience=Patience())
    reading = asyncio.create_task(read(stream))
    await until(lambda: fleet.looked > 0)
    await stream.aclose()

    assert await reading == []
    assert fleet.cancelled == 0


@pytest.mark.parametrize(
    ("answer", "asks"),
    [
        ([], 3),
        (InvalidRequest("nothing is stored"), 3),
        (ProviderUnavailable("no worker"), 7),
    ],
    ids=["it lacks it", "nothing is stored", "nobody answers"],
)
async def test_gives_up_an_event_that_stays_missing(answer: list[Event] | FleetError, asks: int) -> None:
    """After `lost_s`, or `unknown_s` where nobody can say that it is lost; five seconds pass with each question."""
    fleet = Fleet()
    fleet.kept, fleet.passes_s = answer, 5

    assert await read(fleet.stream(delta(1, 0), end(1, 2))) == [(1, 0), (1, 2)]
    assert len(fleet.asked) == asks


async def test_a_new_gap_has_its_own_time() -> None:
    fleet = Fleet()
    fleet.passes_s = 5
    stream = fleet.stream(delta(1, 0), delta(1, 2), end(1, 4))

    assert await read(stream) == [(1, 0), (1, 2), (1, 4)]
    assert [after for after in fleet.asked if after == (1, 2)] == [(1, 2)] * 3


async def test_ends_by_itself_after_the_deadline() -> None:
    fleet = Fleet(deadline=10)
    fleet.passes_s = 4
    stream = fleet.stream(delta(1, 0))

    assert await anext(stream) == delta(1, 0)
    with pytest.raises(DeadlineExceeded, match="r1"):
        await anext(stream)
    assert len(fleet.asked) == 3
    assert fleet.cancelled == 0
    assert await read(stream) == []


async def test_the_block_publishes_when_it_begins() -> None:
    fleet = Fleet()
    async with fleet.stream() as events:
        assert fleet.published == 1
        events.feed(end(1, 0))
        assert await read(events) == [(1, 0)]

    assert (fleet.published, fleet.cancelled, fleet.forgotten) == (1, 0, 1)


async def test_iteration_publishes_where_there_is_no_block() -> None:
    fleet = Fleet()
    stream = fleet.stream(end(1, 0))
    assert fleet.published == 0

    await read(stream)

    assert fleet.published == 1


@pytest.mark.parametrize("how", ["break", "exception"])
async def test_leaving_the_block_early_cancels_the_request(how: str) -> None:
    fleet = Fleet()
    with suppress(LookupError):
        async with fleet.stream(delta(1, 0)) as events:
            async for _ in events:
                if how == "exception":
                    raise LookupError
                break

    assert (fleet.cancelled, fleet.forgotten) == (1, 1)


async def test_a_closed_stream_leaves_the_request_running() -> None:
    fleet = Fleet()
    async with fleet.stream(delta(1, 0)) as events:
        await anext(events)
        await events.aclose()

    assert fleet.cancelled == 0
    assert await read(events) == []


async def test_breaking_out_of_a_bare_loop_leaves_the_request_running() -> None:
    fleet = Fleet()
    async for _ in fleet.stream(delta(1, 0)):
        break

    assert fleet.cancelled == 0


@pytest.mark.parametrize("in_a_block", [True, False])
async def test_a_cancelled_task_cancels_its_request(*, in_a_block: bool) -> None:
    fleet = Fleet()
    stream = fleet.stream(patience=Patience())

    async def reading() -> None:
        if in_a_block:
            async with stream:
                await read(stream)
        else:
            await read(stream)

    task = asyncio.create_task(reading())
    await until(lambda: fleet.published == 1)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert (fleet.cancelled, fleet.forgotten) == (1, 1)


async def test_a_task_that_is_cancelled_while_it_publishes_cancels_its_request() -> None:
    """JetStream may have it already."""
    fleet = Fleet()
    task = asyncio.create_task(read(fleet.stream(patience=Patience())))
    await asyncio.sleep(0)
    assert fleet.published == 1
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert fleet.cancelled == 1


async def test_a_cancel_that_cannot_be_said_holds_nobody_up() -> None:
    fleet = Fleet()
    fleet.answers_cancels = False
    async with fleet.stream(delta(1, 0)) as events:
        await anext(events)

    assert fleet.cancelled == 1


async def test_who_resumes_a_request_of_somebody_else_does_not_cancel_it() -> None:
    fleet = Fleet()
    task = asyncio.create_task(read(fleet.stream(patience=Patience(), resumed=True)))
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert (fleet.published, fleet.cancelled, fleet.forgotten) == (0, 0, 1)


@pytest.mark.parametrize("in_a_block", [True, False])
async def test_what_could_not_be_published_is_over(*, in_a_block: bool) -> None:
    fleet = Fleet(refuses=QueueFull("full"))
    stream = fleet.stream()

    with pytest.raises(QueueFull):
        await (stream.__aenter__() if in_a_block else anext(stream))

    assert (fleet.cancelled, fleet.forgotten) == (0, 1)
    assert await read(stream) == []
