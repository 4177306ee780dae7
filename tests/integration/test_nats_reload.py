"""A tenant is added to a NATS server that runs: it is served, and the others notice nothing."""

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import nats as nats_py
import nats.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from pydantic import SecretStr, TypeAdapter

from admin_api.operations.worker_rpc import WorkerRpc
from contracts import streams, subjects
from contracts.rpc import Models
from contracts.subjects import RpcMethod
from fleet.client import Client as AgentClient
from fleet.deploy import nats_config, nats_users
from fleet.local.process import Command, Process, StartFailed
from fleet.local.servers import NatsServer
from runtime import broker
from runtime.settings import BrokerSettings
from tests.patience import PATIENCE_S
from tests.ports import free_port

PASSWORD = "a-password"
ODD = ("Demo", "demo", "-rf", "_", "-", "--help", "a-b", "a_b", "A-b", "123")


def accounts(*tenants: str) -> str:
    users = nats_users.users(tenants=tenants, providers=["mock"])
    return nats_config.accounts(users, login=nats_config.by_password(lambda _: nats_config.quoted(PASSWORD)))


@asynccontextmanager
async def connected(url: str, user: nats_users.User, password: str = PASSWORD) -> AsyncGenerator[Client]:
    client = await nats_py.connect(url, user=user.name, password=password, inbox_prefix=user.inbox_prefix)
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def fleet(url: str, password: str = PASSWORD, worker_password: str = PASSWORD) -> AsyncGenerator[Client]:
    """The streams, and a worker that answers every resume; the worker's connection."""
    async with connected(url, nats_users.operator(), password) as operator:

        async def ask(subject: str, payload: bytes) -> bytes:
            return (await operator.request(subject, payload, timeout=30)).data

        await streams.ensure(ask, streams.Sizes())
    async with connected(url, nats_users.worker("mock"), worker_password) as worker:

        async def answer(msg: Msg) -> None:
            for part in (b"1", b"2"):
                await worker.publish(msg.reply, part)

        await worker.subscribe("llm.v1.control.*.resume", cb=answer)
        await worker.flush()
        yield worker


async def is_served(agent: Client, tenant: str, worker: Client) -> bool:
    """Whether its requests are stored, its questions answered in several messages, and its replies delivered."""
    inbox = agent.new_inbox()
    answers = await agent.subscribe(inbox)
    replies = await agent.subscribe(f"llm.v1.reply.{tenant}.a.r")
    await agent.flush()
    ack = await agent.request(f"llm.v1.request.mock.interactive.{tenant}", b"{}", timeout=30)
    await agent.publish(f"llm.v1.control.{tenant}.resume", b"{}", reply=inbox)
    await worker.publish(f"llm.v1.reply.{tenant}.a.r", b"event")
    said = [(await answers.next_msg(timeout=30)).data for _ in range(2)]
    event = (await replies.next_msg(timeout=30)).data
    return b"LLM_REQUESTS" in ack.data and said == [b"1", b"2"] and event == b"event"


