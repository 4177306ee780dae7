"""How workers keep each tenant within its share of the stored events."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any, cast

import nats.errors
import pytest

from runtime.broker import Broker
from runtime.tasks import end
from tests.driven_clock import DrivenClock
from tests.patience import until
from workers.jetstream.reply_publisher import ReplyPublisher
from workers.jetstream.reply_shares import EVENT_OVERHEAD_BYTES, REQUEST_OVERHEAD_BYTES, Refused, ReplyShares
from workers.providers.base import Chunk
from workers.request.events import EventStream
from workers.request.live_streams import LiveStreams, Tracked

MB = 1024 * 1024
SHARE = 8 * MB
DELTAS = (50_000,) * 20


class Ring:
    """Stands for the connection and for `LLM_REPLIES` behind it, which stores all that is not meant for another
    stream."""

    def __init__(self) -> None:
        self.client = self
        self.max_payload = 8 * MB
        self.on_reconnect: list[Callable[[], Awaitable[None]]] = []
        self.stored: defaultdict[str, list[bytes]] = defaultdict(list)
        self.heard: list[bytes] = []
        self.announced: list[dict[str, int]] = []
        self.most = 0
        self.refusal: dict[str, Any] | None = None
        self.is_silent = False

    async def publish(self, subject: str, payload: bytes, *, headers: dict[str, str] | None = None) -> None:
        assert subject.startswith("$KV")
        self.announced.append(json.loads(payload))

    def say(self, subject: str, payload: bytes, *, header: bytes = b"", soon: bool = True) -> None:
        self.heard.append(payload)
        if not header:
            self.stored[subject].append(payload)
            self.most = max(self.most, self.size)

    async def request(self, subject: str, payload: bytes, *, timeout: float) -> Any:
        assert subject == "$JS.API.STREAM.PURGE.LLM_REPLIES"
        if self.is_silent:
            raise nats.errors.TimeoutError
        asked = json.loads(payload)
        if self.refusal is None:
            self.stored[asked["filter"]] = self.stored[asked["filter"]][-asked["keep"] :] if asked["keep"] else []
        answer = {"error": self.refusal} if self.refusal else {"success": True}
        return type("Answer", (), {"data": json.dumps(answer).encode()})

    @property
    def size(self) -> int:
        """As it counts against a share."""
        return sum(
            REQUEST_OVERHEAD_BYTES + sum(len(subject) + len(event) + EVENT_OVERHEAD_BYTES for event in of)
            for subject, of in self.stored.items()
            if of
        )

    @property
    def broker(self) -> Broker:
        return cast(Broker, self)


def subject(number: int, *, tenant: str = "mallory") -> str:
    return f"llm.v1.reply.{tenant}.a.r{number}"


def shares_of(ring: Ring, *, worker: str = "w1", clock: DrivenClock | None = None) -> ReplyShares:
    return ReplyShares(ring.broker, worker=worker, share=SHARE, clock=clock or DrivenClock())


async def store(publisher: ReplyPublisher, number: int, *events: int, tenant: str = "mallory") -> None:
    """A request that says events of these sizes, and ends with the last one."""
    publisher.shares.begin(subject(number, tenant=tenant))
    for size in events:
        await publisher.event(subject(number, tenant=tenant), b"x" * size)
    publisher.shares.end(subject(number, tenant=tenant), has_ended=True)


async def test_what_precedes_an_end_goes_first_and_the_oldest_before_the_newer() -> None:
    ring = Ring()
    publisher = ReplyPublisher(ring.broker, shares_of(ring))
    for number in range(10):
        await store(publisher, number, *DELTAS, 10)

    await publisher.shares.purge_account("mallory")

    assert [len(ring.stored[subject(number)]) for number in range(10)] == [1, 1, 1, 1, *[21] * 6]
    assert ring.stored[subject(0)] == [b"x" * 10]
    assert publisher.shares.stored("mallory") == ring.size < SHARE * 0.75


async def test_ends_go_when_nothing_else_is_left() -> None:
    ring = Ring()
    publisher = ReplyPublisher(ring.broker, shares_of(ring))
    for number in range(9):
        await store(publisher, number, 1_000_000)

    await publisher.shares.purge_account("mallory")

    assert [len(ring.stored[subject(number)]) for number in range(9)] == [0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert publisher.shares.stored("mallory") == ring.size


async def test_of_many_tiny_replies_a_bounded_number_is_known() -> None:
    shares = shares_of(Ring())
    for number in range(10_000):
        shares.begin(subject(number))
        shares.note(subject(number), b"tiny")
        shares.end(subject(number), has_ended=True)
    await shares.purge_account("mallory")

    known = shares._account(subject(0))  # pyright: ignore[reportPrivateUsage]
    assert 0 < len(known.ends) < SHARE / REQUEST_OVERHEAD_BYTES


async def test_other_tenants_keep_theirs() -> None:
    ring = Ring()
    publisher = ReplyPublisher(ring.broker, shares_of(ring))
    await store(publisher, 0, 5_000_000, 10, tenant="quiet")
    for number in range(20):
        await store(publisher, number, *DELTAS, 10)

    await publisher.shares.purge_account("mallory")

    assert len(ring.stored[subject(0, tenant="quiet")]) == 2


async def test_what_another_worker_goes_on_with_is_not_purged() -> None:
    ring = Ring()
    publisher = ReplyPublisher(ring.broker, shares_of(ring))
    publisher.shares.begin(subject(0))
    for _ in range(180):
        await publisher.event(subject(0), b"x" * 50_000)
    publisher.shares.end(subject(0), has_ended=False)
    await publisher.event(subject(0), b"x" * 10)  # as it is said again after a reconnect

    await publisher.shares.purge_account("mallory")

    assert len(ring.stored[subject(0)]) == 180
    assert not publisher.shares.has_room(subject(1))


async def test_a_running_answer_beyond_the_share_is_said_and_not_stored() -> None:
    ring = Ring()
    publisher = ReplyPublisher(ring.broker, shares_of(ring))
    live = LiveStreams(reconnects=lambda: 0, until_kept=ring_is_kept, replies=publisher)
    events = EventStream(publisher, subject=subject(0), request_id="r0", attempt=1)
    async with Tracked(live, events):
        events.delta(Chunk(text="y"))
        for _ in range(29):
            events.delta(Chunk(text="y" * 500_000))
        assert len(ring.heard) == 30
        assert ring.most < SHARE + MB
        assert events.sent == ring.stored[subject(0)], "what is not stored takes no memory here either"
        assert events.seq == 30

        stored = len(events.sent)
        await live.republish_all()
        assert len(ring.heard) == 30 + stored
        assert len(ring.stored[subject(0)]) == stored + 1, "the first one is for the worker that takes it over"


async def ring_is_kept() -> None:
    return


async def test_the_first_delta_of_an_attempt_is_stored_whatever_there_is() -> None:
    ring = Ring()
    publisher = ReplyPublisher(ring.broker, shares_of(ring))
    publisher.shares.begin(subject(7))
    await publisher.event(subject(7), b"x" * (SHARE - 1))
    await publisher.event(subject(7), b"x" * 1000)
    live = LiveStreams(reconnects=lambda: 0, until_kept=ring_is_kept, replies=publisher)
    events = EventStream(publisher, subject=subject(0), request_id="r0", attempt=1)
    async with Tracked(live, events):
        events.seq = 1
        events.delta(Chunk(text="first"))
        events.delta(Chunk(text="second"))

    assert [b"first" in event for event in ring.stored[subject(0)]] == [True]


async def test_many_large_ends_at_once_wait_for_each_other() -> None:
    ring = Ring()
    publisher = ReplyPublisher(ring.broker, shares_of(ring))
    purging = asyncio.create_task(publisher.shares.purge())

    await asyncio.gather(*(store(publisher, number, 100_000, 2_000_000) for number in range(100)))
    await end(purging)

    assert len(ring.heard) == 200
    assert ring.most < SHARE + 100 * 100_000 + 4_000_000


async def test_refusals_of_what_nobody_runs_are_not_stored_beyond_the_share() -> None:
    ring = Ring()
    publisher = ReplyPublisher(ring.broker, shares_of(ring))
    for number in range(200):
        await publisher.event(subject(number), b"x" * 100_000)

    assert len(ring.heard) == 200
    assert ring.most < SHARE + 200_000


async def test_what_others_have_stored_counts() -> None:
    ring, clock = Ring(), DrivenClock()
    shares = shares_of(ring, clock=clock)
    tell(shares, "replies.w2", mallory=SHARE - MB)
    await shares.look_once()
    publisher = ReplyPublisher(ring.broker, shares)
    for number in range(5):
        await store(publisher, number, *DELTAS)

    assert not shares.has_room(subject(0))
    assert shares.has_room(subject(0, tenant="quiet"))

    tell(shares, "replies.w2")
    await shares.look_once()
    assert shares.has_room(subject(0))


async def test_a_worker_grows_by_a_step_before_it_tells_the_others() -> None:
    ring = Ring()
    shares = shares_of(ring)
    for number in range(3):
        tell(shares, f"replies.other-{number}")
    publisher = ReplyPublisher(ring.broker, shares)
    await store(publisher, 0, 2 * MB)
    assert not shares.has_room(subject(0)), "a quarter of the share"

    await shares.look_once()

    assert ring.announced[-1]["mallory"] > 2 * MB
    assert shares.has_room(subject(0))


async def test_says_nothing_new_without_need() -> None:
    ring, clock = Ring(), DrivenClock()
    shares = shares_of(ring, clock=clock)
    publisher = ReplyPublisher(ring.broker, shares)
    await store(publisher, 0, 2 * MB, 10)
    for _ in range(5):
        await shares.look_once()
    assert len(ring.announced) == 1

    clock.pass_by(61)
    await shares.look_once()
    assert len(ring.announced) == 2


async def test_what_is_so_old_that_it_is_gone_counts_no_more() -> None:
    ring, clock = Ring(), DrivenClock()
    shares = shares_of(ring, clock=clock)
    await store(ReplyPublisher(ring.broker, shares), 0, 5 * MB, 10)

    clock.pass_by(601)
    await shares.look_once()

    assert shares.stored("mallory") == 0


async def test_a_request_that_two_deliveries_run_is_counted_once() -> None:
    ring = Ring()
    shares = shares_of(ring)
    publisher = ReplyPublisher(ring.broker, shares)
    shares.begin(subject(0))
    await publisher.event(subject(0), b"x" * 1000)
    shares.begin(subject(0))
    shares.end(subject(0), has_ended=False)
    assert shares.is_running(subject(0))

    await publisher.event(subject(0), b"x" * 1000)
    shares.end(subject(0), has_ended=True)

    assert shares.stored("mallory") == ring.size


@pytest.mark.parametrize("silent", [True, False])
async def test_nobody_waits_for_purges_that_fail(silent: bool) -> None:
    ring, clock = Ring(), DrivenClock()
    ring.is_silent = silent
    ring.refusal = None if silent else {"description": "not permitted"}
    publisher = ReplyPublisher(ring.broker, shares_of(ring, clock=clock))
    for number in range(10):
        await store(publisher, number, *DELTAS, 10)
    with pytest.raises(nats.errors.TimeoutError if silent else Refused):
        await publisher.shares.purge_account("mallory")

    purging = asyncio.create_task(publisher.shares.purge())
    await store(publisher, 99, 1_000_000)
    await until(lambda: len(ring.stored[subject(99)]) == 1)
    await end(purging)


def tell(shares: ReplyShares, key: str, **stored: int) -> None:
    """Another worker announces what it has stored."""
    shares.bucket._take(key, json.dumps(stored).encode(), 1)  # pyright: ignore[reportPrivateUsage]
