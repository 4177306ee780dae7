"""The fleet of a trial, with simulated vendors behind proxies: `fleet up` and one more worker whose line to NATS is
bad, or all of it on three nodes of NATS."""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nats
import psutil
from nats.aio.client import Client as Nats

from fleet.admin_client import AdminApi
from fleet.deploy.nats_users import User
from fleet.local.roles import Role
from fleet.simulator import Simulator
from tests.acceptance.chaos import cluster
from tests.acceptance.chaos.agents import Door
from tests.acceptance.chaos.cluster import Cluster
from tests.acceptance.chaos.plan import AGENTS, ALIAS, ALIAS_OF, LAST_RESORT, MODELS, VENDORS
from tests.acceptance.running import START_WITHIN_S, RunningStack, pools, running_stack
from tests.proxy import Proxy

WORKERS = {"openai": 2, "anthropic": 2, "google": 1}
OUTLYING_OF = "openai"
_ENVIRONMENT = {"LLM_ATTEMPT_GRACE_S": "20"}
"""After this time without an end an attempt is booked as abandoned: longer than any attempt of a trial goes on without
a sign, and short enough to be waited for."""
_TIMEOUTS = {"connect_s": 3, "first_token_s": 4, "idle_s": 4, "total_s": 60}


@dataclass(slots=True)
class Scene:
    fleet: RunningStack | Cluster
    simulator: Simulator
    lines: dict[str, Proxy]
    """`vendor-<provider>`, and with one node of NATS `agents` and `outlying-nats`."""
    secrets: Path | None = None
    """Where `fleet up` keeps the passwords of NATS' users; None: there are none."""
    outlying: psutil.Process | None = None
    """A worker that was started by hand beside those of `fleet up`; nobody starts it again."""
    seen_processes: set[psutil.Process] = field(default_factory=set[psutil.Process])

    @property
    def cluster(self) -> Cluster | None:
        return self.fleet if isinstance(self.fleet, Cluster) else None

    @property
    def door(self) -> Door:
        url = self.fleet.ready["nats_url"]
        if (bad := self.lines.get("agents")) is None:
            return Door(self.fleet.ready, (url,) * AGENTS)
        half = AGENTS // 2
        return Door(self.fleet.ready, (*(url,) * half, *(f"nats://127.0.0.1:{bad.port}",) * (AGENTS - half)))

    async def connect(self, user: User) -> Nats:
        login: dict[str, Any] = {}
        if self.secrets is not None:
            password = json.loads(self.secrets.read_text())[f"nats_{user.name}"]
            login = {"user": user.name, "password": password, "inbox_prefix": user.inbox_prefix}
        return await nats.connect(self.fleet.ready["nats_url"].split(","), **login)

    def process(self, role: str, which: int) -> psutil.Process | None:
        """The one that has the part now; None while it is being started again."""
        try:
            if role == "outlying":
                return self.outlying if self.outlying and self.outlying.is_running() else None
            pids = self.fleet.pids(role)
            return psutil.Process(pids[which % len(pids)])
        except (psutil.NoSuchProcess, FileNotFoundError):
            return None

    def note_processes(self) -> None:
        self.seen_processes.update(self.fleet.everybody())
        if self.outlying:
            self.seen_processes.add(self.outlying)


@asynccontextmanager
async def running(folder: Path, *, nodes: int = 1) -> AsyncGenerator[Scene]:
    """`nodes`: of NATS; more than one have no users, and no outlying worker."""
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(Simulator())
        port = urlsplit(simulator.url).port or 0
        lines = {f"vendor-{vendor}": await stack.enter_async_context(Proxy(port)) for vendor in VENDORS}
        if nodes > 1:
            several = await stack.enter_async_context(
                cluster.running(folder, nodes=nodes, workers=WORKERS, env=_ENVIRONMENT)
            )
            await asyncio.to_thread(_configure, several.admin, simulator, lines)
            scene = Scene(several, simulator, lines)
        else:
            fleet = await _fleet(stack, folder)
            for line in ("agents", "outlying-nats"):
                lines[line] = await stack.enter_async_context(Proxy(nats_port(fleet.ready)))
            await asyncio.to_thread(_configure, fleet.admin, simulator, lines)
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            outlying = await _outlying_worker(fleet, folder / "outlying.log", lines["outlying-nats"].port, listener)
            stack.push_async_callback(outlying.stop)
            assert outlying.process is not None
            secrets = folder / "state" / "secrets.json"
            scene = Scene(fleet, simulator, lines, secrets, psutil.Process(outlying.process.pid))
        scene.note_processes()
        yield scene


def nats_port(ready: dict[str, Any]) -> int:
    return urlsplit(ready["nats_url"]).port or 4222


async def _fleet(stack: AsyncExitStack, folder: Path) -> RunningStack:
    """Started and stopped in a thread, because both block while they wait."""
    context = running_stack(folder, *pools(**WORKERS), env=_ENVIRONMENT)
    fleet = await asyncio.to_thread(context.__enter__)
    stack.push_async_callback(asyncio.to_thread, context.__exit__, None, None, None)
    return fleet


def _configure(admin: AdminApi, simulator: Simulator, lines: dict[str, Proxy]) -> None:
    tenant: dict[str, Any] = {"aliases": {ALIAS: [f"{name}/{MODELS[name]}" for name in ALIAS_OF]}}
    # More than a trial can cost: what counts is that nothing stays kept free of it.
    tenant["daily_budget_usd"] = "1000"
    admin.put("tenants/demo", {**tenant, "fallbacks": [f"{LAST_RESORT}/{MODELS[LAST_RESORT]}"]})
    for vendor in VENDORS:
        path = urlsplit(simulator.base_url(vendor)).path
        url = f"http://127.0.0.1:{lines[f'vendor-{vendor}'].port}{path}"
        # Two endpoints, so that there is somewhere to go within a provider.
        endpoints = [{"name": name, "base_url": url} for name in ("east", "west")]
        config = {"endpoints": endpoints, "timeouts": _TIMEOUTS}
        body = {"tenant": "demo", "provider_type": vendor, "api_key": f"key-of-{vendor}-0123456789", "config": config}
        admin.post("llm-providers", body)


async def _outlying_worker(fleet: RunningStack, log: Path, nats_port: int, listener: socket.socket) -> Role:
    """As an operator adds a worker on another machine: the same role and settings, another way to NATS."""
    sibling = psutil.Process(fleet.pids(f"worker-{OUTLYING_OF}")[0]).environ()
    environment = {**sibling, "NATS_URL": f"nats://127.0.0.1:{nats_port}"}
    command = ["worker", "--provider", OUTLYING_OF]
    role = Role("outlying", command, env=environment, listener=listener, log=log, stop_within_s=60)
    await role.start(timeout_s=START_WITHIN_S)
    return role
