"""The whole stack on this machine: three servers, the control plane, the usage consumer and the worker pools.

Each role gets the environment that it needs and nothing else: no worker sees the database's address, no role sees
another's credentials.
"""

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from socket import socket
from typing import Annotated, Any

from pydantic import Field, SecretStr

from admin_api.notices.settings import MailSettings
from contracts.subjects import token
from fleet.admin_client import AdminApi
from fleet.deploy import nats_users, vault_policies
from fleet.local.demo_tenant import DEMO_TENANT, set_up
from fleet.local.process import PortTaken, Process, StartFailed
from fleet.local.roles import Role, run_once
from fleet.local.servers import NatsServer, PostgresServer, VaultServer
from fleet.local.state import State
from fleet.local.supervisor import Part, keep_running, together
from fleet.local.tenant_users import TenantUsers
from runtime import broker
from runtime.settings import BrokerSettings, RoleSettings

DATABASE = "fleet"
STOP_WITHIN_S = 15
"""What `fleet up` promises: from a signal until everything has ended."""
LONGEST_DRAIN_S = 3
"""What STOP_WITHIN_S leaves for streams: the other roles and then the servers stop after them."""
_WORKER_STOP_S = 5
_ROLE_STOP_S = 5
_START_TIMEOUT_S = 60
_START_TRIES = 3
_LOOPBACK = "127.0.0.0/8"
_PASSED_ON = (
    "DEFAULT_OPENAI_MODEL",
    "DEFAULT_ANTHROPIC_MODEL",
    "DEFAULT_GOOGLE_MODEL",
    "LLM_RATE_LIMIT_PER_MINUTE",
    "LLM_RATE_LIMIT_PER_DAY",
    "LLM_DAILY_COST_ALERT_THRESHOLD",
    "LLM_ALERT_ERROR_RATE",
    "LLM_ALERT_SLOWDOWN",
    "LLM_ATTEMPT_GRACE_S",
    "LLM_RESULT_RETENTION_S",
    "LLM_WORKER_CONCURRENCY",
    "LLM_WORKER_REQUESTS_MIB",
    "LLM_LOG_FORMAT",
    "LLM_LOG_LEVEL",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
)
"""What an operator may tune for all roles. No secrets are among them."""

Say = Callable[[str], None]
"""Tells whoever started the stack what happens."""


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports that were asked for. None: that of the last run if it is free, else any free one."""

    nats: int | None = None
    postgres: int | None = None
    vault: int | None = None
    admin: int | None = None


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the one who starts a stack may choose."""

    pools: Mapping[str, int]
    """Worker processes, by provider."""
    ports: Ports = field(default_factory=Ports)
    ready_file: Path | None = None


class DrainSettings(RoleSettings):
    """How long streams may go on after a signal, as the operator wishes; see `Stack.drain_s`."""

    llm_drain_grace_s: Annotated[float, Field(ge=0)] = LONGEST_DRAIN_S


class NatsWithStreams:
    """The NATS server together with its streams: those in memory are gone after a restart, and are made anew."""

    def __init__(self, server: NatsServer, operator: nats_users.User, password: SecretStr) -> None:
        self._server = server
        self._operator = operator
        self._password = password

    @property
    def process(self) -> Process | None:
        return self._server.process

    async def start(self) -> None:
        await self._server.start()
        settings = BrokerSettings(
            nats_url=self._server.url, nats_user=self._operator.name, nats_password=self._password
        )
        async with broker.connect(settings, name="fleet-up", inbox_prefix=self._operator.inbox_prefix) as connection:
            await broker.ensure_streams(connection, settings)

    async def stop(self) -> None:
        await self._server.stop()


