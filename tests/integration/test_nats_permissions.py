"""What each NATS user may and may not do, asked of a real server."""

import asyncio
import json
import re
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import nats as nats_py
import pytest
import pytest_asyncio
from nats.aio.client import Client
from nats.aio.msg import Msg

from contracts import streams
from fleet.deploy import nats_config
from fleet.local.servers import NatsServer
from runtime.broker import Broker
from tests.permissions.subjects import COLUMNS, NEXT, SUBJECTS, USERS
from tests.ports import free_port
from workers.jetstream.counters import Counters

PASSWORD = "a-password"
FORBIDDEN = "nobody.may"
DENIAL = re.compile(r"permissions violation for (publish|subscription) to \"([^\"]+)\"")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[str]:
    folder = Path(tmp_path_factory.mktemp("nats"))
    login = nats_config.by_password(lambda _: nats_config.quoted(PASSWORD))
    server = NatsServer(folder, port=free_port(), accounts=nats_config.accounts(list(USERS.values()), login=login))
    await server.start()
    yield server.url
    await server.kill()
    shutil.rmtree(folder)


@asynccontextmanager
async def connected(url: str, name: str, errors: asyncio.Queue[str] | None = None) -> AsyncGenerator[Client]:
    async def on_error(exc: Exception) -> None:
        if errors is not None:
            errors.put_nowait(str(exc))

    client = await nats_py.connect(
        url, user=name, password=PASSWORD, inbox_prefix=USERS[name].inbox_prefix, error_cb=on_error
    )
    try:
        yield client
    finally:
        await client.close()


async def ensure_streams(client: Client) -> None:
    async def ask(subject: str, payload: bytes) -> bytes:
        return (await client.request(subject, payload, timeout=30)).data

    await streams.ensure(ask, streams.Sizes())


async def denials(url: str, user: str) -> set[tuple[str, str]]:
    """Verbs and subjects of the table that the server refused this user; all are known once it has refused what comes
    after them, which nobody may do."""
    errors: asyncio.Queue[str] = asyncio.Queue()
    refused: set[tuple[str, str]] = set()
    as_written = {subject.name.lower(): subject.name for subject in SUBJECTS}  # the client makes errors lower case
    async with connected(url, user, errors) as client:
        for subject in SUBJECTS:
            if subject.publish is not None:
                await client.publish(subject.name, b"{}")
            await client.subscribe(subject.name)
        await client.publish(FORBIDDEN, b"")
        async with asyncio.timeout(10):
            while (said := DENIAL.search(await errors.get())) is None or said[2] != FORBIDDEN:
                if said is not None:
                    refused.add(("publish" if said[1] == "publish" else "subscribe", as_written[said[2]]))
    return refused


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("user", COLUMNS)
async def test_every_user_at_every_subject(url: str, user: str) -> None:
    wanted = {("publish", s.name) for s in SUBJECTS if s.publish is not None and user not in s.publish}
    wanted |= {("subscribe", s.name) for s in SUBJECTS if user not in s.subscribe}

    refused = await denials(url, user)

    assert (refused - wanted, wanted - refused) == (set(), set()), "refused though allowed, allowed though not"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "victim",
    [
        "llm.v1.reply.globex.planner.r1",
        "llm.v1.request.openai.interactive.globex",
        "llm.v1.usage.openai.globex",
        "$KV.llm_config.tenant.globex",
        "_INBOX_globex.x",
        "_ROLE_admin.x",
    ],
)
async def test_what_answers_an_agent_goes_to_the_agent_only(url: str, victim: str) -> None:
    """The server does not check where a client wants its answer: JetStream and workers would write there for it."""
    async with (
        connected(url, "admin") as admin,
        connected(url, "operator") as operator,
        connected(url, "agent-acme") as agent,
        connected(url, "worker-openai") as worker,
    ):
        await ensure_streams(admin)
        before = await stored(operator)

        async def answer(msg: Msg) -> None:
            await worker.publish(msg.reply, b"{}")

        await worker.subscribe("llm.v1.control.*.resume", cb=answer)
        await worker.flush()

        for subject in ("llm.v1.request.openai.interactive.acme", "llm.v1.control.acme.resume"):
            await agent.publish(subject, b"{}", reply=victim)
        await agent.request("llm.v1.request.openai.interactive.acme", b"{}", timeout=30)
        await agent.request("llm.v1.control.acme.resume", b"{}", timeout=30)

        after = await stored(operator)
        changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        assert changed == {"LLM_REQUESTS", "llm.v1.request.openai.interactive.acme"}


