"""What can go wrong with one request, and what its agent and the bill see of it."""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack
from typing import Any

import nats
import pytest
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from contracts import streams, subjects
from contracts.control import DEAD_CODE, DEAD_SUBJECT, MSG_ID, REPLAY, signed_replay
from contracts.errors import InvalidRequest
from contracts.events import (
    Cancelled,
    Completed,
    Delta,
    Event,
    Failed,
    Retrying,
    Started,
    Terminal,
    parse,
)
from contracts.requests import MAX_REQUEST_BYTES
from contracts.subjects import Priority
from fleet.client import Client, Patience
from runtime.sealing import Keyring
from runtime.settings import decode_key
from tests.kit import SEALING_KEY, Bill, Plane, plane, worker, worker_settings
from tests.patience import PATIENCE_S, until
from tests.servers import Vault


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
    await control.put_tenant()
    await control.put_provider("mock", is_default=True)
    return control


@pytest.fixture
async def bill(stack: AsyncExitStack, control: Plane) -> Bill:
    return await stack.enter_async_context(Bill.watch(control.client, control.tenant))


@pytest.fixture
async def client(stack: AsyncExitStack, control: Plane, nats_url: str) -> Client:
    return await stack.enter_async_context(Client(nats_url, tenant=control.tenant, agent="tester"))


class Agent:
    """An agent that speaks the contract with nats-py alone."""

    def __init__(self, connection: Nats, tenant: str) -> None:
        self.nats, self.tenant = connection, tenant
        self.events: list[Event] = []

    async def listen(self) -> None:
        async def note(msg: Msg) -> None:
            self.events.append(parse(msg.data))

        await self.nats.subscribe(f"llm.v1.reply.{self.tenant}.raw.>", cb=note)
        await self.nats.flush()

    async def send(self, payload: bytes, *, to: str = "mock", id: str | None = None) -> None:  # noqa: A002
        subject = subjects.request(to, Priority.INTERACTIVE, self.tenant)
        await self.nats.jetstream().publish(subject, payload, headers={MSG_ID: id} if id else None)

    def body(self, **changes: Any) -> bytes:
        usual: dict[str, Any] = {
            "id": "r1",
            "tenant": self.tenant,
            "agent": "raw",
            "model": "mock/echo",
            "messages": [{"role": "user", "content": "Hi"}],
        }
        return json.dumps({**usual, **changes}).encode()

    async def ended(self) -> Terminal:
        await until(lambda: any(isinstance(e, Terminal) for e in self.events))
        (terminal,) = [e for e in self.events if isinstance(e, Terminal)]
        return terminal


@pytest.fixture
async def agent(stack: AsyncExitStack, control: Plane, nats_url: str) -> Agent:
    connection = await nats.connect(nats_url)
    stack.push_async_callback(connection.close)
    agent = Agent(connection, control.tenant)
    await agent.listen()
    return agent


async def dead_letter(control: Plane, provider: str = "mock") -> tuple[bytes, dict[str, str]]:
    jetstream = control.client.jetstream()

    async def count() -> int:
        return (await jetstream.stream_info(streams.DEAD)).state.messages

    found = 0
    for _ in range(200):
        if found := await count():
            break
    assert found == 1
    msg = await jetstream.get_last_msg(streams.DEAD, subjects.dead(provider, control.tenant))
    return msg.data or b"", msg.headers or {}


