"""The fleet on three nodes of NATS: every part as `fleet up` starts it, and what dies is started again as there."""

import asyncio
import json
import secrets
import socket
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats
import nats.errors
import psutil
from nats.aio.client import Client as Nats
from pydantic import SecretStr

from contracts import streams
from contracts.subjects import Priority
from fleet.admin_client import AdminApi
from fleet.deploy import vault_policies
from fleet.local.demo_tenant import DEMO_TENANT, set_up
from fleet.local.roles import Role, run_once
from fleet.local.servers import NatsServer, PostgresServer, VaultServer
from fleet.local.state import new_sealing_key
from fleet.local.supervisor import keep_running, together
from runtime.tasks import end
from tests import servers
from tests.patience import PATIENCE_S

LEADERS = (
    streams.REQUESTS,
    streams.RESULTS,
    streams.USAGE,
    streams.ATTEMPTS,
    streams.REPLIES,
    f"{streams.REQUESTS}.{streams.pool_consumer('openai', Priority.INTERACTIVE)}",
)
"""Streams, and a consumer as `stream.consumer`, whose leaders matter most to requests."""
_COPIED = (streams.REQUESTS, streams.RESULTS, streams.USAGE, streams.ATTEMPTS)
_POLL_S = 0.1
_STOP_WITHIN_S = 5


