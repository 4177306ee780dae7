"""A fleet to attack: NATS with an account for each tenant, a simulated vendor, and every role as a process."""

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import nats
import psutil
from nats.aio.client import Client as Nats
from pydantic import SecretStr

from contracts import subjects
from fleet.admin_client import AdminApi
from fleet.client import Client
from fleet.deploy import nats_config, nats_users
from fleet.local.process import Process
from fleet.local.roles import Role
from fleet.local.servers import NatsServer
from fleet.local.stack import NatsWithStreams
from fleet.simulator import Simulator
from fleet.simulator.ledger import Entry
from runtime.sealing import fingerprint
from tests.kit import SEALING_KEY
from tests.patience import PATIENCE_S
from tests.ports import free_port
from tests.servers import Vault

POOLS = ("openai", "anthropic")
MODELS = {"openai": "gpt-4o-mini", "anthropic": "claude-sonnet-4-5"}
ATTEMPT_GRACE_S = 5
"""After this time without an end an attempt is booked as abandoned; minutes, in a fleet that is not a test's."""
_STOP_WITHIN_S = 10


@dataclass(frozen=True, slots=True)
class Tenant:
    """One of the fleet's tenants, with what its agents and its admin have."""

    name: str
    nats_url: str
    password: str = field(repr=False)
    key: str = field(repr=False)
    """Its key at the vendors, by which their ledgers know its calls."""
    admin: AdminApi
    """With the token of the tenant's own admin."""
    providers: Mapping[str, str]
    """From provider to the id of its configuration."""

    def client(self, agent: str = "agent", **options: Any) -> Client:
        return Client(
            self.nats_url, tenant=self.name, agent=agent, user=f"agent-{self.name}", password=self.password, **options
        )

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[Nats]:
        """As an agent in another language has it."""
        connection = await nats.connect(
            self.nats_url,
            user=f"agent-{self.name}",
            password=self.password,
            inbox_prefix=subjects.inbox_prefix(self.name),
            error_cb=_say_nothing,
            pending_size=64 * 1024**2,
        )
        try:
            yield connection
        finally:
            await connection.close()


async def _say_nothing(_: Exception) -> None:
    """What the server refuses an attacker is seen by its effects."""