async def until_stored(control: Plane, stream: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not (await control.client.jetstream().stream_info(stream)).state.messages:
            await asyncio.sleep(0.01)


def scripted(**script: Any) -> dict[str, Any]:
    return {"provider_options": {"mock": script}}


async def test_a_raw_agent_gets_its_stream(agent: Agent) -> None:
    await agent.send(agent.body(**scripted(text="one two three")), id="r1")

    assert isinstance(await agent.ended(), Completed)
    assert isinstance(agent.events[0], Started)
    assert "".join(e.text or "" for e in agent.events if isinstance(e, Delta)) == "one two three"


async def test_without_stream_there_are_no_deltas(agent: Agent) -> None:
    await agent.send(agent.body(stream=False, **scripted(text="one two three")))

    completed = await agent.ended()

    assert isinstance(completed, Completed)
    assert completed.message.content == "one two three"
    assert [type(e) for e in agent.events] == [Started, Completed]


async def test_publishing_twice_runs_once(agent: Agent, bill: Bill) -> None:
    for _ in range(3):
        await agent.send(agent.body(), id="r1")
    await agent.ended()
    await agent.send(agent.body(id="r2"), id="r2")
    await until(lambda: len(bill.of("r2")) == 1)

    assert len(bill.of("r1")) == 1


async def test_a_copy_that_jetstream_cannot_know_runs_no_second_time(agent: Agent, bill: Bill) -> None:
    for _ in range(2):
        await agent.send(agent.body())
        await agent.ended()
    await agent.send(agent.body(id="r2"), id="r2")
    await until(lambda: len(bill.of("r2")) == 1)

    assert {record.attempt for record in bill.of("r1")} == {1}
    assert sum(isinstance(event, Started) and event.request_id == "r1" for event in agent.events) == 1


async def test_a_replayed_request_runs_once_more_under_a_number_of_its_own(agent: Agent, bill: Bill) -> None:
    await agent.send(agent.body(), id="r1")
    await agent.ended()
    subject = subjects.request("mock", Priority.INTERACTIVE, agent.tenant)
    keyring = Keyring([decode_key(SEALING_KEY)])
    proof = keyring.sign(signed_replay("7", subject, agent.body()), purpose=REPLAY)
    await agent.send(agent.body(), id=f"{REPLAY}7:{proof}")

    await until(lambda: len(bill.of("r1")) == 2)

    assert [(record.attempt, record.outcome) for record in bill.of("r1")] == [(1, "completed"), (2, "completed")]


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"shouting": True}, "shouting"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"temperature": 9}, "temperature"),
        ({"tenant": "somebody-else"}, "tenant"),
        ({"model": "openai/gpt-4o"}, "openai"),
    ],
)
async def test_a_bad_request_fails_by_name_and_is_kept(
    agent: Agent, control: Plane, change: dict[str, Any], names: str
) -> None:
    await agent.send(agent.body(**change))

    failed = await agent.ended()

    assert isinstance(failed, Failed)
    assert failed.error.code == "malformed_request"
    assert names in failed.error.message
    data, headers = await dead_letter(control)
    assert data == agent.body(**change)
    assert headers[DEAD_CODE] == "malformed_request"


@pytest.mark.parametrize("payload", [b"", b"not json", b"\xff\xfe", b"[]", b'"x"', b"{}", b"[" * 100_000])
async def test_what_has_no_reply_address_becomes_a_dead_letter(agent: Agent, control: Plane, payload: bytes) -> None:
    await agent.send(payload)

    data, headers = await dead_letter(control)

    assert data == payload
    assert headers[DEAD_SUBJECT] == f"llm.v1.request.mock.interactive.{control.tenant}"
    assert agent.events == []


@pytest.mark.parametrize("to", ["mock", "auto"])
async def test_a_text_that_was_cut_within_a_character_is_answered(agent: Agent, bill: Bill, to: str) -> None:
    """`auto` hands it to a pool, which reads it once more."""
    half = "cut \ud83d"
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": half}}
    messages = [
        {"role": "user", "content": half},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": half},
    ]
    await agent.send(agent.body(messages=messages, metadata={"run": half}), id="r1", to=to)

    completed = await agent.ended()

    assert isinstance(completed, Completed)
    assert completed.message.content == "You said: cut \ufffd"
    await until(lambda: len(bill.of("r1")) == 1)
    assert bill.of("r1")[0].metadata == {"run": "cut \ufffd"}


async def test_the_client_sends_such_a_text_as_well(client: Client, bill: Bill) -> None:
    completed = await client.complete("mock/echo", "cut \ud83d", metadata={"run": "\ud83d\ude00"})

    assert completed.message.content == "You said: cut \ufffd"
    await until(lambda: len(bill.records) == 1)
    assert bill.records[0].metadata == {"run": "😀"}


