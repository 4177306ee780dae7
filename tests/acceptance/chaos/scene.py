"""The fleet of a trial: `fleet up`, simulated vendors behind proxies, and one more worker whose line to NATS is bad."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from fleet.admin_client import AdminApi
from fleet.local.roles import Role
from fleet.simulator import Simulator
from tests.acceptance.chaos.agents import Door
from tests.acceptance.chaos.plan import AGENTS, ALIAS, ALIAS_OF, LAST_RESORT, MODELS, VENDORS
from tests.acceptance.running import START_WITHIN_S, RunningStack, pools, running_stack
from tests.proxy import Proxy

WORKERS = {"openai": 2, "anthropic": 2, "google": 1}
OUTLYING_OF = "openai"
_ATTEMPT_GRACE_S = 20
"""After this time without an end an attempt is booked as abandoned: longer than any attempt of a trial goes on without
a sign, and short enough to be waited for."""
_TIMEOUTS = {"connect_s": 3, "first_token_s": 4, "idle_s": 4, "total_s": 60}


@dataclass(slots=True)
class Scene:
    stack: RunningStack
    state: Path
    simulator: Simulator
    lines: dict[str, Proxy]
    """`vendor-<provider>`, `agents`, `outlying-nats`."""
    outlying: psutil.Process
    """A worker that was started by hand beside those of `fleet up`; nobody starts it again."""
    seen_processes: set[psutil.Process] = field(default_factory=set[psutil.Process])

    @property
    def door(self) -> Door:
        direct = nats_port(self.stack.ready)
        half = AGENTS // 2
        return Door(self.stack.ready, (*(direct,) * half, *(self.lines["agents"].port,) * (AGENTS - half)))

    def process(self, role: str, which: int) -> psutil.Process | None:
        """The one that has the part now; None while it is being started again."""
        try:
            if role == "outlying":
                return self.outlying if self.outlying.is_running() else None
            pids = self.stack.pids(role)
            return psutil.Process(pids[which % len(pids)])
        except (psutil.NoSuchProcess, FileNotFoundError):
            return None

    def note_processes(self) -> None:
        self.seen_processes.update(self.stack.everybody())
        self.seen_processes.add(self.outlying)


def nats_port(ready: dict[str, Any]) -> int:
    return urlsplit(ready["nats_url"]).port or 4222


@asynccontextmanager
async def running(folder: Path) -> AsyncGenerator[Scene]:
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(Simulator())
        fleet = await _fleet(stack, folder)
        port = urlsplit(simulator.url).port or 0
        lines = {f"vendor-{vendor}": await stack.enter_async_context(Proxy(port)) for vendor in VENDORS}
        for line in ("agents", "outlying-nats"):
            lines[line] = await stack.enter_async_context(Proxy(nats_port(fleet.ready)))
        await asyncio.to_thread(_configure, fleet.admin, simulator, lines)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        outlying = await _outlying_worker(fleet, folder / "outlying.log", lines["outlying-nats"].port, listener)
        stack.push_async_callback(outlying.stop)
        assert outlying.process is not None
        scene = Scene(fleet, folder / "state", simulator, lines, psutil.Process(outlying.process.pid))
        scene.note_processes()
        yield scene


async def _fleet(stack: AsyncExitStack, folder: Path) -> RunningStack:
    """Started and stopped in a thread, because both block while they wait."""
    context = running_stack(folder, *pools(**WORKERS), env={"LLM_ATTEMPT_GRACE_S": str(_ATTEMPT_GRACE_S)})
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