async def stored(operator: Client) -> dict[str, int]:
    """How many messages there were in each stream, and are of each subject."""
    found: dict[str, int] = {}
    for definition in streams.definitions(streams.Sizes()):
        answer = await operator.request(
            f"$JS.API.STREAM.INFO.{definition['name']}", b'{"subjects_filter": ">"}', timeout=5
        )
        state = json.loads(answer.data)["state"]
        found |= {definition["name"]: state["last_seq"], **(state.get("subjects") or {})}
    return found


@pytest.mark.asyncio(loop_scope="module")
async def test_admin_can_make_every_stream_and_a_worker_can_then_start(url: str) -> None:
    for name in ("admin", "worker-openai", "usage", "operator"):
        async with connected(url, name) as client:
            await ensure_streams(client)


@pytest.mark.asyncio(loop_scope="module")
async def test_worker_answers_an_agent_it_was_asked_by_more_than_once(url: str) -> None:
    async with connected(url, "worker-openai") as worker, connected(url, "agent-acme") as agent:

        async def answer(msg: Msg) -> None:
            for part in (b"1", b"2", b""):
                await worker.publish(msg.reply, part)

        await worker.subscribe("llm.v1.control.*.resume", cb=answer)
        await worker.flush()
        inbox = agent.new_inbox()
        answers = await agent.subscribe(inbox)
        await agent.publish("llm.v1.control.acme.resume", b"{}", reply=inbox)

        assert [(await answers.next_msg(timeout=30)).data for _ in range(3)] == [b"1", b"2", b""]


@pytest.mark.asyncio(loop_scope="module")
async def test_worker_follows_the_configuration_that_admin_publishes(url: str) -> None:
    async with connected(url, "operator") as operator, connected(url, "admin") as admin:
        await ensure_streams(operator)
        async with connected(url, "worker-openai") as worker:
            watcher = await (await worker.jetstream().key_value("llm_config")).watchall()
            await (await admin.jetstream().key_value("llm_config")).put("tenant.acme", b"{}")
            async for entry in watcher:
                if entry is not None:
                    assert entry.value == b"{}"
                    break


@pytest.mark.asyncio(loop_scope="module")
async def test_worker_pulls_what_an_agent_published_and_acks_it(url: str) -> None:
    async with connected(url, "operator") as operator:
        await ensure_streams(operator)
    async with connected(url, "worker-openai") as worker, connected(url, "agent-globex") as agent:
        ack = await agent.request("llm.v1.request.openai.background.globex", b"{}", timeout=30)
        assert json.loads(ack.data)["stream"] == "LLM_REQUESTS"
        inbox = worker.new_inbox()
        pulled = await worker.subscribe(inbox)
        ask_one = json.dumps({"batch": 1, "expires": 5_000_000_000}).encode()
        await worker.publish(f"{NEXT}.LLM_REQUESTS.openai_background", ask_one, reply=inbox)
        msg = await pulled.next_msg(timeout=30)
        assert (msg.subject, msg.data) == ("llm.v1.request.openai.background.globex", b"{}")
        await msg.ack_sync(timeout=30)


@pytest.mark.asyncio(loop_scope="module")
async def test_workers_of_different_pools_count_for_a_tenant_together(url: str) -> None:
    async with connected(url, "operator") as operator:
        await ensure_streams(operator)
    async with connected(url, "worker-openai") as openai, connected(url, "worker-mock") as mock:
        subject = "llm.v1.limit.requests.acme.20261123T1200"

        totals = [
            await Counters(Broker(client), within_s=5).add(subject, 1, msg_id=str(n))
            for n, client in enumerate((openai, mock, openai))
        ]

        assert totals == [1, 2, 3]
        assert await Counters(Broker(mock), within_s=5).read(subject) == 3
