"""The main job on real servers: a request in, events and a usage record out."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from contracts import streams
from contracts.events import Completed, Delta, Event, Failed, Retrying, Started
from contracts.subjects import Priority
from fleet.client import Client
from tests.kit import Bill, Plane, plane, worker, worker_settings
from tests.patience import until
from tests.servers import Vault


@dataclass(frozen=True, slots=True)
class Desk:
    """An agent, the control plane and the bill of one tenant, with a worker at work."""

    client: Client
    plane: Plane
    bill: Bill
    nats_url: str


@pytest.fixture
async def desk(nats_url: str, vault: Vault, tenant: str) -> AsyncGenerator[Desk]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(worker(worker_settings(nats_url, vault)))
        control = await stack.enter_async_context(plane(nats_url, vault, tenant))
        await control.put_tenant()
        await control.put_provider("mock", is_default=True)
        bill = await stack.enter_async_context(Bill.watch(control.client, tenant))
        client = await stack.enter_async_context(Client(nats_url, tenant=tenant, agent="tester"))
        yield Desk(client, control, bill, nats_url)


async def test_streams_a_completion_and_books_it(desk: Desk) -> None:
    events: list[Event] = [event async for event in desk.client.stream("mock/echo", "Hello there")]

    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Completed)
    assert [(e.attempt, e.seq) for e in events] == [(1, n) for n in range(len(events))]
    said = "".join(e.text or "" for e in events if isinstance(e, Delta))
    assert said == events[-1].message.content
    await until(lambda: len(desk.bill.of(events[0].request_id)) == 1)
    (booked,) = desk.bill.of(events[0].request_id)
    assert (booked.request_id, booked.attempt) == (events[0].request_id, 1)
    assert booked.usage == events[-1].usage
    assert booked.provider_id == desk.plane.provider_ids["mock"]


async def test_retries_a_failure_before_the_first_token(desk: Desk) -> None:
    script = {"mock": {"text": "at last", "fail": {"code": "overloaded", "times": 1}}}

    events = [event async for event in desk.client.stream("mock/echo", "Hello", provider_options=script)]

    assert [type(e) for e in events if not isinstance(e, Delta)] == [Started, Retrying, Started, Completed]
    assert [e.attempt for e in events if isinstance(e, Started)] == [1, 2]
    await until(lambda: len(desk.bill.of(events[0].request_id)) == 2)
    assert [r.outcome for r in desk.bill.of(events[0].request_id)] == ["failed", "completed"]


async def test_says_which_error_ended_a_request(desk: Desk) -> None:
    script = {"mock": {"fail": {"code": "invalid_request", "times": 9}}}

    events = [event async for event in desk.client.stream("mock/echo", "Hello", provider_options=script)]

    assert isinstance(events[-1], Failed)
    assert events[-1].error.code == "invalid_request"
    assert [a.error.code for a in events[-1].attempts] == ["invalid_request"]


async def test_a_message_that_is_given_again_while_it_is_worked_on_is_worked_on_once(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """As by a server that was killed before it had written down whom it gave what."""
    caplog.set_level(logging.INFO, "workers.request.ending")
    script = {"mock": {"text": "one two three four five six", "between_s": 0.5}}
    events: list[Event] = []

    def ended() -> int:
        return [record.message for record in caplog.records].count("request_ended")

    async def read() -> None:
        async for event in desk.client.stream("mock/echo", "Hello", provider_options=script):
            events.append(event)  # noqa: PERF401 - the test looks into the list meanwhile

    reading = asyncio.create_task(read())
    await until(lambda: any(isinstance(event, Delta) for event in events))
    jetstream = desk.plane.client.jetstream()
    name = streams.pool_consumer("mock", Priority.INTERACTIVE)
    await jetstream.delete_consumer(streams.REQUESTS, name)
    await desk.plane.make_streams()

    async with asyncio.timeout(90):
        while not (await jetstream.consumer_info(streams.REQUESTS, name)).num_ack_pending:
            await asyncio.sleep(0.01)
        await reading
        while (await jetstream.stream_info(streams.REQUESTS)).state.messages:
            await asyncio.sleep(0.01)

    assert [type(event) for event in events if not isinstance(event, Delta)] == [Started, Completed]
    longer = {"mock": {"text": "one two three four", "between_s": 1}}  # than a second run of the first would take
    await desk.client.complete("mock/echo", "And this?", provider_options=longer)
    await until(lambda: ended() >= 2)
    assert ended() == 2
    assert [record.attempt for record in desk.bill.of(events[0].request_id)] == [1]