@pytest.mark.parametrize(
    ("part", "spoilt"),
    [
        (b'"Hi"}]}', b'"H'),
        (b"]}", b"],}"),
        (b'"Hi"', b'"Hi'),
        (b'"Hi"', b'"H\ni"'),
        (b'"', b"'"),
        (b"]}", b'], "temperature": NaN}'),
        (b"]}", b'], "seed": 1e999}'),
        (b"]}", b"]} and more"),
    ],
    ids=["cut off", "a comma too many", "an open quote", "a bare newline", "single quotes", "NaN", "1e999", "a tail"],
)
async def test_what_is_no_json_is_told_to_whom_it_names(
    agent: Agent, control: Plane, part: bytes, spoilt: bytes
) -> None:
    payload = agent.body().replace(part, spoilt)
    await agent.send(payload, id="r1")

    failed = await agent.ended()

    assert isinstance(failed, Failed)
    assert failed.error.code == "malformed_request"
    assert (await dead_letter(control))[0] == payload


async def test_a_request_of_a_megabyte_is_served(agent: Agent) -> None:
    await agent.send(agent.body(messages=[{"role": "user", "content": "x" * 1_000_000}], **scripted(text="long")))

    assert isinstance(await agent.ended(), Completed)


async def test_of_a_large_bad_request_the_beginning_is_kept(agent: Agent, control: Plane) -> None:
    padding = MAX_REQUEST_BYTES - len(agent.body(shouting=""))
    await agent.send(agent.body(shouting="x" * padding))

    assert isinstance(await agent.ended(), Failed)
    data, headers = await dead_letter(control)
    assert headers["Fleet-Dead-Truncated"] == "true"
    assert len(data) == streams.MALFORMED_KEPT_BYTES


async def test_an_answer_larger_than_a_message_fails_and_is_booked(agent: Agent, bill: Bill) -> None:
    script = scripted(chunk_size=1_000_000)
    room = MAX_REQUEST_BYTES - 100 - len(agent.body(messages=[{"role": "user", "content": ""}], **script))
    await agent.send(agent.body(messages=[{"role": "user", "content": "x" * room}], **script))

    failed = await agent.ended()

    assert isinstance(failed, Failed)
    assert failed.error.code == "invalid_request"
    assert failed.usage.output_tokens > 1_000_000
    await until(lambda: len(bill.of("r1")) == 1)
    assert bill.of("r1")[0].outcome == "completed"


async def test_an_answer_for_nothing_is_estimated_in_the_event_and_the_record(agent: Agent, bill: Bill) -> None:
    await agent.send(agent.body(**scripted(text="one two three", usage={"input_tokens": 0, "output_tokens": 0})))

    completed = await agent.ended()

    assert isinstance(completed, Completed)
    assert completed.usage.source == "estimated"
    assert completed.usage.input_tokens > 0
    assert completed.usage.output_tokens >= 3
    await until(lambda: len(bill.of("r1")) == 1)
    assert bill.of("r1")[0].usage == completed.usage


async def test_a_broken_stream_is_booked_with_a_token_for_each_delta_at_least(agent: Agent, bill: Bill) -> None:
    script = scripted(text="a" * 40, chunk_size=1, fail={"code": "invalid_request", "after_chunks": 39})
    await agent.send(agent.body(**script))

    failed = await agent.ended()

    assert isinstance(failed, Failed)
    assert failed.usage.output_tokens == 39
    await until(lambda: len(bill.of("r1")) == 1)
    assert bill.of("r1")[0].usage == failed.usage


async def test_metadata_that_leave_no_room_for_their_record_are_not_booked(agent: Agent, bill: Bill) -> None:
    room = MAX_REQUEST_BYTES - 100 - len(agent.body(metadata={"run": ""}))
    await agent.send(agent.body(metadata={"run": "x" * room}), id="r1")

    assert isinstance(await agent.ended(), Completed)
    await until(lambda: len(bill.of("r1")) == 1)
    assert bill.of("r1")[0].metadata == {}


async def test_an_error_has_a_message_of_bounded_length(agent: Agent) -> None:
    script = scripted(fail={"code": "overloaded", "message": "x" * 3_000_000})
    await agent.send(agent.body(**script))

    failed = await agent.ended()

    assert isinstance(failed, Failed)
    assert len(failed.error.message) == 2000