async def test_a_tenant_that_is_added_is_served_while_the_others_go_on(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats", port=free_port(), accounts=accounts("acme"))
    await server.start()
    acme, added = nats_users.agent("acme"), [f"added-{number}" for number in range(5)]
    try:
        async with fleet(server.url) as worker, connected(server.url, acme) as agent:
            done, failed, stop = 0, list[BaseException](), asyncio.Event()
            moments: list[int] = []

            async def keep_asking() -> None:
                nonlocal done
                while not stop.is_set():
                    try:
                        await agent.request("llm.v1.request.mock.interactive.acme", b"{}", timeout=30)
                        done += 1
                    except nats.errors.NoRespondersError:
                        moments.append(done)  # while the server takes the accounts in; clients ask again
                    except (nats.errors.Error, TimeoutError) as exc:
                        failed.append(exc)

            asking = asyncio.create_task(keep_asking(), name="keep asking")
            for count in range(1, len(added) + 1):
                await server.reload(accounts("acme", *added[:count]))
                newest = nats_users.agent(added[count - 1])
                async with connected(server.url, newest) as of_newest:
                    assert await is_served(of_newest, added[count - 1], worker)
            stop.set()
            await asking

            assert await is_served(agent, "acme", worker)
            assert (agent.stats["reconnects"], worker.stats["reconnects"]) == (0, 0)
            assert done > 0
            assert failed == []
            assert len(moments) < done / 10
    finally:
        await server.kill()


async def test_who_asks_is_answered_although_the_server_forgot_who_may_answer(tmp_path: Path) -> None:
    """The admin API and an agent."""
    server = NatsServer(tmp_path / "nats", port=free_port(), accounts=accounts("acme"))
    await server.start()
    admin, agent = nats_users.admin(), nats_users.agent("acme")
    settings = BrokerSettings(nats_url=server.url, nats_user=admin.name, nats_password=SecretStr(PASSWORD))
    tenants, asked = ["acme"], 0

    async def answer(msg: Msg) -> None:
        nonlocal asked
        asked += 1
        if asked % 2:
            tenants.append(f"added-{asked}")
            await server.reload(accounts(*tenants))
        await worker.publish(msg.reply, b'{"models": []}')

    try:
        async with (
            connected(server.url, nats_users.worker("mock")) as worker,
            broker.connect(settings, name="admin", inbox_prefix=admin.inbox_prefix) as connection,
            AgentClient(server.url, tenant="acme", user=agent.name, password=PASSWORD) as client,
        ):
            await worker.subscribe(subjects.all_rpcs("mock"), cb=answer)
            await worker.flush()
            workers = WorkerRpc(connection, answer_timeout_s=PATIENCE_S, ask_again_s=0.2)
            subject = subjects.rpc("mock", RpcMethod.MODELS, "acme")

            assert await workers.ask(subject, b"", answers=TypeAdapter(Models)) == Models(models=())
            assert asked > 1
            asked = 0
            assert await client.models("mock") == ()
            assert asked > 1
    finally:
        await server.kill()


async def test_accounts_that_the_server_refuses_are_said_to_be_and_the_old_ones_stay(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats", port=free_port(), accounts=accounts("acme"))
    await server.start()
    try:
        with pytest.raises(StartFailed, match="takes no other accounts"):
            await server.reload("accounts { broken: $NOT_SET }\n")
        async with fleet(server.url) as worker, connected(server.url, nats_users.agent("acme")) as agent:
            assert await is_served(agent, "acme", worker)
    finally:
        await server.kill()


def written(folder: Path, tenants: Sequence[str], *, port: int) -> None:
    """What `fleet nats-config` prints for these tenants, with their passwords in files beside it."""
    fleet = Path(sys.executable).with_name("fleet")
    options = [f"--tenant={tenant}" for tenant in tenants]
    command = [str(fleet), "nats-config", *options, "--provider", "mock", "--passwords", "passwords"]
    command += ["--jetstream-key", "jetstream-key.conf"]
    where = ["--listen", f"127.0.0.1:{port}", "--store-dir", str(folder / "store")]
    printed = subprocess.run([*command, *where], cwd=folder, capture_output=True, text=True, check=True).stdout
    (folder / "nats.conf").write_text(printed)


async def test_the_printed_configuration_is_taken_at_sighup_twice_whatever_the_tenants_are_called(
    tmp_path: Path,
) -> None:
    port = free_port()
    written(tmp_path, ["acme"], port=port)
    config, log = tmp_path / "nats.conf", tmp_path / "nats.log"
    binary = Path(sys.executable).with_name("nats-server")
    process = Process(Command("nats", (str(binary), "-c", str(config)), log))

    def password(user: nats_users.User) -> str:
        said = re.search(r': "([^"]+)"', (tmp_path / "passwords" / f"{user.name}.conf").read_text())
        assert said is not None
        return said[1]

    async def says(line: str, times: int) -> bool:
        return log.read_text().count(line) >= times

    try:
        await process.wait_until(lambda: says("Server is ready", 1), timeout_s=60)
        acme, url = nats_users.agent("acme"), f"nats://127.0.0.1:{port}"
        passwords = password(nats_users.operator()), password(nats_users.worker("mock"))
        async with fleet(url, *passwords) as worker, connected(url, acme, password(acme)) as agent:
            written(tmp_path, ["acme", *ODD], port=port)
            for times in range(1, nats_config.RELOADS + 1):
                process.send(signal.SIGHUP)
                await process.wait_until(lambda times=times: says("Reloaded server configuration", times), timeout_s=60)

            for tenant in ODD:
                user = nats_users.agent(tenant)
                async with connected(url, user, password(user)) as added:
                    assert await is_served(added, tenant, worker)
            assert await is_served(agent, "acme", worker)
            assert agent.stats["reconnects"] == 0
            assert len({password(nats_users.agent(tenant)) for tenant in ODD}) == len(ODD)
    finally:
        await process.kill()
