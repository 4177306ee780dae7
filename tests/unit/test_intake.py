"""How a worker takes requests and lets go of them, on a connection that a test plays."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, cast

import pytest
from nats.aio.msg import Msg

from contracts import streams, subjects
from contracts.subjects import Priority
from runtime.broker import Broker
from tests.driven_clock import NOON, DrivenClock
from workers.intake.backlog import Backlog
from workers.intake.delivery import Ack, Acked, Delivery, GaveBack, Terminated
from workers.intake.known_server import SETTLE_S
from workers.intake.puller import Intake, shares_of_bytes
from workers.intake.shares import Shares

LONG_AGO = "2026-01-01T00:00:00Z"
SLOTS = 4
HELD_BYTES = 64 * 1024**2
WAITING_BYTES = 4 * 1024**2


class StandingClock(DrivenClock):
    """Whoever sleeps stays asleep: the intake's watchdog and heartbeats are not what is tested here."""

    async def sleep(self, delay_s: float) -> None:
        await asyncio.Event().wait()


class Server:
    """The connection, and the server behind it."""

    def __init__(self) -> None:
        self.client = self
        self.on_reconnect: list[Callable[[], Awaitable[None]]] = []
        self.connected = True
        self.is_closed = False
        self.server_id = "first"
        self.in_cluster = False
        self.pulls: list[tuple[str, int]] = []
        """Consumer and number of messages, of each pull."""
        self.words: list[tuple[int, bytes]] = []
        """What was said of a message, by its place in the stream."""
        self._takers: dict[str, Callable[[Msg], Awaitable[None]]] = {}
        self._inboxes: dict[str, str] = {}

    def new_inbox(self) -> str:
        return f"_INBOX.{len(self._takers)}"

    async def subscribe(self, inbox: str, cb: Callable[[Msg], Awaitable[None]]) -> "Server":
        self._takers[inbox] = cb
        return self

    async def unsubscribe(self) -> None: ...

    async def request(self, subject: str, payload: bytes) -> bytes:
        """Both streams are old: the server has forgotten nothing."""
        return json.dumps({"created": LONG_AGO, "ts": LONG_AGO}).encode()

    async def publish(self, subject: str, payload: bytes = b"", *, reply: str = "") -> None:
        if subject.startswith("$JS.ACK."):
            self.words.append((int(subject.split(".")[5]), payload))
            return
        consumer = subject.rsplit(".", 1)[-1]
        self._inboxes[consumer] = reply
        self.pulls.append((consumer, json.loads(payload)["batch"]))

    async def deliver(
        self,
        number: int,
        *,
        tenant: str = "acme",
        agent: str = "a",
        priority: Priority = Priority.INTERACTIVE,
        deliveries: int = 1,
        padding: int = 0,
        age_s: int = 60,
    ) -> None:
        consumer = streams.pool_consumer("mock", priority)
        stored_at = int((NOON.timestamp() - age_s) * 1e9)
        ack = f"$JS.ACK.{streams.REQUESTS}.{consumer}.{deliveries}.{number}.{number}.{stored_at}.0"
        msg = Msg(
            cast(Any, self),
            subject=subjects.request("mock", priority, tenant),
            reply=ack,
            data=json.dumps({"id": str(number), "agent": agent, "messages": ["x" * padding]}).encode(),
        )
        await self._takers[self._inboxes[consumer]](msg)
        await asyncio.sleep(0)

    def asked(self, priority: Priority) -> list[int]:
        return [count for consumer, count in self.pulls if consumer == streams.pool_consumer("mock", priority)]


class Work:
    """Runs requests until a test ends them."""

    def __init__(self) -> None:
        self.running: dict[int, asyncio.Future[Ack]] = {}
        self.started: list[int] = []
        self.refused: list[int] = []
        self.refuses: Ack | None = Terminated()
        """What becomes of a request that is refused; None: it is not."""

    async def refuse(self, delivery: Delivery) -> Ack | None:
        self.refused.append(delivery.stream_seq)
        return self.refuses

    async def run(self, delivery: Delivery) -> Ack:
        number = delivery.stream_seq
        self.started.append(number)
        self.running[number] = asyncio.get_running_loop().create_future()
        try:
            return await self.running[number]
        finally:
            del self.running[number]

    async def end(self, number: int, ack: Ack) -> None:
        self.running[number].set_result(ack)
        for _ in range(5):
            await asyncio.sleep(0)

    def interrupt(self) -> None:
        for ending in self.running.values():
            ending.set_result(GaveBack())


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def slots() -> int:
    return SLOTS


@pytest.fixture
def held() -> Shares:
    return shares_of_bytes(HELD_BYTES)


