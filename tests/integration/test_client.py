"""The thin client on a real NATS, with a worker behind it: whose a request is, and what the client asks."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
from nats.aio.msg import Msg

from contracts.events import Cancelled, Completed, Delta, Event, Started, Terminal, parse
from contracts.requests import AssistantMessage, UserMessage
from contracts.usage import Outcome
from fleet.client import (
    Client,
    MalformedRequest,
    NoProvider,
    Patience,
    ProviderUnavailable,
    Stream,
    UnknownModel,
)
from fleet.simulator.server import Simulator
from tests.kit import Bill, Plane, plane, worker, worker_settings
from tests.patience import until
from tests.servers import Vault

SLOWLY: dict[str, Any] = {"provider_options": {"mock": {"text": "word " * 10_000, "between_s": 0.01}}}


@pytest.fixture
async def stack(nats_url: str, vault: Vault) -> AsyncGenerator[AsyncExitStack]:
    """Closed before the servers stop."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def control(stack: AsyncExitStack, nats_url: str, vault: Vault, tenant: str) -> Plane:
    """A worker is at work, and the tenant has the mock provider."""
    await stack.enter_async_context(worker(worker_settings(nats_url, vault)))
    control = await stack.enter_async_context(plane(nats_url, vault, tenant))
    await control.put_tenant(aliases={"fast": ["mock/echo"]})
    await control.put_provider("mock", is_default=True)
    return control


@pytest.fixture
async def bill(stack: AsyncExitStack, control: Plane) -> Bill:
    return await stack.enter_async_context(Bill.watch(control.client, control.tenant))


@pytest.fixture
async def client(stack: AsyncExitStack, control: Plane, nats_url: str) -> Client:
    return await stack.enter_async_context(Client(nats_url, tenant=control.tenant, agent="tester"))


