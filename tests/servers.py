"""Where the servers of the tests come from: given ones first, then containers, then the wheels. Never none at all."""

import asyncio
import os
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import nats
import nats.errors
from nats.js.errors import NotFoundError

from contracts.subjects import Provider
from fleet.deploy import vault_policies
from fleet.deploy.nats_config import Node
from fleet.local import vault_api
from fleet.local.servers import NatsServer, PostgresServer
from fleet.local.vault_api import Credentials, VaultApi
from tests.ports import free_port

PROVIDERS = tuple(Provider)
_CLUSTER_WITHIN_S = 90


@dataclass(frozen=True, slots=True)
class Vault:
    """A Vault or OpenBao that is set up for the fleet; whoever runs it."""

    addr: str
    root_token: str = field(repr=False)
    roles: dict[str, Credentials] = field(repr=False)

    def role(self, name: str) -> Credentials:
        """(role_id, secret_id) of `admin` or `worker-<provider>`."""
        return self.roles[name]

    @property
    def root(self) -> VaultApi:
        """May do anything; for what a test must see or prepare."""
        return VaultApi(self.addr, self.root_token)


class StoppableDatabase:
    """A database of its own on a PostgreSQL server that may be stopped, killed and started."""

    def __init__(self, server: PostgresServer, url: str) -> None:
        self.url = url
        self.stop, self.kill, self.start = server.stop, server.kill, server.start


@asynccontextmanager
async def nats_from_wheels(folder: Path) -> AsyncGenerator[NatsServer]:
    server = NatsServer(folder, port=free_port())
    await server.start()
    try:
        yield server
    finally:
        await server.kill()


@asynccontextmanager
async def nats_cluster(folder: Path, *, nodes: int = 3) -> AsyncGenerator[list[NatsServer]]:
    """Nodes on loopback that are one server to clients, as long as most of them run."""
    routes = [f"127.0.0.1:{free_port()}" for _ in range(nodes)]
    servers = [
        NatsServer(
            folder / name,
            port=free_port(),
            node=Node(name, routes[number], tuple(routes[:number] + routes[number + 1 :])),
        )
        for number, name in enumerate(f"node-{number}" for number in range(nodes))
    ]
    await asyncio.gather(*(server.start() for server in servers))
    try:
        await _has_leader(servers[0].url)
        yield servers
    finally:
        await asyncio.gather(*(server.kill() for server in servers))


async def _has_leader(url: str) -> None:
    """Until then nobody answers."""
    client = await nats.connect(url)
    try:
        async with asyncio.timeout(_CLUSTER_WITHIN_S):
            while True:
                with suppress(nats.errors.TimeoutError):
                    if b'"error"' not in (await client.request("$JS.API.INFO", timeout=2)).data:
                        return
    finally:
        await client.close()


async def clean_nats(url: str) -> None:
    """Deletes every stream, and with it every bucket and consumer."""
    client = await nats.connect(url)
    try:
        stream = client.jetstream()
        for found in await stream.streams_info():
            try:
                await stream.delete_stream(found.config.name or "")
            except NotFoundError:
                continue
    finally:
        await client.close()


async def set_up_vault(addr: str, root_token: str) -> Vault:
    root = VaultApi(addr, root_token)
    policies = vault_policies.policies(PROVIDERS)
    await vault_api.configure(root, policies)
    return Vault(addr, root_token, {name: await vault_api.new_credentials(root, name) for name in policies})


async def create_database(admin_url: str, *, template: str | None = None) -> str:
    """The URL of a new database."""
    name = f"fleet_{token_hex(6)}"
    # To copy files takes half the processor time of the default, which writes them as if they were changes.
    source = f' TEMPLATE "{template}" STRATEGY FILE_COPY' if template else ""
    await _execute(admin_url, f'CREATE DATABASE "{name}"{source}')
    return urlsplit(admin_url)._replace(path=f"/{name}").geturl()


async def drop_database(admin_url: str, url: str) -> None:
    await _execute(admin_url, f'DROP DATABASE IF EXISTS "{database_of(url)}" WITH (FORCE)')


def database_of(url: str) -> str:
    return urlsplit(url).path.removeprefix("/")


async def _execute(admin_url: str, statement: str) -> None:
    connection = await asyncpg.connect(admin_url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def docker_answers() -> bool:
    """Asked only where a daemon could be: importing the client costs more than starting a server."""
    if "DOCKER_HOST" not in os.environ and not Path("/var/run/docker.sock").exists():
        return False
    import docker
    import docker.errors

    try:
        docker.from_env().ping()
    except docker.errors.DockerException:
        return False
    return True


@contextmanager
def _running(image: str, port: int, *, command: str = "", env: dict[str, str] | None = None) -> Generator[str]:
    """A container; yields host:port where `port` is reachable. Readiness is the caller's to see."""
    from testcontainers.core.container import DockerContainer

    container: Any = DockerContainer(image).with_exposed_ports(port)
    if command:
        container = container.with_command(command)
    for key, value in (env or {}).items():
        container = container.with_env(key, value)
    with container:
        yield f"{container.get_container_host_ip()}:{container.get_exposed_port(port)}"


@contextmanager
def nats_in_container() -> Generator[str]:
    with _running("nats:2.12-alpine", 4222, command="-js") as where:
        yield f"nats://{where}"


@contextmanager
def postgres_in_container() -> Generator[str]:
    password = token_hex(12)
    env = {"POSTGRES_PASSWORD": password, "POSTGRES_USER": "fleet"}
    with _running("postgres:18-alpine", 5432, env=env) as where:
        yield f"postgresql://fleet:{password}@{where}/postgres"


@contextmanager
def vault_in_container() -> Generator[tuple[str, str]]:
    """(address, root token)"""
    token = token_hex(12)
    env = {"BAO_DEV_ROOT_TOKEN_ID": token, "BAO_DEV_LISTEN_ADDRESS": "0.0.0.0:8200"}
    with _running("openbao/openbao:2", 8200, command="server -dev", env=env) as where:
        yield f"http://{where}", token