@pytest.fixture
async def stop(
    server: Server, work: Work, clock: StandingClock, slots: int, held: Shares
) -> AsyncGenerator[Callable[[], Awaitable[None]]]:
    """An intake that serves; called, it drains it."""
    intake = Intake(
        cast(Broker, server),
        provider="mock",
        slots=slots,
        held_bytes=held,
        backlog=Backlog(cast(Broker, server), worker="w1", bound=WAITING_BYTES, clock=clock),
        run=work.run,
        refuse=work.refuse,
        interrupt=work.interrupt,
        clock=clock,
    )
    stopped = asyncio.Event()
    serving = asyncio.create_task(intake.serve(stopped, grace_s=0))
    while len(server.pulls) < len(Priority):
        await asyncio.sleep(0)

    async def drain() -> None:
        stopped.set()
        await serving

    yield drain
    await drain()


pytestmark = pytest.mark.usefixtures("stop")


async def test_asks_both_consumers_for_as_many_as_there_is_room_for(server: Server) -> None:
    prefetch = 2

    assert server.asked(Priority.INTERACTIVE) == server.asked(Priority.BACKGROUND) == [SLOTS + prefetch]


async def test_runs_as_many_as_there_are_slots_and_the_rest_in_turn_of_tenants(server: Server, work: Work) -> None:
    for number in range(1, 6):
        await server.deliver(number, tenant="loud")
    await server.deliver(6, tenant="quiet")
    assert work.started == [1, 2, 3, 4]

    await work.end(1, Acked())
    await work.end(2, Acked())

    assert work.started == [1, 2, 3, 4, 5, 6]


async def test_background_has_its_share_before_interactive_goes_first(server: Server, work: Work) -> None:
    for number in range(1, 6):
        await server.deliver(number)
    for number in (11, 12):
        await server.deliver(number, priority=Priority.BACKGROUND)
    for number in (1, 2):
        await work.end(number, Acked())

    assert work.started == [1, 2, 3, 4, 11, 5]


@pytest.mark.parametrize(
    ("ack", "word"),
    [
        (Acked(), b"+ACK"),
        (GaveBack(), b"-NAK"),
        (GaveBack(2.5), b'-NAK {"delay": 2500000000}'),
        (Terminated(), b"+TERM"),
    ],
)
async def test_the_server_is_told_what_became_of_a_request(server: Server, work: Work, ack: Ack, word: bytes) -> None:
    await server.deliver(1)
    await work.end(1, ack)

    assert server.words == [(1, word)]


async def test_asks_for_more_when_what_was_asked_for_has_come(server: Server, work: Work) -> None:
    for number in range(1, 6):
        await server.deliver(number)
    assert server.asked(Priority.INTERACTIVE) == [6]

    await server.deliver(6)
    assert server.asked(Priority.INTERACTIVE) == [6, 2], "others may lie behind what there is no room for"

    for number in (1, 2):
        await work.end(number, Acked())
    for number in (7, 8):
        await server.deliver(number)
    assert server.asked(Priority.INTERACTIVE) == [6, 2, 2]


async def test_who_has_the_most_waiting_makes_room_for_others(server: Server, work: Work) -> None:
    for number in range(1, 7):
        await server.deliver(number, tenant="loud")
    await server.deliver(7, tenant="quiet")
    ((number, word),) = server.words
    assert (number, word[:4]) == (6, b"-NAK")
    assert 0 < json.loads(word[4:])["delay"] < 10**9

    await work.end(1, Acked())
    await work.end(2, Acked())

    assert work.started == [1, 2, 3, 4, 5, 7]


async def test_agents_of_a_tenant_take_turns(server: Server, work: Work) -> None:
    for number in range(1, 6):
        await server.deliver(number, agent="loud")
    await server.deliver(6, agent="chat")
    await work.end(1, Acked())
    await work.end(2, Acked())

    assert work.started == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("slots", [8])
async def test_a_slot_is_free_for_others_whatever_a_tenant_does(server: Server, work: Work) -> None:
    for number in range(1, 11):
        await server.deliver(number, tenant="loud", agent=f"n{number}")
    assert len(work.started) == 7

    await server.deliver(11, tenant="quiet")

    assert work.started[-1] == 11


