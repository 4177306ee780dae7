"""The pull protocol: what is asked, what comes, and what the server says about it."""

import json
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from runtime.jetstream.pull import IDLE_HEARTBEAT_S, SILENT_S, Credit, Pull, PullEnd
from tests.driven_clock import DrivenClock

ACK = "$JS.ACK.LLM_USAGE.usage.1.1.1.1700000000000000000.0"


class Server:
    """Stands for the connection: keeps what is asked, and answers what a test says."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.subjects: list[str] = []
        self.is_closed = False
        self.listens = False
        self._receive: Callable[[Msg], Awaitable[None]] | None = None

    def new_inbox(self) -> str:
        return "_INBOX.1"

    async def subscribe(self, inbox: str, cb: Callable[[Msg], Awaitable[None]]) -> "Server":
        self._receive, self.listens = cb, True
        return self

    async def unsubscribe(self) -> None:
        self.listens = False

    async def publish(self, subject: str, payload: bytes, reply: str) -> None:
        assert reply == "_INBOX.1"
        self.subjects.append(subject)
        self.asked.append(json.loads(payload))

    async def send(self, data: bytes = b"", *, reply: str = "", **headers: str) -> None:
        assert self._receive is not None
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        await self._receive(Msg(cast(Nats, self), subject="s", reply=reply, data=data, headers=named or None))


class Owner:
    """What came, and which pulls ended."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.ends: list[PullEnd] = []

    async def take(self, msg: Msg) -> None:
        self.messages.append(msg.data)

    async def end(self, pull_end: PullEnd) -> None:
        self.ends.append(pull_end)


@pytest.fixture
def clock() -> DrivenClock:
    return DrivenClock()


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def owner() -> Owner:
    return Owner()


@pytest.fixture
async def pull(server: Server, owner: Owner, clock: DrivenClock) -> Pull:
    pull = Pull(
        cast(Nats, server),
        stream="LLM_USAGE",
        consumer="usage",
        on_message=owner.take,
        on_end=owner.end,
        monotonic=clock.monotonic,
    )
    await pull.open()
    return pull


async def test_asks_in_the_words_of_the_api(pull: Pull, server: Server) -> None:
    await pull.ask(7)

    assert server.subjects == ["$JS.API.CONSUMER.MSG.NEXT.LLM_USAGE.usage"]
    (question,) = server.asked
    assert (question["batch"], question["expires"], question["idle_heartbeat"]) == (7, 30 * 10**9, 10**9)


async def test_a_short_pull_asks_for_no_heartbeat_that_would_come_too_late(pull: Pull, server: Server) -> None:
    await pull.ask(7, expires_s=0.25)

    assert server.asked[0]["expires"] == 250_000_000
    assert "idle_heartbeat" not in server.asked[0]


async def test_what_comes_is_counted(pull: Pull, server: Server, owner: Owner) -> None:
    await pull.ask(2)
    await pull.ask(1)
    await server.send(b"one", reply=ACK)

    assert (owner.messages, pull.asked) == ([b"one"], 2)


async def test_a_message_is_one_whatever_its_sender_wrote_into_its_headers(
    pull: Pull, server: Server, owner: Owner
) -> None:
    await pull.ask(1)
    await server.send(b"", reply=ACK, Status="409", Description="not from the server")

    assert (owner.messages, owner.ends, pull.asked) == ([b""], [], 0)


async def test_a_heartbeat_ends_nothing(pull: Pull, server: Server, owner: Owner) -> None:
    await pull.ask(5)
    await server.send(Status="100", Description="Idle Heartbeat")

    assert (owner.ends, pull.asked) == ([], 5)


@pytest.mark.parametrize("status", ["404", "408", "409"])
async def test_the_end_of_a_pull_gives_back_what_it_did_not_serve(
    pull: Pull, server: Server, owner: Owner, status: str
) -> None:
    await pull.ask(5)
    await pull.ask(3)
    await server.send(Status=status, Description="over", Nats_Pending_Messages="4")

    assert owner.ends == [PullEnd(status, "over", 4)]
    assert pull.asked == 4


async def test_the_end_of_the_consumer_is_the_end_of_all_that_was_asked(
    pull: Pull, server: Server, owner: Owner
) -> None:
    await pull.ask(5)
    await server.send(Status="409", Description="Consumer Deleted")

    assert owner.ends == [PullEnd("409", "Consumer Deleted", None)]
    assert pull.asked == 0


async def test_a_server_that_falls_silent_has_lost_the_pull(pull: Pull, server: Server, clock: DrivenClock) -> None:
    await pull.ask(5)
    clock.pass_by(IDLE_HEARTBEAT_S)
    await server.send(Status="100")
    clock.pass_by(SILENT_S)
    assert not pull.forget_if_lost()

    clock.pass_by(0.1)

    assert pull.forget_if_lost()
    assert pull.asked == 0
    assert not pull.forget_if_lost(), "nothing is due any more"


async def test_a_server_that_owes_nothing_may_be_silent(pull: Pull, server: Server, clock: DrivenClock) -> None:
    await pull.ask(1)
    await server.send(b"one", reply=ACK)
    clock.pass_by(100)
    assert not pull.forget_if_lost()

    await pull.ask(1)

    assert not pull.forget_if_lost(), "it was asked just now"


async def test_a_closed_pull_listens_no_more(pull: Pull, server: Server) -> None:
    await pull.close()

    assert not server.listens


def test_more_than_was_asked_for_is_no_debt() -> None:
    credit = Credit()
    credit.ask(1, now=0)
    for _ in range(3):
        credit.receive(now=0)
    credit.end(unserved=2)

    assert credit.asked == 0