class Fleet:
    """Its parts by name, and what they say of themselves. Made by `running`."""

    def __init__(
        self, folder: Path, vault: Vault, database_url: str, simulator: Simulator, *, names: Sequence[str], **env: str
    ) -> None:
        self.folder, self.database_url, self.simulator = folder, database_url, simulator
        self._vault = vault
        self._env = env
        """Settings that every role gets."""
        self._passwords: dict[str, str] = {}
        self._users = nats_users.users(tenants=names, providers=POOLS)
        login = nats_config.by_password(lambda user: nats_config.quoted(self.password(user.name)))
        self.nats = NatsServer(
            folder / "nats", port=free_port(), accounts=nats_config.accounts(self._users, login=login)
        )
        operator = nats_users.operator()
        self._servers = NatsWithStreams(self.nats, operator, SecretStr(self.password(operator.name)))
        self._free_names = list(names)
        self._admin_token = secrets.token_urlsafe()
        self._keys: dict[str, str] = {}
        self._roles: dict[str, Role] = {}
        self._listeners: list[socket.socket] = []

    def password(self, user: str) -> str:
        return self._passwords.setdefault(user, secrets.token_urlsafe())

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self._roles['admin'].port}"

    @property
    def admin(self) -> AdminApi:
        """With the operator's token."""
        return AdminApi(self.admin_url, SecretStr(self._admin_token))

    async def start(self) -> None:
        await self.start_nats()
        self._add(
            "admin", ["admin"], nats_users.admin(), DATABASE_URL=self.database_url, LLM_ADMIN_TOKEN=self._admin_token
        )
        self._add("usage", ["usage"], nats_users.usage(), DATABASE_URL=self.database_url)
        for provider in POOLS:
            self._add(f"worker-{provider}", ["worker", "--provider", provider], nats_users.worker(provider))
        async with asyncio.TaskGroup() as group:
            for role in self._roles.values():
                group.create_task(role.start(timeout_s=PATIENCE_S))

    async def start_nats(self) -> None:
        """With its streams, those in memory too."""
        await self._servers.start()

    async def start_role(self, name: str) -> None:
        """Once more, after it ended."""
        await self._roles[name].start(timeout_s=PATIENCE_S)

    async def stop(self) -> None:
        await asyncio.gather(*(role.stop() for role in self._roles.values()))
        await self.nats.kill()
        for listener in self._listeners:
            listener.close()

    def process(self, name: str) -> Process:
        """Of a role, or of `nats`."""
        process = self.nats.process if name == "nats" else self._roles[name].process
        assert process is not None
        return process

    def memory(self) -> dict[str, int]:
        """Resident bytes of each role and of NATS."""
        return {name: psutil.Process(self.process(name).pid).memory_info().rss for name in (*self._roles, "nats")}

    def disk(self) -> int:
        """Bytes that NATS keeps in files."""
        total = 0
        for path in (self.folder / "nats" / "jetstream").rglob("*"):
            with suppress(FileNotFoundError):  # the server replaces its files meanwhile
                total += path.stat().st_size if path.is_file() else 0
        return total

    async def tenant(self, **settings: Any) -> Tenant:
        """A new tenant with every vendor, without a limit unless `settings` has one."""
        name = self._free_names.pop(0)
        key = f"sk-{secrets.token_hex(20)}"
        self._keys[name] = fingerprint(SecretStr(key))

        def make() -> Tenant:
            limits = {"requests_per_minute": 0, "requests_per_day": 0}
            self.admin.post("tenants", {"slug": name, "limits": limits, **settings})
            added = {
                provider: self.admin.post(
                    "llm-providers",
                    {
                        "tenant": name,
                        "provider_type": provider,
                        "api_key": key,
                        "config": {"base_url": self.simulator.base_url(provider)},
                        "is_default": provider == POOLS[0],
                    },
                )
                for provider in POOLS
            }
            token = self.admin.post("tokens", {"name": "own", "role": "tenant_admin", "tenant": name})["token"]
            return Tenant(
                name=name,
                nats_url=self.nats.url,
                password=self.password(f"agent-{name}"),
                key=key,
                admin=AdminApi(self.admin_url, SecretStr(token)),
                providers={provider: made["id"] for provider, made in added.items()},
            )

        tenant = await asyncio.to_thread(make)
        async with tenant.client("first") as client:
            for provider in POOLS:  # so that workers have heard of it
                await client.complete(f"{provider}/{MODELS[provider]}", "Hello")
        return tenant

    async def use_vendor(self, tenant: Tenant, provider: str, base_url: str, **config: Any) -> None:
        """The tenant's admin names another server, as it may."""
        body = {"config": {"base_url": base_url, **config}}
        await asyncio.to_thread(tenant.admin.put, f"llm-providers/{tenant.providers[provider]}", body)

    def calls(self, tenant: Tenant) -> list[Entry]:
        """What the simulated vendors were asked with the tenant's key."""
        own = self._keys[tenant.name]
        return [entry for entry in self.simulator.ledger.entries if entry.key_fingerprint == own]

    async def rows(self, tenant: Tenant) -> list[Mapping[str, Any]]:
        """What the ledger has of the tenant."""
        connection = await asyncpg.connect(self.database_url)
        try:
            return await connection.fetch("SELECT * FROM llm_usage_events WHERE tenant = $1", tenant.name)
        finally:
            await connection.close()

    @asynccontextmanager
    async def operator(self) -> AsyncGenerator[Nats]:
        """Who may ask the servers for everything, and see what is stored."""
        user = nats_users.operator()
        connection = await nats.connect(
            self.nats.url, user=user.name, password=self.password(user.name), inbox_prefix=user.inbox_prefix
        )
        try:
            yield connection
        finally:
            await connection.close()

    def _add(self, name: str, arguments: Sequence[str], user: nats_users.User, **own: str) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self._listeners.append(listener)
        vault: dict[str, str] = {}
        if name != "usage":
            role_id, secret_id = self._vault.role(name)
            vault = {
                "VAULT_ADDR": self._vault.addr,
                "VAULT_ROLE_ID": role_id,
                "VAULT_SECRET_ID": secret_id,
                "LLM_ENCRYPTION_KEY": SEALING_KEY.get_secret_value(),
                "LLM_ALLOWED_PRIVATE_NETWORKS": "127.0.0.0/8",
            }
        env = {
            "PATH": os.environ["PATH"],
            "NATS_URL": self.nats.url,
            "NATS_USER": user.name,
            "NATS_PASSWORD": self.password(user.name),
            "NATS_INBOX_PREFIX": user.inbox_prefix,
            "LLM_LOG_FORMAT": "plain",
            "LLM_ATTEMPT_GRACE_S": str(ATTEMPT_GRACE_S),
            **vault,
            **self._env,
            **own,
        }
        log = self.folder / f"{name}.log"
        self._roles[name] = Role(name, arguments, env=env, listener=listener, log=log, stop_within_s=_STOP_WITHIN_S)


@asynccontextmanager
async def running(folder: Path, vault: Vault, database_url: str, *, tenants: int, **env: str) -> AsyncGenerator[Fleet]:
    """A fleet that has room for so many tenants. `env`: settings for every role."""
    names = [f"t-{secrets.token_hex(4)}" for _ in range(tenants)]
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(Simulator())
        fleet = Fleet(folder, vault, database_url, simulator, names=names, **env)
        stack.push_async_callback(fleet.stop)
        await fleet.start()
        yield fleet