class Replies:
    """What the agent is told, seen from beside it."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def listen(self, control: Plane) -> None:
        async def note(msg: Msg) -> None:
            self.events.append(parse(msg.data))

        await control.client.subscribe(f"llm.v1.reply.{control.tenant}.>", cb=note)
        await control.client.flush()

    async def ends(self) -> list[type[Event]]:
        """The kinds of the events that ended requests, when there is one."""
        await until(lambda: any(isinstance(event, Terminal) for event in self.events))
        return [type(event) for event in self.events if isinstance(event, Terminal)]


@pytest.fixture
async def replies(control: Plane) -> Replies:
    replies = Replies()
    await replies.listen(control)
    return replies


async def booked(bill: Bill, request_id: str) -> list[Outcome]:
    await until(lambda: bool(bill.of(request_id)))
    return [record.outcome for record in bill.of(request_id)]


async def test_a_block_reads_its_request_to_the_end(client: Client, bill: Bill) -> None:
    async with client.stream("mock/echo", "Hello there") as events:
        kinds = [type(event) async for event in events]

    assert kinds == [Started, *[Delta] * (len(kinds) - 2), Completed]
    assert await booked(bill, events.request_id) == [Outcome.COMPLETED]


async def test_a_block_publishes_when_it_begins(client: Client, replies: Replies) -> None:
    async with client.stream("mock/echo", "Hello there"):
        assert await replies.ends() == [Completed], "though nobody reads"


async def test_the_deadline_counts_from_the_publishing(client: Client, replies: Replies) -> None:
    stream = client.stream("mock/echo", "Hello there", deadline_s=0.5)
    await asyncio.sleep(0.6)

    assert [type(event) async for event in stream][-1] is Completed


@pytest.mark.parametrize("how", ["break", "exception"])
async def test_a_block_that_is_left_early_cancels_its_request(
    client: Client, replies: Replies, bill: Bill, how: str
) -> None:
    stream = client.stream("mock/echo", "Hi", **SLOWLY)
    with suppress(LookupError):
        async with stream as events:
            async for event in events:
                if isinstance(event, Delta) and how == "break":
                    break
                if isinstance(event, Delta):
                    raise LookupError

    assert await replies.ends() == [Cancelled]
    assert await booked(bill, stream.request_id) == [Outcome.CANCELLED]


async def test_waiting_for_an_answer_no_longer_cancels_its_request(
    client: Client, replies: Replies, bill: Bill
) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.complete("mock/echo", "Hi", id="r1", **SLOWLY), 0.5)

    assert time.monotonic() - began < 5
    assert await replies.ends() == [Cancelled]
    assert await booked(bill, "r1") == [Outcome.CANCELLED]


@pytest.mark.parametrize("in_a_block", [True, False])
async def test_a_task_that_is_cancelled_while_it_reads_cancels_its_request(
    client: Client, replies: Replies, bill: Bill, *, in_a_block: bool
) -> None:
    stream = client.stream("mock/echo", "Hi", **SLOWLY)

    async def read(events: Stream) -> None:
        async for _ in events:
            pass

    async def read_in_a_block() -> None:
        async with stream as events:
            await read(events)

    reading = asyncio.create_task(read_in_a_block() if in_a_block else read(stream))
    await until(lambda: any(isinstance(event, Delta) for event in replies.events))
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading

    assert await replies.ends() == [Cancelled]
    assert await booked(bill, stream.request_id) == [Outcome.CANCELLED]


async def test_the_call_of_the_vendor_is_stopped(
    stack: AsyncExitStack, nats_url: str, vault: Vault, tenant: str
) -> None:
    vendor = await stack.enter_async_context(Simulator())
    await stack.enter_async_context(worker(worker_settings(nats_url, vault, "openai"), "openai"))
    control = await stack.enter_async_context(plane(nats_url, vault, tenant))
    await control.put_tenant()
    await control.put_provider("openai", {"base_url": vendor.url + "/openai/v1"}, key="sk-test")
    replies = Replies()
    await replies.listen(control)
    client = await stack.enter_async_context(Client(nats_url, tenant=tenant))
    script = {"simulate": {"chunks": 2_000, "between_s": 0.02}}

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(
            client.complete("openai/gpt-4o-mini", "Hi", stream=True, provider_options={"openai": script}), 1.5
        )

    assert await replies.ends() == [Cancelled]
    await until(lambda: [call.outcome for call in vendor.ledger.of_model("gpt-4o-mini")] == ["hung_up"])


async def test_a_bare_loop_that_is_left_leaves_its_request_running(client: Client, replies: Replies) -> None:
    async for _ in client.stream("mock/echo", "Hello there"):
        break

    assert await replies.ends() == [Completed]


async def test_a_task_that_resumes_does_not_cancel_the_request_of_another(
    client: Client, control: Plane, replies: Replies, nats_url: str
) -> None:
    stream = client.stream("mock/echo", "Hi", provider_options={"mock": {"text": "a b c d e f", "between_s": 0.2}})
    await anext(stream)

    async def watch() -> None:
        async with Client(nats_url, tenant=control.tenant, agent="tester") as watcher:
            async for _ in watcher.resume(stream.request_id):
                watching.set()

    watching = asyncio.Event()
    task = asyncio.create_task(watch())
    await watching.wait()
    task.cancel()

    assert await replies.ends() == [Completed]
    assert [type(event) async for event in stream][-1] is Completed


@pytest.mark.parametrize("model", ["mock/echo", "mock"])
async def test_counts_tokens_as_the_completion_does(client: Client, model: str) -> None:
    messages = [UserMessage(content="Hi"), AssistantMessage(content="Hello"), {"role": "user", "content": "And now?"}]

    counted = await client.count_tokens(model, messages)
    answer = await client.complete("mock/echo", messages)

    assert counted.input_tokens == answer.usage.input_tokens


async def test_counts_tokens_of_an_alias_where_the_provider_is_named(client: Client) -> None:
    counted = await client.count_tokens("fast", "Hi", provider="mock")

    assert counted == await client.count_tokens("mock/echo", "Hi")


async def test_tools_count_as_well(client: Client) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "description": "The weather of a town"}}]

    with_tools = await client.count_tokens("mock/echo", "Hi", tools=tools)

    assert with_tools.input_tokens > (await client.count_tokens("mock/echo", "Hi")).input_tokens


async def test_estimates_the_most_that_a_call_can_cost(client: Client, control: Plane) -> None:
    assert (await client.estimate_cost("mock/echo", "Hi", max_tokens=100)).cost is None, "no price is known"
    await control.put_tenant(prices={"mock/echo": {"input_mtok": "0", "output_mtok": "1000000"}})

    async def cost() -> str | None:
        estimate = await client.estimate_cost("mock/echo", "Hi", max_tokens=100)
        return estimate.cost and str(estimate.cost.amount)

    give_up = time.monotonic() + 10
    while (told := await cost()) is None and time.monotonic() < give_up:
        await asyncio.sleep(0.05)  # the worker hears of prices a moment later
    assert told == "100"


async def test_tells_the_models_of_a_provider(client: Client) -> None:
    assert [model.id for model in await client.models("mock")] == ["echo"]


async def test_questions_raise_what_the_fleet_refuses_them_for(client: Client, control: Plane, nats_url: str) -> None:
    await control.put_provider("mock", {"models": ["echo"]})

    async def ask_till_the_worker_has_heard_of_it() -> None:
        give_up = time.monotonic() + 10
        while time.monotonic() < give_up:
            await client.count_tokens("mock/parrot", "Hi")

    with pytest.raises(UnknownModel):
        await ask_till_the_worker_has_heard_of_it()
    async with Client(nats_url, tenant=control.tenant, patience=Patience(answer_s=2)) as hasty:
        with pytest.raises(ProviderUnavailable, match="no worker of the pool ollama"):
            await hasty.models("ollama")
        with pytest.raises(MalformedRequest, match="bytes"):
            await hasty.count_tokens("mock/echo", "x" * 9 * 1024 * 1024)


async def test_a_tenant_without_the_provider_is_told_so(client: Client, nats_url: str, control: Plane) -> None:
    other = Plane(control.client, control.vault, f"{control.tenant}-b")
    await other.put_tenant()
    async with Client(nats_url, tenant=other.tenant) as stranger:
        with pytest.raises(NoProvider, match="mock"):
            await stranger.estimate_cost("mock/echo", "Hi")


async def test_a_block_raises_what_publishing_raises(client: Client) -> None:
    with pytest.raises(MalformedRequest, match="bytes"):
        async with client.stream("mock/echo", "x" * 9 * 1024 * 1024):
            raise AssertionError("it was published")