async def test_an_unknown_tenant_is_told_so(stack: AsyncExitStack, control: Plane, nats_url: str) -> None:
    connection = await nats.connect(nats_url)
    stack.push_async_callback(connection.close)
    stranger = Agent(connection, "stranger")
    await stranger.listen()
    await stranger.send(stranger.body())

    failed = await stranger.ended()

    assert isinstance(failed, Failed)
    assert failed.error.code == "unknown_tenant"


@pytest.mark.parametrize(
    ("model", "to", "code"),
    [
        ("no-such-model", "auto", "unknown_model"),
        ("gpt-4o-mini", "auto", "no_provider"),
        ("claude-3-sonnet", "auto", "no_provider"),
    ],
)
async def test_a_model_that_nobody_serves_fails(agent: Agent, model: str, to: str, code: str) -> None:
    await agent.send(agent.body(model=model), to=to)

    failed = await agent.ended()

    assert isinstance(failed, Failed)
    assert failed.error.code == code
    assert failed.usage.input_tokens == 0


@pytest.mark.parametrize("model", ["mock", "fast", "mock/anything"])
async def test_auto_resolves_providers_aliases_and_prefixes(agent: Agent, control: Plane, model: str) -> None:
    await control.put_tenant(aliases={"fast": ("openai/gpt-4o-mini", "mock/echo")})
    await agent.send(agent.body(model=model), to="auto")

    completed = await agent.ended()

    assert isinstance(completed, Completed)
    assert completed.provider == "mock"
    assert completed.attempt == 1


WITHOUT = ["the fallback google/g was left out", "the fallback no-such-model was left out"]


def causes(sentences: Iterable[str]) -> list[str]:
    return [sentence.partition(":")[0] for sentence in sentences]


@pytest.mark.parametrize("to", ["mock", "auto"])
async def test_fallbacks_that_cannot_be_tried_are_told(agent: Agent, to: str) -> None:
    await agent.send(agent.body(fallbacks=["google/g", "mock/other", "no-such-model"]), to=to)

    completed = await agent.ended()

    assert isinstance(completed, Completed)
    assert causes(completed.warnings) == WITHOUT


@pytest.mark.parametrize("to", ["mock", "auto"])
async def test_a_failure_tells_the_fallbacks_that_could_not_help(agent: Agent, to: str) -> None:
    script = scripted(fail={"code": "quota_exhausted", "message": "no credit"})
    await agent.send(agent.body(fallbacks=["google/g", "no-such-model"], **script), to=to)

    failed = await agent.ended()

    assert isinstance(failed, Failed)
    assert failed.error.message.startswith(f"no credit; {WITHOUT[0]}: tenant {agent.tenant} has no active provider")
    assert WITHOUT[1] in failed.error.message


async def test_a_tenants_fallbacks_that_cannot_be_tried_are_told(agent: Agent, control: Plane) -> None:
    await control.put_tenant(fallbacks=("google/g",))
    await agent.send(agent.body())

    completed = await agent.ended()

    assert isinstance(completed, Completed)
    assert causes(completed.warnings) == ["the tenant's fallback google/g was left out"]


async def test_more_than_a_header_holds_is_not_handed_over(agent: Agent, control: Plane) -> None:
    await control.put_tenant(aliases={"wide": tuple(f"mock/{'😀' * 240}{n}" for n in range(30))})
    await agent.send(agent.body(model="wide"), to="auto")

    failed = await agent.ended()

    assert isinstance(failed, Failed)
    assert failed.error.code == "invalid_request"


async def test_a_new_tenant_is_served_at_once(stack: AsyncExitStack, control: Plane, nats_url: str) -> None:
    newcomer = Plane(control.client, control.vault, f"{control.tenant}-2")
    client = await stack.enter_async_context(Client(nats_url, tenant=newcomer.tenant))
    await newcomer.put_tenant()
    await newcomer.put_provider("mock")

    assert (await client.complete("mock/echo", "Hi")).provider == "mock"


async def test_a_deactivated_provider_serves_no_more(client: Client, control: Plane) -> None:
    await client.complete("mock/echo", "Hi")
    await control.put_provider("mock", is_active=False)

    events = [e async for e in client.stream("mock/echo", "Hi")]

    assert isinstance(events[-1], Failed)
    assert events[-1].error.code == "no_provider"


