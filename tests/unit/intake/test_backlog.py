"""How many bytes of a tenant's requests wait."""

import json
from collections.abc import Awaitable, Callable
from typing import cast

import pytest

from runtime.broker import Broker
from tests.driven_clock import DrivenClock
from workers.intake.backlog import Backlog, bound_of

BOUND = 1000


class Connection:
    """What the worker publishes."""

    def __init__(self) -> None:
        self.client = self
        self.on_reconnect: list[Callable[[], Awaitable[None]]] = []
        self.told: list[dict[str, int]] = []

    async def publish(self, subject: str, value: bytes, *, headers: dict[str, str]) -> None:
        assert (subject, headers) == ("$KV.llm_health.queue.w1", {"Nats-TTL": "10"})
        self.told.append(json.loads(value))


@pytest.fixture
def clock() -> DrivenClock:
    return DrivenClock()


@pytest.fixture
def connection() -> Connection:
    return Connection()


@pytest.fixture
def backlog(connection: Connection, clock: DrivenClock) -> Backlog:
    return Backlog(cast(Broker, connection), worker="w1", bound=BOUND, clock=clock)


def test_a_tenant_may_have_a_sixteenth_of_the_queue() -> None:
    assert bound_of(6 * 1024**3) == 384 * 1024**2


def test_there_is_room_until_the_bound_is_reached(backlog: Backlog) -> None:
    backlog.add("acme", "mock", 600, delay_s=5)

    assert backlog.has_room("acme", 400)
    assert not backlog.has_room("acme", 401)
    assert backlog.has_room("other", 1000)


def test_one_request_may_wait_whatever_its_size(backlog: Backlog) -> None:
    assert backlog.has_room("acme", BOUND + 1)


def test_what_comes_again_waits_no_more_in_whatever_order(backlog: Backlog, clock: DrivenClock) -> None:
    backlog.add("acme", "mock", 500, delay_s=60)
    backlog.add("acme", "openai", 400, delay_s=2)
    assert not backlog.has_room("acme", 200)

    clock.pass_by(2)

    assert backlog.has_room("acme", 500)
    assert not backlog.has_room("acme", 501)
    assert (backlog.bytes_of("mock"), backlog.bytes_of("openai"), backlog.bytes_of("azure")) == (500, 0, 0)


async def test_others_are_told_what_they_do_not_know(
    backlog: Backlog, connection: Connection, clock: DrivenClock
) -> None:
    await backlog.tell_once()
    assert connection.told == []

    backlog.add("acme", "mock", 500, delay_s=10)
    backlog.add("tiny", "mock", 3, delay_s=10)
    await backlog.tell_once()
    backlog.add("acme", "mock", 3, delay_s=10)
    await backlog.tell_once()
    assert connection.told == [{"acme": 500}]

    clock.pass_by(4)
    await backlog.tell_once()
    assert connection.told[1:] == [{"acme": 503}], "before what was told ends"

    clock.pass_by(6)
    await backlog.tell_once()
    await backlog.tell_once()
    assert connection.told[2:] == [{}]