class Nodes:
    """Several NATS servers that are one to clients."""

    def __init__(self, servers: Sequence[NatsServer], operator: Nats) -> None:
        self._by_name = {f"node-{number}": server for number, server in enumerate(servers)}
        self._operator = operator

    @property
    def servers(self) -> list[NatsServer]:
        return list(self._by_name.values())

    async def leader(self, of: str) -> NatsServer:
        """Of a stream, or of a consumer as `stream.consumer`."""
        kind = "CONSUMER" if "." in of else "STREAM"
        return self._by_name[(await self._info(f"{kind}.INFO.{of}"))["cluster"]["leader"]]

    async def are_whole(self, *names: str) -> bool:
        """Whether every copy of these streams is there and has caught up."""
        groups = [(await self._info(f"STREAM.INFO.{name}"))["cluster"] for name in names]
        return all(peer["current"] and not peer.get("offline") for group in groups for peer in group["replicas"])

    async def _info(self, subject: str) -> dict[str, Any]:
        """Until there is a leader who answers."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    found = json.loads((await self._operator.request(f"$JS.API.{subject}", timeout=2)).data)
                except nats.errors.Error:
                    continue
                if "error" not in found and found["cluster"].get("leader"):
                    return found
                await asyncio.sleep(_POLL_S)


@dataclass(slots=True)
class Cluster:
    """What a trial needs of it is as with `fleet up`: `ready`, `admin`, `pids`, `everybody`."""

    ready: dict[str, Any]
    nodes: Nodes
    roles: Mapping[str, Sequence[Role]]
    servers: Sequence[VaultServer | PostgresServer]

    @property
    def admin(self) -> AdminApi:
        return AdminApi(self.ready["admin_url"], SecretStr(self.ready["admin_token"]))

    def pids(self, role: str) -> list[int]:
        return [one.process.pid for one in self.roles[role] if one.process]

    def everybody(self) -> list[psutil.Process]:
        """All that was started, and what came from it."""
        found: list[psutil.Process] = []
        parts = [*self.nodes.servers, *self.servers, *(one for of in self.roles.values() for one in of)]
        for process in (part.process for part in parts):
            with suppress(psutil.NoSuchProcess):
                if process is not None:
                    ours = psutil.Process(process.pid)
                    found += [ours, *ours.children(recursive=True)]
        return found

    @asynccontextmanager
    async def without_leader(self, of: str) -> AsyncGenerator[None]:
        """Kills the node that leads a stream or consumer. Afterwards starts it, and waits until it has caught up."""
        node = await self.nodes.leader(of)
        await node.kill()
        try:
            yield
        finally:
            await node.start()
        await self._whole()

    async def restart_nats(self) -> None:
        """Kills and starts all nodes: what they keep in memory is gone."""
        await asyncio.gather(*(node.kill() for node in self.nodes.servers))
        await asyncio.gather(*(node.start() for node in self.nodes.servers))
        await self._whole()

    async def _whole(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not await self.nodes.are_whole(*_COPIED):
                await asyncio.sleep(_POLL_S)


@asynccontextmanager
async def running(
    folder: Path, *, nodes: int, workers: Mapping[str, int], env: Mapping[str, str]
) -> AsyncGenerator[Cluster]:
    """`workers`: processes of each provider. `env`: for every role, besides what it needs."""
    async with AsyncExitStack() as stack:
        vault = VaultServer(folder / "vault", providers=list(workers))
        postgres = PostgresServer(folder / "postgres")
        stack.push_async_callback(postgres.stop)
        stack.push_async_callback(vault.stop)
        started = await stack.enter_async_context(servers.nats_cluster(folder, nodes=nodes))
        await asyncio.gather(vault.start(), postgres.start())
        urls = [node.url for node in started]
        operator = await nats.connect(urls, max_reconnect_attempts=-1, error_cb=_lost)
        stack.push_async_callback(operator.close)
        database_url = await postgres.ensure_database("fleet")
        await run_once("migrate", ["migrate"], env={"DATABASE_URL": database_url}, log=folder / "migrate.log")

        every = {"NATS_URL": ",".join(urls), "LLM_STREAM_REPLICAS": str(nodes), **env}
        handles_keys = {"LLM_ENCRYPTION_KEY": new_sealing_key(), "LLM_ALLOWED_PRIVATE_NETWORKS": "127.0.0.0/8"}
        admin_token = secrets.token_urlsafe()

        def role(name: str, command: Sequence[str], **more: str) -> Role:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            made = Role(
                name,
                command,
                env={**every, **more},
                listener=listener,
                log=folder / f"{name}.log",
                stop_within_s=_STOP_WITHIN_S,
            )
            stack.push_async_callback(made.stop)
            return made

        def with_vault(name: str) -> dict[str, str]:
            role_id, secret_id = vault.role(name)
            login = {"VAULT_ADDR": vault.addr, "VAULT_ROLE_ID": role_id, "VAULT_SECRET_ID": secret_id}
            return {**handles_keys, **login}

        admin = role(
            "admin",
            ["admin"],
            DATABASE_URL=database_url,
            LLM_ADMIN_TOKEN=admin_token,
            **with_vault(vault_policies.ADMIN_ROLE),
        )
        roles = {
            "admin": [admin],
            "usage": [role("usage", ["usage"], DATABASE_URL=database_url)],
            **{
                f"worker-{provider}": [
                    role(
                        f"worker-{provider}-{number}",
                        ["worker", "--provider", provider],
                        **with_vault(vault_policies.role_of_worker(provider)),
                    )
                    for number in range(count)
                ]
                for provider, count in workers.items()
            },
        }
        await admin.start(timeout_s=PATIENCE_S)  # it makes the streams
        all_roles = [one for of in roles.values() for one in of]
        await asyncio.gather(*(one.start(timeout_s=PATIENCE_S) for one in all_roles if one is not admin))
        ready = {
            "nats_url": ",".join(urls),
            "tenant": DEMO_TENANT,
            "admin_url": f"http://127.0.0.1:{admin.port}",
            "admin_token": admin_token,
            "database_url": database_url,
        }
        cluster = Cluster(ready, Nodes(started, operator), roles, [vault, postgres])
        await asyncio.to_thread(set_up, cluster.admin, openai_key=None)
        supervisor = asyncio.create_task(_supervise(all_roles), name="keep roles running")
        stack.push_async_callback(end, supervisor)
        yield cluster


async def _lost(_: Exception) -> None:
    """A node that is killed is no news."""


async def _supervise(roles: Sequence[Role]) -> None:
    def nobody_is_told() -> None:
        """Whoever wants to know asks the role."""

    await together({one.name: keep_running(one.name, one, on_restart=nobody_is_told) for one in roles})