class Stack:
    """All servers and roles of a fleet: `start` once, `keep_running` until cancelled, `stop` in any case."""

    def __init__(self, state: State, wishes: Wishes, *, say: Say) -> None:
        self._state = state
        self._wishes = wishes
        self._say = say
        self._wished_drain_s = DrainSettings().llm_drain_grace_s
        self._users = TenantUsers(state, tenants=[DEMO_TENANT], providers=list(wishes.pools))
        ports = wishes.ports
        self._nats = NatsServer(
            state.folder / "nats",
            port=state.port("nats", wanted=ports.nats),
            accounts=self._users.accounts(),
            log=state.log("nats"),
            keys=state.jetstream_keys(),
        )
        operator = nats_users.operator()
        self._nats_with_streams = NatsWithStreams(self._nats, operator, SecretStr(self._users.password(operator)))
        self._vault = VaultServer(
            state.folder / "vault",
            providers=list(wishes.pools),
            port=state.port("vault", wanted=ports.vault),
            log=state.log("vault"),
        )
        self._postgres = PostgresServer(
            state.folder / "postgres", port=state.port("postgres", wanted=ports.postgres), log=state.log("postgres")
        )
        self._admin_listener = state.listener("admin", wanted=ports.admin)
        self._admin_token = os.environ.get("LLM_ADMIN_TOKEN") or state.secret("admin_token", secrets.token_urlsafe)
        self._roles: dict[str, list[Role]] = {}

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self._admin_listener.getsockname()[1]}"

    @property
    def drain_s(self) -> float:
        """How long a worker's streams may go on after a signal."""
        return min(self._wished_drain_s, LONGEST_DRAIN_S)

    @property
    def admin(self) -> AdminApi:
        return AdminApi(self.admin_url, SecretStr(self._admin_token))

    async def start(self) -> None:
        """Returns when every part answers and the demo tenant is ready. Each part starts as soon as what it needs
        answers. Raises a group of StartFailed, Unreachable, AdminRefused."""
        self._state.forget_ready(self._wishes.ready_file)
        if self._wished_drain_s > self.drain_s:
            wished = f"LLM_DRAIN_GRACE_S={self._wished_drain_s:g}"
            self._say(f"{wished}: workers get {LONGEST_DRAIN_S} s, because everything stops within {STOP_WITHIN_S} s")
        async with asyncio.TaskGroup() as group:

            def begin(name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
                return group.create_task(work, name=f"start {name}")

            nats = begin("nats", self._start_server("nats", wanted=self._wishes.ports.nats))
            vault = begin("vault", self._start_server("vault", wanted=self._wishes.ports.vault))
            postgres = begin("postgres", self._start_server("postgres", wanted=self._wishes.ports.postgres))
            tables = begin("tables", self._make_tables(after=postgres))
            begin("admin", self._start_admin(after=(nats, vault, tables)))
            begin("usage", self._start_roles("usage", self._usage, after=(nats, tables)))
            for provider in self._wishes.pools:
                pool = self._start_roles(f"worker-{provider}", partial(self._pool, provider), after=(nats, vault))
                begin(f"worker-{provider}", pool)
        self._write_ready()

    async def keep_running(self) -> None:
        """Starts again what dies, and lets tenants that are added log in, until it is cancelled."""
        parts: dict[str, Part] = {**self._servers(), **{role.name: role for role in self._all_roles()}}
        work = {f"keep {name}": keep_running(name, part, on_restart=self._write_ready) for name, part in parts.items()}
        await together({**work, "tenants' users": self._users.keep_current(self._nats, on_change=self._write_ready)})

    async def stop(self) -> None:
        """Ends the workers, so that nobody takes new work; then the other roles, which book what was done; then the
        servers. Each of the three takes 5 s at most."""
        self._state.forget_ready(self._wishes.ready_file)
        workers = [role for name, roles in self._roles.items() if name not in ("usage", "admin") for role in roles]
        others = [role for role in self._all_roles() if role not in workers]
        for parts in (workers, others, self._servers().values()):
            await asyncio.gather(*(part.stop() for part in parts))

    def facts(self) -> dict[str, Any]:
        """What the ready file says: addresses, credentials, process ids; and in `agents`, once there are tenants
        besides the demo's, user and password of theirs."""
        agent = nats_users.agent(DEMO_TENANT)
        agents = self._users.facts(besides=DEMO_TENANT)
        return {
            "nats_url": self._nats.url,
            "nats_user": agent.name,
            "nats_password": self._users.password(agent),
            "tenant": DEMO_TENANT,
            **({"agents": agents} if agents else {}),
            "admin_url": self.admin_url,
            "admin_token": self._admin_token,
            "database_url": self._postgres.url(DATABASE),
            "vault_addr": self._vault.addr,
            "pids": {
                **{name: [role.process.pid for role in roles if role.process] for name, roles in self._roles.items()},
                **{name: [server.process.pid] for name, server in self._servers().items() if server.process},
            },
        }

    def _write_ready(self) -> None:
        self._state.write_ready(self.facts(), self._wishes.ready_file)

    def _servers(self) -> dict[str, Part]:
        return {"nats": self._nats_with_streams, "vault": self._vault, "postgres": self._postgres}

    def _all_roles(self) -> list[Role]:
        return [role for roles in self._roles.values() for role in roles]

    async def _start_server(self, name: str, *, wanted: int | None) -> None:
        """Starts a server at the port that was chosen for it. When another program has taken that since, it gets
        another one: nobody is told of the port before the server answers. But a port that was `wanted` stays, and
        the start fails."""
        server = {"nats": self._nats, "vault": self._vault, "postgres": self._postgres}[name]

        async def start() -> None:
            try:
                await self._servers()[name].start()
            except PortTaken:
                if wanted is None:
                    server.port = self._state.port(name)
                raise

        await self._start(name, start)
        if server is self._nats:
            self._state.jetstream_key_holds()

    async def _make_tables(self, *, after: Awaitable[None]) -> None:
        """Brings the database up to date, once the server answers."""
        await after
        database_url = await self._postgres.ensure_database(DATABASE)
        env = {**_of_environment(_PASSED_ON), "DATABASE_URL": database_url}
        await run_once("migrate", ["migrate"], env=env, log=self._state.log("migrate"))
        self._say("the database is up to date")

    async def _start_roles(
        self, name: str, make: Callable[[], list[Role]], *, after: Iterable[Awaitable[None]]
    ) -> None:
        """Makes and starts the processes of a role, once what they need answers."""
        for need in after:
            await need
        self._roles[name] = make()
        async with asyncio.TaskGroup() as group:
            for role in self._roles[name]:
                group.create_task(self._start(role.name, role.start), name=f"start {role.name}")

    async def _start_admin(self, *, after: Iterable[Awaitable[None]]) -> None:
        """Starts the admin API, and by it makes the demo tenant."""
        await self._start_roles("admin", self._admin, after=after)
        openai_key = os.environ.get("OPENAI_API_KEY")
        await asyncio.to_thread(set_up, self.admin, openai_key=SecretStr(openai_key) if openai_key else None)
        self._say(f"tenant {DEMO_TENANT} is set up")

    async def _start(self, name: str, start: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Tries more than once: a predecessor that was killed may still be letting go of its files and ports."""
        async with asyncio.timeout(_START_TIMEOUT_S):
            for tried in range(1, _START_TRIES + 1):
                try:
                    await start()
                except StartFailed:
                    if tried == _START_TRIES:
                        raise
                    await asyncio.sleep(0.5)
                else:
                    self._say(f"{name} answers")
                    return

    def _admin(self) -> list[Role]:
        env = {
            **self._vendor_env(vault_policies.ADMIN_ROLE),
            "DATABASE_URL": self._postgres.url(DATABASE),
            "LLM_ADMIN_TOKEN": self._admin_token,
            **_of_environment(map(str.upper, MailSettings.model_fields)),
        }
        return [self._role("admin", ["admin"], user=nats_users.admin(), env=env, listener=self._admin_listener)]

    def _usage(self) -> list[Role]:
        env = {"DATABASE_URL": self._postgres.url(DATABASE)}
        return [self._role("usage", ["usage"], user=nats_users.usage(), env=env)]

    def _pool(self, provider: str) -> list[Role]:
        pool = f"worker-{provider}"
        vendor_env = self._vendor_env(vault_policies.role_of_worker(provider))
        return [
            self._role(
                pool if number == 1 else f"{pool}-{number}",
                ["worker", "--provider", provider],
                user=nats_users.worker(provider),
                env={**vendor_env, "LLM_DRAIN_GRACE_S": str(self.drain_s)},
                stop_within_s=_WORKER_STOP_S,
            )
            for number in range(1, self._wishes.pools[provider] + 1)
        ]

    def _role(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        user: nats_users.User,
        env: Mapping[str, str],
        listener: socket | None = None,
        stop_within_s: float = _ROLE_STOP_S,
    ) -> Role:
        """A role with what every role gets, with its own NATS user, and with `env`, which is for this role alone."""
        nats_env = {
            "NATS_URL": self._nats.url,
            "NATS_USER": user.name,
            "NATS_PASSWORD": self._users.password(user),
            "NATS_INBOX_PREFIX": user.inbox_prefix,
        }
        return Role(
            name,
            arguments,
            env={**_of_environment(_PASSED_ON), **nats_env, **env},
            listener=listener or self._state.listener(name),
            log=self._state.log(name),
            stop_within_s=stop_within_s,
        )

    def _vendor_env(self, vault_role: str) -> dict[str, str]:
        """What a role gets that handles vendors' keys and calls addresses of tenants' choice."""
        role_id, secret_id = self._vault.role(vault_role)
        # Loopback, where simulators and local servers are, and what the operator adds.
        networks = filter(None, (_LOOPBACK, os.environ.get("LLM_ALLOWED_PRIVATE_NETWORKS")))
        return {
            "VAULT_ADDR": self._vault.addr,
            "VAULT_ROLE_ID": role_id,
            "VAULT_SECRET_ID": secret_id,
            **self._state.sealing_keys(),
            "LLM_ALLOWED_PRIVATE_NETWORKS": ",".join(networks),
        }


def pool_sizes(available: Sequence[str], wanted: Sequence[str]) -> dict[str, int]:
    """Worker processes by provider: one for each in `available`, unless `wanted` says otherwise, as `openai=3`. Raises
    ValueError."""
    sizes = dict.fromkeys(available, 1)
    for wish in wanted:
        provider, _, count = wish.partition("=")
        if token(provider) not in sizes:
            raise ValueError(f"--workers {wish}: there is no adapter for it; there are: {', '.join(available)}")
        if not count.isdecimal():
            raise ValueError(f"--workers {wish}: must read like openai=3")
        sizes[provider] = int(count)
    return sizes


def _of_environment(names: Iterable[str]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}
