"""What each NATS user may and may not do, asked of a real server."""

import asyncio
import json
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
from fleet import nats_config
from fleet.local.servers import NatsServer
from runtime.broker import Broker
from workers.counters import Counters

PASSWORD = "a-password"
USERS = {
    user.name: user for user in nats_config.users(tenants=["acme", "globex"], providers=["openai", "anthropic", "mock"])
}
FORBIDDEN = "nobody.may"
NEXT = "$JS.API.CONSUMER.MSG.NEXT"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[str]:
    folder = Path(tmp_path_factory.mktemp("nats"))
    everybody = nats_config.authorization(list(USERS.values()), password=lambda _: nats_config.quoted(PASSWORD))
    server = NatsServer(folder, authorization=everybody)
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
        return (await client.request(subject, payload, timeout=5)).data

    await streams.ensure(ask, streams.Sizes())


async def denied(url: str, name: str, *, verb: str, subject: str) -> bool:
    """Whether the server refused, known when it has refused what comes after: a publish that nobody may do."""
    errors: asyncio.Queue[str] = asyncio.Queue()
    async with connected(url, name, errors) as client:
        if verb == "publish":
            await client.publish(subject, b"{}")
        else:
            await client.subscribe(subject)
        await client.publish(FORBIDDEN, b"")
        async with asyncio.timeout(5):
            first = await errors.get()
    return FORBIDDEN not in first.lower()


ALLOWED = [
    ("agent-acme", "publish", "llm.v1.request.openai.interactive.acme"),
    ("agent-acme", "publish", "llm.v1.request.auto.background.acme"),
    ("agent-acme", "publish", "llm.v1.control.acme.cancel"),
    ("agent-acme", "publish", "llm.v1.control.acme.resume"),
    ("agent-acme", "publish", "llm.v1.rpc.openai.count_tokens.acme"),
    ("agent-acme", "subscribe", "llm.v1.reply.acme.planner.*"),
    ("agent-acme", "subscribe", "_INBOX_acme.abc.*"),
    ("worker-openai", "publish", f"{NEXT}.LLM_REQUESTS.openai_interactive"),
    ("worker-openai", "publish", f"{NEXT}.LLM_REQUESTS.openai_background"),
    ("worker-openai", "publish", f"{NEXT}.LLM_REQUESTS.auto_interactive"),
    ("worker-openai", "publish", "$JS.ACK.LLM_REQUESTS.openai_interactive.1.2.3.4.5"),
    ("worker-openai", "publish", "llm.v1.reply.acme.planner.r1"),
    ("worker-openai", "publish", "llm.v1.usage.openai.acme"),
    ("worker-openai", "publish", "llm.v1.dead.auto.acme"),
    ("worker-openai", "publish", "llm.v1.request.anthropic.interactive.acme"),
    ("worker-openai", "publish", "llm.v1.notice.key_refused.acme"),
    ("worker-openai", "publish", "llm.v1.limit.requests.acme.20261123"),
    ("worker-openai", "publish", "$JS.API.STREAM.INFO.LLM_REQUESTS"),
    ("worker-openai", "publish", "$JS.API.CONSUMER.INFO.LLM_REQUESTS.openai_interactive"),
    ("worker-openai", "publish", "$JS.API.DIRECT.GET.LLM_REPLIES"),
    ("worker-openai", "publish", "$JS.API.DIRECT.GET.LLM_REPLIES.llm.v1.reply.acme.planner.r1"),
    ("worker-openai", "publish", "$KV.llm_health.worker.a"),
    ("worker-openai", "subscribe", "llm.v1.control.*.cancel"),
    ("worker-openai", "subscribe", "llm.v1.control.*.resume"),
    ("worker-openai", "subscribe", "llm.v1.rpc.openai.*.*"),
    ("worker-openai", "subscribe", "_ROLE_worker_openai.abc.*"),
    ("usage", "publish", f"{NEXT}.LLM_USAGE.usage"),
    ("usage", "publish", "$JS.ACK.LLM_USAGE.usage.1.2.3.4.5"),
    ("usage", "publish", "llm.v1.notice.cost_alert.acme"),
    ("usage", "subscribe", "_ROLE_usage.abc.*"),
    ("admin", "publish", "$KV.llm_config.tenant.acme"),
    ("admin", "publish", "llm.v1.rpc.openai.health.acme"),
    ("admin", "publish", "llm.v1.request.openai.interactive.acme"),
    ("admin", "publish", "$JS.API.STREAM.MSG.GET.LLM_DEAD"),
    ("admin", "publish", "$JS.API.STREAM.MSG.DELETE.LLM_DEAD"),
    ("admin", "publish", "$JS.API.CONSUMER.CREATE.LLM_DEAD.list_1.llm.v1.dead.*.acme"),
    ("admin", "publish", f"{NEXT}.LLM_DEAD.list_1"),
    ("admin", "publish", "$JS.API.CONSUMER.DELETE.LLM_DEAD.list_1"),
    ("admin", "publish", "llm.v1.usage.openai.acme"),
    ("admin", "publish", "$JS.API.STREAM.CREATE.LLM_REQUESTS"),
    ("admin", "publish", "$JS.API.CONSUMER.CREATE.LLM_REQUESTS.mock_interactive.llm.v1.request.mock.interactive.*"),
    ("admin", "subscribe", "_ROLE_admin.abc.*"),
    ("operator", "publish", "$JS.API.STREAM.PURGE.LLM_DEAD"),
]