@pytest.mark.parametrize("slots", [64])
async def test_no_more_bytes_are_held_than_may_be(server: Server, work: Work, held: Shares) -> None:
    for number in range(1, 21):
        await server.deliver(number, tenant="loud", padding=1024**2)
    assert 10 * 1024**2 < held.taken < HELD_BYTES / 4
    assert [word[:4] for _, word in server.words] == [b"-NAK"] * (20 - held.taken // 1024**2)

    await server.deliver(21, tenant="quiet", padding=7 * 1024**2)
    assert held.taken > 17 * 1024**2


@pytest.mark.parametrize("slots", [64])
async def test_of_who_has_enough_waiting_new_requests_are_refused_and_nobody_elses(server: Server, work: Work) -> None:
    for number in range(1, 31):
        await server.deliver(number, tenant="loud", padding=1024**2, age_s=-3)

    put_off = [number for number, word in server.words if word[:4] == b"-NAK"]
    refused = [number for number, word in server.words if word == b"+TERM"]
    assert len(put_off) == 3, "what comes first waits: 4 MiB, less what is around each MiB"
    assert work.refused == refused == list(range(put_off[-1] + 1, 31))

    await server.deliver(31, tenant="quiet", padding=1024**2, age_s=-3)
    await server.deliver(put_off[0], tenant="loud", padding=1024**2, age_s=-3, deliveries=2)
    await server.deliver(32, tenant="loud", padding=1024**2)

    assert not {31, put_off[0], 32} & {*work.refused}, "what came before waits on, and what a server may have forgotten"


@pytest.mark.parametrize("slots", [64])
async def test_what_has_come_again_leaves_room_for_new_requests(
    server: Server, work: Work, clock: StandingClock
) -> None:
    for number in range(1, 21):
        await server.deliver(number, tenant="loud", padding=1024**2, age_s=-3)
    refused = len(work.refused)

    clock.pass_by(8)
    await server.deliver(21, tenant="loud", padding=1024**2, age_s=-3)

    assert refused == len(work.refused) > 0
    assert server.words[-1][1][:4] == b"-NAK"


@pytest.mark.parametrize("slots", [64])
async def test_what_may_not_be_refused_goes_on_to_wait(server: Server, work: Work) -> None:
    work.refuses = None
    for number in range(1, 21):
        await server.deliver(number, tenant="loud", padding=1024**2, age_s=-3)

    assert work.refused
    assert {word[:4] for _, word in server.words} == {b"-NAK"}


@pytest.mark.parametrize("slots", [64])
async def test_large_requests_start_one_at_a_time_and_let_small_ones_pass(server: Server, work: Work) -> None:
    await asyncio.gather(
        server.deliver(1, padding=1024**2), server.deliver(2, padding=1024**2), server.deliver(3, tenant="quiet")
    )
    assert work.started[:2] == [1, 3]

    while len(work.started) < 3:
        await asyncio.sleep(0)
    assert work.started == [1, 3, 2]


@pytest.mark.parametrize("slots", [64])
async def test_many_requests_of_some_size_let_small_ones_pass_as_well(server: Server, work: Work) -> None:
    await asyncio.gather(
        *(server.deliver(number, padding=20_000) for number in range(1, 11)), server.deliver(11, tenant="quiet")
    )
    assert work.started == [1, 2, 3, 4, 11], "four are parsed in one turn of the event loop"

    while len(work.started) < 11:
        await asyncio.sleep(0)
    assert work.started == [1, 2, 3, 4, 11, *range(5, 11)]


async def test_what_is_given_again_while_it_runs_is_not_run_twice(server: Server, work: Work) -> None:
    await server.deliver(1)
    await server.deliver(1, deliveries=2)

    assert work.started == [1]


async def test_what_is_left_goes_back_when_the_worker_stops(
    server: Server, work: Work, stop: Callable[[], Awaitable[None]]
) -> None:
    for number in range(1, 6):
        await server.deliver(number)

    await stop()

    assert server.words[0] == (5, b"-NAK"), "what was not started is given back before anything is waited for"
    assert sorted(server.words) == [(number, b"-NAK") for number in range(1, 6)]


async def test_nothing_is_begun_with_what_a_server_gave_that_was_started_anew(
    server: Server, work: Work, clock: StandingClock
) -> None:
    for number in range(1, 6):
        await server.deliver(number)
    pulls = len(server.pulls)

    server.server_id = "second"
    for callback in server.on_reconnect:
        await callback()
    assert len(server.pulls) == pulls, "the others have not said yet what they are working on"
    await work.end(1, Acked())

    assert server.words == [], "it may be another worker's by now"
    assert work.started == [1, 2, 3, 4]

    clock.pass_by(SETTLE_S)
    for callback in server.on_reconnect:
        await callback()
    await server.deliver(6)
    assert work.started == [1, 2, 3, 4, 6]


async def test_a_worker_that_was_not_heard_for_long_says_nothing_more(
    server: Server, work: Work, clock: StandingClock
) -> None:
    await server.deliver(1)
    clock.pass_by(streams.ACK_WAIT_S)

    await work.end(1, Acked())

    assert server.words == []
