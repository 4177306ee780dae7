"""What a request survives: the death and the end of its worker, and a NATS server that goes away for a while."""

import asyncio
import signal
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from contracts import streams
from contracts.events import Completed, Delta, Event, Failed, Retrying, Started, Terminal
from fleet.client import Client, Stream
from fleet.local.servers import NatsServer
from tests.kit import Bill, Plane, plane, worker_process
from tests.patience import PATIENCE_S, until
from tests.servers import Vault

pytestmark = pytest.mark.slow


@pytest.fixture
async def stack(nats: NatsServer, vault: Vault) -> AsyncGenerator[AsyncExitStack]:
    """Closed before the servers stop."""
    async with AsyncExitStack() as stack:
        yield stack


class Scene:
    """A tenant with the mock provider, an agent, the bill; workers come and go by the test's will."""

    def __init__(self, stack: AsyncExitStack, nats: NatsServer, vault: Vault, tenant: str) -> None:
        self._stack, self.nats, self._vault, self._tenant = stack, nats, vault, tenant

    async def worker(self, **env: str) -> asyncio.subprocess.Process:
        return await self._stack.enter_async_context(worker_process(self.nats.url, self._vault, **env))

    async def open(self) -> tuple[Client, Bill, Plane]:
        control = await self._stack.enter_async_context(plane(self.nats.url, self._vault, self._tenant))
        await control.put_tenant()
        await control.put_provider("mock")
        bill = await self._stack.enter_async_context(Bill.watch(control.client, self._tenant))
        client = await self._stack.enter_async_context(Client(self.nats.url, tenant=self._tenant, agent="tester"))
        return client, bill, control


@pytest.fixture
def scene(stack: AsyncExitStack, nats: NatsServer, vault: Vault, tenant: str) -> Scene:
    return Scene(stack, nats, vault, tenant)


def slowly(text: str, *, between_s: float = 0.1, **fields: Any) -> dict[str, Any]:
    return {"provider_options": {"mock": {"text": text, "between_s": between_s}}, **fields}


async def read(stream: Stream, into: list[Event]) -> None:
    async for event in stream:
        into.append(event)  # noqa: PERF401 - whoever waits looks into the list meanwhile


def said(events: list[Event], attempt: int) -> str:
    return "".join(e.text or "" for e in events if isinstance(e, Delta) and e.attempt == attempt)


TEXT = " ".join(f"word{n}" for n in range(30))


async def test_kill_9_in_mid_stream_is_survived(scene: Scene) -> None:
    first = await scene.worker()
    client, bill, _ = await scene.open()
    events: list[Event] = []
    reading = asyncio.create_task(read(client.stream("mock/echo", "Hi", **slowly(TEXT)), events))
    await until(lambda: sum(isinstance(e, Delta) for e in events) >= 5)

    first.kill()
    await scene.worker()
    await until(lambda: any(e.attempt == 2 for e in events), within_s=streams.ACK_WAIT_S + PATIENCE_S)
    await asyncio.wait_for(reading, PATIENCE_S)

    assert [type(e) for e in events if isinstance(e, Terminal)] == [Completed]
    assert said(events, 2) == TEXT
    assert TEXT.startswith(said(events, 1))
    request_id = events[0].request_id
    await until(lambda: len(bill.of(request_id)) == 2)
    abandoned, completed = bill.of(request_id)
    assert (abandoned.outcome, abandoned.usage.source) == ("abandoned", "estimated")
    assert abandoned.usage.output_tokens > 0
    assert (completed.outcome, completed.usage.source) == ("completed", "vendor")


async def test_a_request_that_kills_three_workers_is_buried(scene: Scene) -> None:
    current = await scene.worker()
    client, bill, control = await scene.open()
    events: list[Event] = []
    reading = asyncio.create_task(read(client.stream("mock/echo", "Hi", **slowly(TEXT, between_s=1)), events))
    for attempt in (1, 2, 3):
        await until(
            lambda attempt=attempt: any(e.attempt == attempt for e in events), within_s=streams.ACK_WAIT_S + PATIENCE_S
        )
        current.kill()
        current = await scene.worker()
    await asyncio.wait_for(reading, PATIENCE_S)

    assert isinstance(events[-1], Failed)
    assert events[-1].error.code == "internal"
    assert (await control.client.jetstream().stream_info(streams.DEAD)).state.messages == 1
    await until(lambda: len(bill.of(events[0].request_id)) == 3)
    assert {r.outcome for r in bill.of(events[0].request_id)} == {"abandoned"}


async def test_sigterm_lets_streams_finish_and_takes_no_more(scene: Scene) -> None:
    first = await scene.worker()
    client, bill, _ = await scene.open()
    events: list[Event] = []
    reading = asyncio.create_task(read(client.stream("mock/echo", "Hi", **slowly(TEXT, between_s=0.05)), events))
    await until(lambda: sum(isinstance(e, Delta) for e in events) >= 3)
    first.send_signal(signal.SIGTERM)
    await scene.worker()

    later = await client.complete("mock/echo", "And this?")
    await asyncio.wait_for(reading, PATIENCE_S)

    assert await asyncio.wait_for(first.wait(), PATIENCE_S) == 0
    assert isinstance(events[-1], Completed)
    assert events[-1].attempt == 1
    assert later.attempt == 1
    await until(lambda: len(bill.of(events[0].request_id)) == 1)


async def test_what_outlives_the_grace_period_is_handed_over(scene: Scene) -> None:
    first = await scene.worker(LLM_DRAIN_GRACE_S="0.5")
    client, bill, _ = await scene.open()
    events: list[Event] = []
    reading = asyncio.create_task(read(client.stream("mock/echo", "Hi", **slowly(TEXT)), events))
    await until(lambda: sum(isinstance(e, Delta) for e in events) >= 3)
    first.send_signal(signal.SIGTERM)
    await scene.worker()

    await asyncio.wait_for(reading, PATIENCE_S)

    assert await first.wait() == 0
    assert [type(e) for e in events if not isinstance(e, Delta)] == [Started, Retrying, Started, Completed]
    retrying = next(e for e in events if isinstance(e, Retrying))
    assert retrying.error.code == "stream_interrupted"
    assert said(events, 2) == TEXT
    await until(lambda: len(bill.of(events[0].request_id)) == 2)
    assert [r.outcome for r in bill.of(events[0].request_id)] == ["failed", "completed"]


async def test_a_nats_server_that_is_killed_and_comes_back_loses_no_request(scene: Scene) -> None:
    await scene.worker()
    client, _, control = await scene.open()
    events: list[Event] = []
    reading = asyncio.create_task(read(client.stream("mock/echo", "Hi", **slowly(TEXT, between_s=0.2)), events))
    await until(lambda: sum(isinstance(e, Delta) for e in events) >= 3)

    await scene.nats.kill()
    await scene.nats.start()
    await control.make_streams()
    await asyncio.wait_for(reading, PATIENCE_S)

    assert [type(e) for e in events if isinstance(e, Terminal)] == [Completed]
    positions = [(e.attempt, e.seq) for e in events]
    assert positions == sorted(set(positions))
    last = events[-1].attempt
    assert [seq for attempt, seq in positions if attempt == last] == list(range(positions[-1][1] + 1))
    assert said(events, last) == TEXT
    assert (await client.complete("mock/echo", "And now?", deadline_s=120)).finish_reason == "stop"
