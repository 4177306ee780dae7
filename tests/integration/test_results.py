"""The end of a request, on disk: known by its id an hour later, in another process, after NATS was restarted."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from nats.aio.msg import Msg
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError

from contracts import results, streams, subjects
from contracts.control import MSG_ID, MSG_TTL
from contracts.events import Completed, Delta, Failed, Terminal, parse
from contracts.providers import Limits
from contracts.subjects import Priority
from fleet.client import Client
from fleet.local.servers import NatsServer
from tests.kit import Bill, Plane, plane, worker, worker_settings
from tests.patience import PATIENCE_S, until
from tests.servers import Vault
from workers.request.results import NOT_KEPT


class Agent:
    """Speaks the contract with nats-py alone, and hears everything that is said to it."""

    def __init__(self, control: Plane) -> None:
        self._control = control
        self.heard: list[bytes] = []
        self._sent = 0

    async def listen(self) -> None:
        async def note(msg: Msg) -> None:
            self.heard.append(msg.data)

        await self._control.client.subscribe(f"llm.v1.reply.{self._control.tenant}.raw.>", cb=note)
        await self._control.client.flush()

    async def send(self, request_id: str = "r1", *, to: str = "mock", **fields: Any) -> None:
        """Each time under another message id, so that JetStream takes it."""
        self._sent += 1
        body = {
            "id": request_id,
            "tenant": self._control.tenant,
            "agent": "raw",
            "model": "mock/echo",
            "messages": [{"role": "user", "content": "Hi"}],
            **fields,
        }
        subject = subjects.request(to, Priority.INTERACTIVE, self._control.tenant)
        headers = {MSG_ID: f"{self._control.tenant}-{self._sent}"}
        await self._control.client.jetstream().publish(subject, json.dumps(body).encode(), headers=headers)

    @property
    def ends(self) -> list[bytes]:
        return [data for data in self.heard if isinstance(parse(data), Terminal)]

    async def hears_ends(self, count: int) -> bytes:
        """Waits for so many ends; the last one."""
        await until(lambda: len(self.ends) >= count)
        assert len(self.ends) == count
        return self.ends[-1]


async def kept(control: Plane, request_id: str = "r1", *, agent: str = "raw") -> RawStreamMsg:
    """The result, once it is stored."""
    subject = subjects.result(control.tenant, agent, request_id)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await control.client.jetstream().get_last_msg(streams.RESULTS, subject)
            except NotFoundError:
                await asyncio.sleep(0.02)


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
    await stack.enter_async_context(worker(worker_settings(nats.url, vault, llm_result_retention_s=3600)))
    return control


@pytest.fixture
async def agent(control: Plane) -> Agent:
    agent = Agent(control)
    await agent.listen()
    return agent


@pytest.fixture
async def bill(stack: AsyncExitStack, control: Plane) -> Bill:
    return await stack.enter_async_context(Bill.watch(control.client, control.tenant))


async def test_the_end_is_stored_as_its_agent_heard_it(control: Plane, agent: Agent) -> None:
    await agent.send()
    said = await agent.hears_ends(1)

    result = await kept(control)

    assert result.data == said
    assert result.headers is not None
    assert result.headers[MSG_TTL] == "3600"
    assert results.read(result.headers[results.FIELDS]).keys() == {"model", "messages"}


async def test_an_agent_that_was_away_gets_its_answer_after_nats_has_forgotten_what_was_said(
    control: Plane, nats: NatsServer
) -> None:
    async with Client(nats.url, tenant=control.tenant, agent="tester") as client:
        done = await client.complete("mock/echo", "Hi", provider_options={"mock": {"text": "one two three"}})
        await kept(control, done.request_id, agent="tester")

    await nats.kill()
    await nats.start()
    await control.make_streams()

    async with Client(nats.url, tenant=control.tenant, agent="tester") as client:
        events = [event async for event in client.resume(done.request_id, deadline_s=60)]
    assert events[-1] == done


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_copy_is_answered_with_the_end_that_is_kept_and_calls_nobody(
    control: Plane, nats: NatsServer, agent: Agent, bill: Bill, restarted: bool
) -> None:
    await agent.send()
    said = await agent.hears_ends(1)
    await kept(control)
    if restarted:
        await nats.kill()
        await nats.start()
        await control.make_streams()
        await until(lambda: control.client.is_connected)
    already = len(agent.ends)  # after a restart workers say once more what ended last

    await agent.send()

    await until(lambda: len(agent.ends) > already)
    assert set(agent.ends) == {said}
    assert len(bill.of("r1")) == 1


async def test_a_copy_is_answered_although_its_tenant_has_used_up_its_limit(
    control: Plane, agent: Agent, bill: Bill
) -> None:
    await control.put_tenant(limits=Limits(requests_per_minute=0, requests_per_day=2))
    await agent.send("r1")
    said = await agent.hears_ends(1)
    await kept(control)

    for copies in range(1, 4):  # none of them counts
        await agent.send("r1")
        await agent.hears_ends(1 + copies)
    await agent.send("r2")
    await agent.hears_ends(5)
    await agent.send("r3")
    refused = parse(await agent.hears_ends(6))
    await agent.send("r1")
    again = await agent.hears_ends(7)

    assert isinstance(refused, Failed)
    assert refused.error.code == "tenant_rate_limited"
    assert again == said
    assert (len(bill.of("r1")), len(bill.of("r2")), len(bill.of("r3"))) == (1, 1, 0)


async def test_a_copy_is_answered_although_its_model_is_served_no_more(control: Plane, agent: Agent) -> None:
    await agent.send()
    said = await agent.hears_ends(1)
    await kept(control)
    await control.put_provider("mock", {"models": ["another"]}, is_default=True)
    await agent.send("r2")
    assert isinstance(parse(await agent.hears_ends(2)), Failed)

    await agent.send()

    assert await agent.hears_ends(3) == said


@pytest.mark.parametrize("to", ["mock", "auto"])
async def test_another_request_with_the_same_id_is_refused_and_leaves_no_trace(
    control: Plane, agent: Agent, bill: Bill, to: str
) -> None:
    await agent.send(temperature=0.5)
    await agent.hears_ends(1)
    stored = await kept(control)

    await agent.send(temperature=0.7, to=to)
    refused = parse(await agent.hears_ends(2))

    assert isinstance(refused, Failed)
    assert refused.error.code == "invalid_request"
    assert "temperature" in refused.error.message
    assert (await kept(control)).data == stored.data
    assert len(bill.of("r1")) == 1
    replies = await control.client.jetstream().get_last_msg(
        streams.REPLIES, subjects.reply(control.tenant, "raw", "r1")
    )
    assert replies.data == stored.data, "who resumes sees one end"


async def test_what_failed_and_may_do_better_runs_again_and_its_attempts_count_on(
    control: Plane, agent: Agent, bill: Bill
) -> None:
    broken = {"mock": {"fail": {"code": "overloaded", "times": 3}}}
    await agent.send(provider_options=broken)
    failed = parse(await agent.hears_ends(1))
    assert isinstance(failed, Failed)
    assert failed.error.retryable
    assert failed.attempt == 3
    await kept(control)

    await agent.send(provider_options=broken)
    done = parse(await agent.hears_ends(2))

    assert isinstance(done, Completed | Failed)
    assert done.attempt > failed.attempt
    await until(lambda: len(bill.of("r1")) >= done.attempt)
    assert [record.attempt for record in bill.of("r1")] == list(range(1, done.attempt + 1))
    await until_kept(control, agent.ends[-1])


async def until_kept(control: Plane, said: bytes) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while (await kept(control)).data != said:
            await asyncio.sleep(0.02)


async def test_an_end_without_its_content_still_answers_copies(control: Plane, agent: Agent, bill: Bill) -> None:
    await agent.send(keep_s=0)
    said = parse(await agent.hears_ends(1))
    assert isinstance(said, Completed)
    assert said.message.content

    result = await kept(control)

    assert result.data is not None
    bare = parse(result.data)
    assert isinstance(bare, Completed)
    assert bare.message.content is None
    assert (bare.usage, bare.cost, bare.attempt, bare.seq) == (said.usage, said.cost, said.attempt, said.seq)
    assert NOT_KEPT in bare.warnings
    await agent.send(keep_s=0)
    assert await agent.hears_ends(2) == result.data
    assert len(bill.of("r1")) == 1


async def test_the_tenants_bound_holds_and_is_told(control: Plane, agent: Agent) -> None:
    await control.put_tenant(max_keep_s=60)
    await agent.send(keep_s=7200)
    said = parse(await agent.hears_ends(1))

    result = await kept(control)

    assert isinstance(said, Completed)
    assert ["60 s" in warning for warning in said.warnings] == [True]
    assert (result.headers or {})[MSG_TTL] == "60"


async def test_a_resumed_stream_has_its_deltas_while_they_are_known_and_then_its_end(
    control: Plane, agent: Agent
) -> None:
    await agent.send(provider_options={"mock": {"text": "one two"}})
    said = await agent.hears_ends(1)
    await kept(control)
    whole = await resume(control)
    assert [type(parse(data)) for data in whole].count(Delta) == 2

    await control.client.jetstream().purge_stream(streams.REPLIES)

    assert await resume(control) == [said]
    end = parse(said)
    assert await resume(control, after=(end.attempt, end.seq)) == []


async def test_an_end_that_was_said_by_a_worker_that_had_lost_the_request_is_not_resumed(
    control: Plane, agent: Agent
) -> None:
    await agent.send(provider_options={"mock": {"text": "one two"}})
    said = parse(await agent.hears_ends(1))
    result = await kept(control)
    assert isinstance(said, Completed)
    counts = said.model_copy(update={"attempt": 4}).to_json()
    await control.client.jetstream().publish(result.subject or "", counts)

    whole = await resume(control)

    assert [type(parse(data)) for data in whole].count(Delta) == 2
    assert [data for data in whole if isinstance(parse(data), Terminal)] == [counts]


async def resume(control: Plane, *, after: tuple[int, int] = (0, -1)) -> list[bytes]:
    """What is stored of `r1` after a position."""
    inbox, answers = control.client.new_inbox(), list[bytes]()

    async def note(msg: Msg) -> None:
        answers.append(msg.data)

    await control.client.subscribe(inbox, cb=note)
    ask = json.dumps({"request_id": "r1", "agent": "raw", "after": after}).encode()
    await control.client.publish(subjects.resume(control.tenant), ask, reply=inbox)
    await until(lambda: bool(answers) and answers[-1] == b"")
    return answers[:-1]