async def test_a_deadline_in_the_past_makes_no_call(agent: Agent, bill: Bill) -> None:
    await agent.send(agent.body(deadline="2020-01-01T00:00:00Z"))

    failed = await agent.ended()

    assert isinstance(failed, Failed)
    assert failed.error.code == "deadline_exceeded"
    assert bill.of("r1") == []


async def test_a_deadline_ends_a_slow_stream(client: Client, bill: Bill) -> None:
    slow = scripted(text="word " * 1000, between_s=0.05)

    events = [e async for e in client.stream("mock/echo", "Hi", deadline_s=0.6, **slow)]

    assert isinstance(events[-1], Failed)
    assert events[-1].error.code == "deadline_exceeded"
    await until(lambda: len(bill.of(events[0].request_id)) == 1)
    (booked,) = bill.of(events[0].request_id)
    assert booked.outcome == "failed"
    assert booked.usage.source == "estimated"
    assert 0 < booked.usage.output_tokens < 500


async def test_cancelling_a_stream_ends_it_and_books_what_was_used(client: Client, bill: Bill) -> None:
    stream = client.stream("mock/echo", "Hi", **scripted(text="word " * 10_000, between_s=0.01))
    events: list[Event] = []
    async for event in stream:
        events.append(event)
        if len(events) == 5:
            await stream.cancel()

    assert isinstance(events[-1], Cancelled)
    await until(lambda: len(bill.of(stream.request_id)) == 1)
    (booked,) = bill.of(stream.request_id)
    assert booked.outcome == "cancelled"
    assert booked.usage == events[-1].usage
    assert booked.usage.source == "estimated"


async def test_cancelling_while_it_waits_to_retry_ends_it(client: Client, bill: Bill) -> None:
    stream = client.stream(
        "mock/echo", "Hi", **scripted(fail={"code": "rate_limited", "times": 1, "retry_after_s": 300})
    )
    events: list[Event] = []
    async for event in stream:
        events.append(event)
        if isinstance(event, Retrying):
            await stream.cancel()

    assert [type(e) for e in events] == [Started, Retrying, Cancelled]
    assert [r.outcome for r in bill.of(stream.request_id)] == ["failed"]


async def test_a_cancel_reaches_a_request_that_no_worker_has_seen_yet(
    stack: AsyncExitStack, nats_url: str, vault: Vault, tenant: str
) -> None:
    control = await stack.enter_async_context(plane(nats_url, vault, tenant))
    await control.make_streams()
    await control.put_tenant()
    await control.put_provider("mock")
    bill = await stack.enter_async_context(Bill.watch(control.client, tenant))
    client = await stack.enter_async_context(Client(nats_url, tenant=tenant, agent="tester"))
    stream = client.stream("mock/echo", "Hello")
    first = asyncio.create_task(anext(stream))
    await until_stored(control, streams.REQUESTS)
    await stream.cancel()
    await until_stored(control, streams.CANCELS)

    async with worker(worker_settings(nats_url, vault)):
        assert isinstance(await first, Cancelled)

    assert bill.records == []


async def test_a_request_that_is_cancelled_before_it_is_published_never_runs(client: Client, bill: Bill) -> None:
    stream = client.stream("mock/echo", "Hi")
    await stream.cancel()

    events = [e async for e in stream]

    assert [type(e) for e in events] == [Cancelled]
    assert bill.of(stream.request_id) == []


async def test_a_break_after_output_restarts_by_default(client: Client, bill: Bill) -> None:
    script = scripted(text="one two three four", fail={"code": "stream_interrupted", "after_chunks": 2, "times": 1})

    events = [e async for e in client.stream("mock/echo", "Hi", **script)]

    assert isinstance(events[-1], Completed)
    assert events[-1].attempt == 2
    assert any(isinstance(e, Delta) and e.attempt == 1 for e in events)
    assert "".join(e.text or "" for e in events if isinstance(e, Delta) and e.attempt == 2) == "one two three four"
    await until(lambda: len(bill.of(events[0].request_id)) == 2)
    assert [(r.outcome, r.usage.source) for r in bill.of(events[0].request_id)] == [
        ("failed", "estimated"),
        ("completed", "vendor"),
    ]