DENIED = [
    ("agent-acme", "publish", "llm.v1.request.openai.interactive.globex"),
    ("agent-acme", "publish", "llm.v1.control.globex.cancel"),
    ("agent-acme", "publish", "llm.v1.rpc.openai.count_tokens.globex"),
    ("agent-acme", "publish", "llm.v1.reply.acme.planner.r1"),
    ("agent-acme", "publish", "llm.v1.usage.openai.acme"),
    ("agent-acme", "publish", "llm.v1.dead.openai.acme"),
    ("agent-acme", "publish", "llm.v1.limit.requests.acme.20261123"),
    ("agent-acme", "subscribe", "llm.v1.limit.>"),
    ("agent-acme", "publish", "$JS.API.DIRECT.GET.LLM_LIMITS.llm.v1.limit.requests.acme.20261123"),
    ("agent-acme", "publish", "llm.v1.notice.cost_alert.acme"),
    ("agent-acme", "publish", "$JS.API.INFO"),
    ("agent-acme", "publish", "$JS.API.STREAM.INFO.LLM_REPLIES"),
    ("agent-acme", "publish", "$JS.API.DIRECT.GET.LLM_REPLIES.llm.v1.reply.acme.planner.r1"),
    ("agent-acme", "publish", "$KV.llm_config.tenant.acme"),
    ("agent-acme", "publish", "_INBOX_acme.x"),
    ("agent-acme", "subscribe", "llm.v1.reply.globex.>"),
    ("agent-acme", "subscribe", "llm.v1.reply.>"),
    ("agent-acme", "subscribe", "llm.v1.request.>"),
    ("agent-acme", "subscribe", "_INBOX_globex.>"),
    ("agent-acme", "subscribe", "_INBOX.>"),
    ("agent-acme", "subscribe", "_ROLE_worker_openai.>"),
    ("agent-acme", "subscribe", ">"),
    ("worker-openai", "publish", f"{NEXT}.LLM_REQUESTS.anthropic_interactive"),
    ("worker-openai", "publish", f"{NEXT}.LLM_USAGE.usage"),
    ("worker-openai", "publish", "$JS.ACK.LLM_REQUESTS.anthropic_interactive.1.2.3.4.5"),
    ("worker-openai", "publish", "$JS.ACK.LLM_USAGE.usage.1.2.3.4.5"),
    ("worker-openai", "publish", "llm.v1.usage.anthropic.acme"),
    ("worker-openai", "publish", "llm.v1.control.acme.cancel"),
    ("worker-openai", "publish", "llm.v1.rpc.anthropic.health.acme"),
    ("worker-openai", "publish", "$KV.llm_config.tenant.acme"),
    ("worker-openai", "publish", "$JS.API.STREAM.DELETE.LLM_REQUESTS"),
    ("worker-openai", "publish", "$JS.API.STREAM.PURGE.LLM_REQUESTS"),
    ("worker-openai", "publish", "$JS.API.STREAM.MSG.GET.LLM_REQUESTS"),
    ("worker-openai", "publish", "$JS.API.DIRECT.GET.LLM_REQUESTS"),
    ("worker-openai", "publish", "$JS.API.DIRECT.GET.LLM_DEAD"),
    ("worker-openai", "publish", "$JS.API.CONSUMER.CREATE.LLM_REQUESTS.spy.llm.v1.request.>"),
    ("worker-openai", "publish", "$JS.API.CONSUMER.CREATE.LLM_REPLIES"),
    ("worker-openai", "publish", "_INBOX_acme.x"),
    ("worker-openai", "subscribe", "llm.v1.request.openai.>"),
    ("worker-openai", "subscribe", "llm.v1.reply.>"),
    ("worker-openai", "subscribe", "llm.v1.rpc.anthropic.*.*"),
    ("worker-openai", "subscribe", "_ROLE_worker_anthropic.>"),
    ("worker-openai", "subscribe", "_ROLE_worker_mock.>"),
    ("worker-openai", "subscribe", "_ROLE_admin.>"),
    ("worker-openai", "subscribe", "_INBOX_acme.>"),
    ("usage", "publish", f"{NEXT}.LLM_REQUESTS.openai_interactive"),
    ("usage", "publish", "llm.v1.request.openai.interactive.acme"),
    ("usage", "publish", "llm.v1.reply.acme.planner.r1"),
    ("usage", "publish", "$KV.llm_config.tenant.acme"),
    ("usage", "subscribe", "llm.v1.reply.>"),
    ("usage", "subscribe", "llm.v1.usage.>"),
    ("admin", "publish", f"{NEXT}.LLM_REQUESTS.openai_interactive"),
    ("admin", "publish", "llm.v1.reply.acme.planner.r1"),
    ("admin", "publish", f"{NEXT}.LLM_USAGE.usage"),
    ("admin", "publish", "$JS.API.CONSUMER.DELETE.LLM_REQUESTS.openai_interactive"),
    ("admin", "publish", "$JS.API.STREAM.DELETE.LLM_REQUESTS"),
    ("admin", "publish", "$JS.API.CONSUMER.CREATE.LLM_REQUESTS.spy.llm.v1.request.>"),
    ("admin", "publish", "$JS.API.DIRECT.GET.LLM_REPLIES"),
    ("admin", "subscribe", "llm.v1.reply.>"),
    ("admin", "subscribe", "_ROLE_worker_openai.>"),
    ("operator", "publish", "llm.v1.request.openai.interactive.acme"),
    ("operator", "publish", "$KV.llm_config.tenant.acme"),
    ("operator", "subscribe", "llm.v1.reply.>"),
    ("operator", "subscribe", ">"),
]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("user", "verb", "subject"), ALLOWED)
async def test_allows_what_a_role_needs(url: str, user: str, verb: str, subject: str) -> None:
    assert not await denied(url, user, verb=verb, subject=subject)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("user", "verb", "subject"), DENIED)
async def test_denies_everything_else(url: str, user: str, verb: str, subject: str) -> None:
    assert await denied(url, user, verb=verb, subject=subject)


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

        assert [(await answers.next_msg(timeout=5)).data for _ in range(3)] == [b"1", b"2", b""]


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
        ack = await agent.request("llm.v1.request.openai.background.globex", b"{}", timeout=5)
        assert json.loads(ack.data)["stream"] == "LLM_REQUESTS"
        inbox = worker.new_inbox()
        pulled = await worker.subscribe(inbox)
        ask_one = json.dumps({"batch": 1, "expires": 5_000_000_000}).encode()
        await worker.publish(f"{NEXT}.LLM_REQUESTS.openai_background", ask_one, reply=inbox)
        msg = await pulled.next_msg(timeout=5)
        assert (msg.subject, msg.data) == ("llm.v1.request.openai.background.globex", b"{}")
        await msg.ack_sync(timeout=5)


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
