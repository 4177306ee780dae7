"""The journal of vendor calls on a real NATS: every call has a row, and a request that comes twice is run once."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any

import pytest

from contracts import streams, subjects
from contracts.control import MSG_ID, message_id
from contracts.events import Completed, Event, Failed, Started, Terminal, parse
from contracts.providers import Limits
from contracts.subjects import Priority
from fleet.client import Client
from runtime.jetstream import direct_get
from tests.kit import Bill, Plane, connected, plane, worker, worker_settings
from tests.patience import until
from tests.servers import Vault

SLOWLY = {"mock": {"text": "word " * 30, "between_s": 0.05}}


@pytest.fixture
async def stack(nats_url: str, vault: Vault) -> AsyncGenerator[AsyncExitStack]:
    """Closed before the servers stop."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def control(stack: AsyncExitStack, nats_url: str, vault: Vault, tenant: str) -> Plane:
    """Two workers are at work, and the tenant has the mock provider."""
    for _ in range(2):
        await stack.enter_async_context(worker(worker_settings(nats_url, vault)))
    control = await stack.enter_async_context(plane(nats_url, vault, tenant))
    await control.put_tenant()
    await control.put_provider("mock", is_default=True)
    return control


@pytest.fixture
async def bill(stack: AsyncExitStack, control: Plane) -> Bill:
    return await stack.enter_async_context(Bill.watch(control.client, control.tenant))


@pytest.fixture
async def events(control: Plane) -> list[tuple[str, Event]]:
    """The events of all agents of the tenant, each with its agent."""
    heard: list[tuple[str, Event]] = []

    async def note(msg: Any) -> None:
        heard.append((msg.subject.split(".")[4], parse(msg.data)))

    await control.client.subscribe(f"llm.v1.reply.{control.tenant}.>", cb=note)
    await control.client.flush()
    return heard


async def send(control: Plane, *, agent: str = "raw", msg_id: str, **fields: Any) -> bool:
    """Publishes a request with the id `r1`; whether JetStream takes it for one that it knows."""
    body = {
        "id": "r1",
        "tenant": control.tenant,
        "agent": agent,
        "model": "mock/echo",
        "messages": [{"role": "user", "content": "Hi"}],
        **fields,
    }
    subject = subjects.request("mock", Priority.INTERACTIVE, control.tenant)
    stored = await control.client.jetstream().publish(subject, json.dumps(body).encode(), headers={MSG_ID: msg_id})
    return bool(stored.duplicate)


def ends(events: list[tuple[str, Event]]) -> int:
    return sum(1 for _, event in events if isinstance(event, Terminal))


async def until_the_queue_is_empty(control: Plane) -> None:
    async def waiting() -> int:
        return (await control.client.jetstream().stream_info(streams.REQUESTS)).state.messages

    while await waiting():
        await asyncio.sleep(0.02)


async def test_one_id_under_twenty_names_has_twenty_rows(
    control: Plane, bill: Bill, events: list[tuple[str, Event]]
) -> None:
    for number in range(20):
        assert not await send(control, agent=f"agent-{number}", msg_id=f"m{number}-{control.tenant}")

    await until(lambda: ends(events) == len(bill.records) == 20)
    assert len({record.id for record in bill.records}) == 20
    assert {record.request_id for record in bill.records} == {"r1"}


async def test_a_request_that_comes_under_many_message_ids_at_once_is_run_once(
    control: Plane, bill: Bill, events: list[tuple[str, Event]]
) -> None:
    own = message_id(control.tenant, "raw", "r1")
    ids = [own, f"{control.tenant}-r1", *(f"{own}.{number}" for number in range(6))]
    await asyncio.gather(*(send(control, msg_id=each, stream=True, provider_options=SLOWLY) for each in ids))

    await until(lambda: ends(events) >= 1)
    async with asyncio.timeout(60):
        await until_the_queue_is_empty(control)

    said = {event.to_json(): type(event) for _, event in events if isinstance(event, Started | Terminal)}
    assert list(said.values()) == [Started, Completed], "copies are answered with the end of the one that was run"
    assert len(bill.of("r1")) == 1, "no copy books what another one does"


async def test_the_journal_names_the_records(control: Plane, bill: Bill, nats_url: str) -> None:
    async with Client(nats_url, tenant=control.tenant, agent="tester") as client:
        done = await client.complete(
            "mock/echo", "Hi", provider_options={"mock": {"fail": {"code": "overloaded", "times": 1}}}
        )
    await until(lambda: len(bill.of(done.request_id)) == 2)

    subject = subjects.attempt(control.tenant, "tester", done.request_id)
    async with (
        connected(nats_url) as broker,
        aclosing(direct_get.messages(broker, stream=streams.ATTEMPTS, subject=subject)) as found,
    ):
        entries = [json.loads(entry.data) async for entry in found]
    assert [(entry["type"], entry["attempt"]) for entry in entries] == [("begun", 1), ("begun", 2)]
    assert [entry["id"] for entry in entries] == [record.id for record in bill.of(done.request_id)]


async def test_a_message_id_that_somebody_else_has_used_is_in_nobodys_way(
    control: Plane, bill: Bill, nats_url: str, events: list[tuple[str, Event]]
) -> None:
    """Of another tenant, say: JetStream compares message ids over all of them."""
    assert not await send(control, agent="thief", msg_id=message_id(control.tenant, "tester", "r1"))

    async with Client(nats_url, tenant=control.tenant, agent="tester") as client:
        done = await client.complete("mock/echo", "Hi", id="r1")

    assert done.message.content == "You said: Hi"
    await until(lambda: len(bill.of("r1")) == 2)
    assert {record.agent for record in bill.records} == {"thief", "tester"}


async def test_what_is_malformed_counts_and_is_kept_only_within_the_limits(
    control: Plane, events: list[tuple[str, Event]]
) -> None:
    await control.put_tenant(limits=Limits(requests_per_day=2))
    before = (await control.client.jetstream().stream_info(streams.DEAD)).state.messages
    for number in range(5):
        await send(control, msg_id=f"bad{number}-{control.tenant}", messages="none")

    await until(lambda: ends(events) == 5)

    codes = sorted(event.error.code for _, event in events if isinstance(event, Failed))
    assert codes == ["malformed_request"] * 2 + ["tenant_rate_limited"] * 3
    assert (await control.client.jetstream().stream_info(streams.DEAD)).state.messages == before + 2