async def test_a_break_after_output_fails_when_asked(client: Client) -> None:
    script = scripted(text="one two three four", fail={"code": "overloaded", "after_chunks": 2, "times": 1})

    events = [e async for e in client.stream("mock/echo", "Hi", on_interrupt="fail", **script)]

    assert isinstance(events[-1], Failed)
    assert events[-1].error.code == "stream_interrupted"


async def test_gives_up_after_three_tries(client: Client, bill: Bill) -> None:
    script = scripted(fail={"code": "overloaded", "times": 99})

    events = [e async for e in client.stream("mock/echo", "Hi", **script)]

    assert isinstance(events[-1], Failed)
    assert events[-1].error.code == "overloaded"
    assert len([e for e in events if isinstance(e, Started)]) == 3
    assert len(events[-1].attempts) == 3
    await until(lambda: len(bill.of(events[0].request_id)) == 3)


async def test_resumes_after_a_position_in_another_process(client: Client, nats_url: str, control: Plane) -> None:
    stream = client.stream("mock/echo", "Hi", **scripted(text="one two three four five", between_s=0.05))
    seen: list[Event] = []
    async for event in stream:
        seen.append(event)
        if len(seen) == 3:
            break
    await stream.aclose()

    async with Client(nats_url, tenant=control.tenant, agent="tester") as successor:
        rest = [e async for e in successor.resume(stream.request_id, after=stream.position)]

    positions = [(e.attempt, e.seq) for e in [*seen, *rest]]
    assert positions == [(1, n) for n in range(len(positions))]
    assert isinstance(rest[-1], Completed)
    assert "".join(e.text or "" for e in [*seen, *rest] if isinstance(e, Delta)) == "one two three four five"


async def resumed(agent: Agent, ask: dict[str, Any]) -> list[bytes]:
    """What comes on the inbox of one resume; filled for as long as something comes."""
    inbox, answers = agent.nats.new_inbox(), list[bytes]()

    async def note(msg: Msg) -> None:
        answers.append(msg.data)

    await agent.nats.subscribe(inbox, cb=note)
    await agent.nats.publish(subjects.resume(agent.tenant), json.dumps(ask).encode(), reply=inbox)
    await until(lambda: bool(answers) and (answers[-1] == b"" or b'"error"' in answers[-1]))
    return answers


async def test_resume_by_the_contract_alone(agent: Agent) -> None:
    await agent.send(agent.body(**scripted(text="one two three")))
    await agent.ended()

    answers = await resumed(agent, {"request_id": "r1", "agent": "raw", "after": [1, 0]})

    assert answers[-1] == b""
    assert [parse(data) for data in answers[:-1]] == agent.events[1:]


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        ({"request_id": "nothing", "agent": "raw"}, "invalid_request"),
        ({"request_id": "a.b", "agent": "raw"}, "malformed_request"),
    ],
)
async def test_an_error_ends_a_resume(agent: Agent, ask: dict[str, Any], code: str) -> None:
    await agent.send(agent.body())
    await agent.ended()

    answers = await resumed(agent, ask)
    await resumed(agent, {"request_id": "r1", "agent": "raw"})  # by now all that the worker said before has arrived

    assert [json.loads(data)["error"]["code"] for data in answers] == [code]


async def test_the_client_ends_a_resume_with_the_error(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="nothing is stored"):
        await anext(client.resume("nothing"))


@pytest.mark.parametrize("method", ["health", "models"])
async def test_answers_questions_of_the_control_plane(agent: Agent, method: str) -> None:
    answer = await agent.nats.request(f"llm.v1.rpc.mock.{method}.{agent.tenant}", b"", timeout=PATIENCE_S)

    assert "error" not in json.loads(answer.data)


@pytest.mark.parametrize(
    ("method", "tenant_", "code"),
    [("sing", None, "malformed_request"), ("health", "stranger", "unknown_tenant")],
)
async def test_refuses_questions_that_have_no_answer(agent: Agent, method: str, tenant_: str | None, code: str) -> None:
    subject = f"llm.v1.rpc.mock.{method}.{tenant_ or agent.tenant}"
    answer = await agent.nats.request(subject, b"", timeout=PATIENCE_S)

    assert json.loads(answer.data)["error"]["code"] == code


