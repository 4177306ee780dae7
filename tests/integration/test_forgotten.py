"""What a NATS server that is started anew has forgotten: whom it gave a request, and that it had it before."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest
from nats.aio.msg import Msg

from contracts import streams, subjects
from contracts.control import MSG_ID
from contracts.events import Completed, Event, Started, Terminal, parse
from contracts.requests import CompletionRequest, UserMessage
from contracts.subjects import Priority
from fleet.client import Client
from fleet.local.servers import NatsServer
from runtime.jetstream.publishing import Publisher
from tests.kit import Plane, connected, plane, worker, worker_settings
from tests.patience import PATIENCE_S, until
from tests.servers import Vault
from workers.app import Timing
from workers.clock import Clock
from workers.intake.lease import Lost
from workers.jetstream.server_memory import ids_known_from


@pytest.fixture
async def stack(nats: NatsServer, vault: Vault) -> AsyncGenerator[AsyncExitStack]:
    """Closed before the servers stop."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def control(stack: AsyncExitStack, nats: NatsServer, vault: Vault, tenant: str) -> Plane:
    control = await stack.enter_async_context(plane(nats.url, vault, tenant))
    await control.make_streams()
    await control.put_tenant()
    await control.put_provider("mock", is_default=True)
    return control


async def restart(nats: NatsServer, control: Plane) -> None:
    await nats.kill()
    await nats.start()
    await control.make_streams()


class Ear:
    """Everything that is said on reply subjects, and every request as it was published."""

    def __init__(self, control: Plane) -> None:
        self._control = control
        self.events: list[Event] = []
        self.requests: list[Msg] = []

    async def listen(self) -> None:
        async def event(msg: Msg) -> None:
            self.events.append(parse(msg.data))

        async def request(msg: Msg) -> None:
            self.requests.append(msg)

        await self._control.client.subscribe(f"llm.v1.reply.{self._control.tenant}.>", cb=event)
        await self._control.client.subscribe("llm.v1.request.>", cb=request)
        await self._control.client.flush()

    def ended(self, request_id: str) -> bool:
        return any(isinstance(event, Terminal) and event.request_id == request_id for event in self.events)

    def starts(self, request_id: str) -> set[datetime]:
        """When calls for it began. What is said again says the same."""
        return {event.at for event in self.events if isinstance(event, Started) and event.request_id == request_id}


async def ask(control: Plane, request_id: str, *, to: str) -> None:
    request = CompletionRequest(
        id=request_id,
        tenant=control.tenant,
        agent="tester",
        model="mock/echo",
        messages=(UserMessage(role="user", content="Hi"),),
    )
    await publish(control, to, request.to_json(), {MSG_ID: request_id})


async def publish(control: Plane, to: str, payload: bytes, headers: dict[str, str]) -> None:
    subject = subjects.request(to, Priority.INTERACTIVE, control.tenant)
    ack = await control.client.jetstream().publish(subject, payload, headers=headers)
    assert not ack.duplicate


async def until_stored(control: Plane, messages: int = 1) -> None:
    """So many requests are in the queue."""
    async with asyncio.timeout(PATIENCE_S):
        while (await control.client.jetstream().stream_info(streams.REQUESTS)).state.messages != messages:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("by", ["its agent", "the worker that handed it over"])
async def test_a_copy_that_a_restarted_server_takes_runs_no_second_time(
    stack: AsyncExitStack, control: Plane, nats: NatsServer, vault: Vault, by: str
) -> None:
    """As from somebody who was cut off when the first one was stored, and has not heard of it."""
    await stack.enter_async_context(worker(worker_settings(nats.url, vault)))
    ear = Ear(control)
    await ear.listen()
    await ask(control, "r1", to="mock" if by == "its agent" else "auto")
    await until(lambda: ear.ended("r1"))
    await until_stored(control, 0)
    (copy,) = [msg for msg in ear.requests if ".mock." in msg.subject]

    await restart(nats, control)
    await ask(control, "r2", to="mock")
    await until(lambda: ear.ended("r2"))
    await publish(control, "mock", copy.data, copy.headers or {})
    await until_stored(control, 0)

    assert len(ear.starts("r1")) == len(ear.starts("r2")) == 1
    assert {type(event) for event in ear.events if isinstance(event, Terminal)} == {Completed}


async def test_no_number_is_used_that_a_restarted_server_may_have_forgotten(
    stack: AsyncExitStack, control: Plane, nats: NatsServer, vault: Vault
) -> None:
    """By a worker that died with the server: the agent has seen it, and reads nothing more that bears it."""
    client = await stack.enter_async_context(Client(nats.url, tenant=control.tenant, agent="tester"))
    stream = client.stream("mock/echo", "Hi", id="r1", deadline_s=60)
    reading = asyncio.create_task(anext(stream))
    await until_stored(control)
    said = {"request_id": "r1", "attempt": 2, "seq": 0, "type": "delta", "text": "a"}
    await control.client.publish(subjects.reply(control.tenant, "tester", "r1"), json.dumps(said).encode())
    await reading

    await restart(nats, control)
    await stack.enter_async_context(worker(worker_settings(nats.url, vault), timing=Timing(republished_s=0)))
    last = [event async for event in stream][-1]

    assert isinstance(last, Completed)
    assert last.attempt > 2


async def test_ids_are_known_from_the_beginning_until_a_server_is_started_anew(
    stack: AsyncExitStack, control: Plane, nats: NatsServer
) -> None:
    connection = await stack.enter_async_context(connected(nats.url))
    assert await ids_known_from(connection, clock=Clock()) < datetime.now(UTC)

    await restart(nats, control)
    await until(lambda: connection.reconnects == 1 and connection.connected)

    known_from = await ids_known_from(connection, clock=Clock(), made_within=timedelta(0))
    in_s = (known_from - datetime.now(UTC)).total_seconds()
    assert streams.REQUEST_IDS_KNOWN_S - PATIENCE_S < in_s <= streams.REQUEST_IDS_KNOWN_S


async def test_what_is_not_stored_is_not_tried_again_by_who_may_have_lost_it(
    stack: AsyncExitStack, control: Plane, nats: NatsServer
) -> None:
    connection = await stack.enter_async_context(connected(nats.url))
    checks: list[None] = []

    def check() -> None:
        checks.append(None)
        if len(checks) > 1:
            raise Lost

    await nats.kill()
    subject = subjects.request("mock", Priority.INTERACTIVE, control.tenant)
    with pytest.raises(Lost):
        await Publisher(connection).durable(subject, b"{}", msg_id="r1:2:mock", check=check)

    assert len(checks) == 2
    await nats.start()
