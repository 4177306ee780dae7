"""How a worker takes requests and lets go of them."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest
from nats.js.api import ConsumerInfo

from contracts import streams, subjects
from contracts.subjects import Priority
from fleet.local.servers import NatsServer
from runtime.broker import Broker
from tests.kit import Plane, connected, plane
from tests.patience import until
from tests.proxy import Proxy
from tests.servers import Vault
from workers.clock import Clock
from workers.intake import preparation
from workers.intake.backlog import Backlog
from workers.intake.delivery import Ack, Acked, Delivery
from workers.intake.puller import Intake, shares_of_bytes

pytestmark = pytest.mark.slow


@pytest.fixture
async def control(nats: NatsServer, vault: Vault, tenant: str) -> AsyncGenerator[Plane]:
    async with plane(nats.url, vault, tenant) as control:
        await control.make_streams()
        yield control


@pytest.fixture
async def stack(control: Plane) -> AsyncGenerator[AsyncExitStack]:
    """Closed before the servers stop."""
    async with AsyncExitStack() as stack:
        yield stack


@dataclass(slots=True)
class Taker:
    """Takes `slots` requests, and keeps each until it may let it go."""

    connection: Broker
    taken: list[Delivery] = field(default_factory=list[Delivery])
    done: int = 0
    may_end: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    async def at(cls, port: int, stack: AsyncExitStack, *, slots: int = 1) -> "Taker":
        taker = cls(await stack.enter_async_context(connected(f"nats://127.0.0.1:{port}")))
        stop, clock = asyncio.Event(), Clock()
        intake = Intake(
            taker.connection,
            provider="mock",
            slots=slots,
            held_bytes=shares_of_bytes(64 * 1024**2),
            backlog=Backlog(taker.connection, worker="w1", bound=64 * 1024**2, clock=clock),
            run=taker.run,
            refuse=taker.run,
            interrupt=lambda: None,
            clock=clock,
        )
        serving = asyncio.create_task(intake.serve(stop, grace_s=0))

        async def end() -> None:
            stop.set()
            taker.may_end.set()
            await serving

        stack.push_async_callback(end)
        return taker

    async def run(self, delivery: Delivery) -> Ack:
        self.taken.append(delivery)
        await self.may_end.wait()
        self.done += 1
        return Acked()


def tenants(taker: Taker) -> list[str]:
    return [delivery.tenant for delivery in taker.taken]


async def test_few_requests_of_a_tenant_are_made_ready_at_once_and_others_are_between_them(
    control: Plane, nats: NatsServer, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "LONGEST_S", 3600)
    js = control.client.jetstream()
    for _ in range(40):
        await js.publish(subjects.request("mock", Priority.INTERACTIVE, "greedy"), b"request")
    taker = await Taker.at(nats.port, stack, slots=64)
    await until(lambda: len(taker.taken) == 11)
    await js.publish(subjects.request("mock", Priority.INTERACTIVE, "quiet"), b"request")
    await until(lambda: "quiet" in tenants(taker))

    assert tenants(taker) == ["greedy"] * 11 + ["quiet"]

    def all_are_taken() -> bool:
        for delivery in taker.taken:
            delivery.preparation.end()
        return len(taker.taken) == 41

    await until(all_are_taken)
    assert not taker.done


async def test_a_flood_of_many_times_the_slots_is_looked_through_for_others(
    control: Plane, nats: NatsServer, stack: AsyncExitStack
) -> None:
    js = control.client.jetstream()
    for _ in range(600):
        await js.publish(subjects.request("mock", Priority.INTERACTIVE, "greedy"), b"request")
    await js.publish(subjects.request("mock", Priority.INTERACTIVE, "quiet"), b"request")
    taker = await Taker.at(nats.port, stack, slots=8)

    await until(lambda: "quiet" in tenants(taker))
    assert len(taker.taken) <= 8


async def queue(control: Plane) -> ConsumerInfo:
    name = streams.pool_consumer("mock", Priority.INTERACTIVE)
    return await control.client.jetstream().consumer_info(streams.REQUESTS, name)


async def test_what_is_another_workers_by_now_is_not_acked(
    control: Plane, nats: NatsServer, stack: AsyncExitStack
) -> None:
    """The other one may die yet, and then a third one must get it."""
    proxy = await stack.enter_async_context(Proxy(nats.port))
    first = await Taker.at(proxy.port, stack)
    subject = subjects.request("mock", Priority.INTERACTIVE, control.tenant)
    await control.client.jetstream().publish(subject, b"request")
    await until(lambda: len(first.taken) == 1)

    proxy.black_hole()
    second = await Taker.at(nats.port, stack)
    await until(lambda: len(second.taken) == 1, within_s=2 * streams.ACK_WAIT_S)
    proxy.cut()
    await until(lambda: first.connection.reconnects == 1 and first.connection.connected)
    first.may_end.set()
    await until(lambda: first.done == 1)
    await first.connection.client.flush()

    assert (await queue(control)).num_ack_pending == 1
    second.may_end.set()
    await until(lambda: second.done == 1)
    await second.connection.client.flush()
    assert (await queue(control)).num_ack_pending == 0
    assert len(first.taken) == len(second.taken) == 1