async def test_counts_tokens_and_estimates_cost(agent: Agent, control: Plane) -> None:
    await control.put_tenant(prices={"mock/echo": {"input_mtok": "1000000", "output_mtok": "0"}})
    ask = json.dumps({"model": "mock/echo", "messages": [{"role": "user", "content": "Hello"}]}).encode()

    count = await agent.nats.request(f"llm.v1.rpc.mock.count_tokens.{agent.tenant}", ask, timeout=PATIENCE_S)
    cost = await agent.nats.request(f"llm.v1.rpc.mock.estimate_cost.{agent.tenant}", ask, timeout=PATIENCE_S)

    tokens = json.loads(count.data)["input_tokens"]
    assert tokens > 0
    assert json.loads(cost.data)["cost"] == {"amount": str(tokens), "currency": "USD"}


async def test_a_question_that_was_cut_within_a_character_is_answered(agent: Agent) -> None:
    ask = json.dumps({"model": "mock/echo", "messages": [{"role": "user", "content": "cut \ud83d"}]}).encode()

    count = await agent.nats.request(f"llm.v1.rpc.mock.count_tokens.{agent.tenant}", ask, timeout=PATIENCE_S)

    assert json.loads(count.data)["input_tokens"] > 0


async def test_garbage_on_control_subjects_harms_nobody(agent: Agent, client: Client) -> None:
    for verb in ("cancel", "resume"):
        for payload in (b"", b"{", b"[]", b'{"request_id": "../.."}', b"\x00" * 1000):
            await agent.nats.publish(f"llm.v1.control.{agent.tenant}.{verb}", payload, reply=agent.nats.new_inbox())

    assert (await client.complete("mock/echo", "Hi")).finish_reason == "stop"


class Piecemeal:
    """Says the events of a request by hand, and counts how often its agent asks for what is stored."""

    def __init__(self, agent: Agent, request_id: str) -> None:
        self._agent, self._id = agent, request_id
        self.asked = 0

    async def listen(self) -> None:
        async def note(_: Msg) -> None:
            self.asked += 1

        await self._agent.nats.subscribe(subjects.resume(self._agent.tenant), cb=note)
        await self._agent.nats.flush()

    async def say(self, *seqs: int, ending: bool = False) -> None:
        for seq in seqs:
            event: dict[str, Any] = {"request_id": self._id, "attempt": 1, "seq": seq, "type": "delta", "text": "a"}
            if ending:
                event |= {"type": "cancelled", "usage": {"input_tokens": 0, "output_tokens": 0}}
                del event["text"]
            subject = subjects.reply(self._agent.tenant, "tester", self._id)
            await self._agent.nats.publish(subject, json.dumps(event).encode())


@pytest.fixture
async def piecemeal(agent: Agent) -> Piecemeal:
    piecemeal = Piecemeal(agent, "r1")
    await piecemeal.listen()
    return piecemeal


async def read_by_hand(client: Client, piecemeal: Piecemeal) -> asyncio.Task[list[int]]:
    stream = client.stream("ollama/llama3", "Hi", id="r1", deadline_s=60)  # no worker of it is there

    async def read() -> list[int]:
        return [event.seq async for event in stream]

    reading = asyncio.create_task(read())
    await piecemeal.say(0, 1)
    await until(lambda: stream.position == (1, 1))
    return reading


async def test_an_event_that_is_stored_late_is_waited_for(client: Client, piecemeal: Piecemeal) -> None:
    """As after a restart of NATS: a worker says it again when it is back."""
    reading = await read_by_hand(client, piecemeal)
    await piecemeal.say(3)
    await until(lambda: piecemeal.asked == 2)
    await piecemeal.say(2)
    await piecemeal.say(4, ending=True)

    assert await reading == [0, 1, 2, 3, 4]


async def test_an_event_that_is_lost_is_not_waited_for_for_ever(
    stack: AsyncExitStack, control: Plane, nats_url: str, piecemeal: Piecemeal
) -> None:
    client = Client(nats_url, tenant=control.tenant, agent="tester", patience=Patience(lost_s=1.0))
    reading = await read_by_hand(await stack.enter_async_context(client), piecemeal)
    await piecemeal.say(3)
    await piecemeal.say(4, ending=True)

    assert await reading == [0, 1, 3, 4]
    assert piecemeal.asked >= 2
