"""The fleet as a gateway: `fleet up` with one worker and nats-server on the measured core, every other role apart."""

import asyncio
import json
import shutil
import sys
import time
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.load.callers import Load, Seen, Tally, measure
from benchmarks.load.gateways import HOST, START_WITHIN_S, Parts, Probe, Session, connect
from benchmarks.load.nats_callers import Login, NatsCaller
from benchmarks.load.processes import STOP_WITHIN_S, Used, move, start, tree, used
from contracts.subjects import Provider

_KEY = "sk-benchmark-0123456789"
_CONCURRENCY = 4000
"""Requests that a worker works on at the same time; more than any scenario has."""
_CALLERS_OF_A_TENANT = 500
"""More of them are of several tenants, because no tenant may have so many requests that wait or run."""
_AZURE_API = "2024-10-21"


class Fleet:
    """A fleet that serves; `running_fleet` starts it. `ready`: what its ready file says."""

    name = "fleet"

    def __init__(self, session: Session, ready: Mapping[str, Any], logins: Sequence[Login]) -> None:
        self._session = session
        self._logins = logins
        self._roles = {role: [p for pid in pids for p in tree(pid)] for role, pids in ready["pids"].items()}
        self._measured = ""
        self._loads = 0

    async def load(self, load: Load) -> Seen[Probe]:
        self._measure(f"worker-{load.provider}")
        self._loads += 1
        tally = Tally(load)
        callers = [self._caller(tally, number) for number in range(load.callers)]
        await connect(callers)
        return await measure(tally, callers, lambda: self._session.probe(self.parts()))

    def _caller(self, tally: Tally, number: int) -> NatsCaller:
        login = self._logins[number // _CALLERS_OF_A_TENANT]
        return NatsCaller(tally, login, f"a{self._loads}-{number}")

    def parts(self) -> Parts:
        worker, server = used(self._roles[self._measured]), used(self._roles["nats"])
        apart = [p for role, ps in self._roles.items() if role not in (self._measured, "nats") for p in ps]
        whole = Used(worker.cpu_s + server.cpu_s, worker.rss_mb + server.rss_mb)
        return {"all": whole, "worker": worker, "nats": server, "rest": used(apart)}

    def _measure(self, role: str) -> None:
        """Puts the worker that a load is for beside nats-server, and the one before out of their way."""
        if role == self._measured:
            return
        if self._measured:
            move((p.pid for p in self._roles[self._measured]), self._session.cores.others)
        move((p.pid for p in (*self._roles[role], *self._roles["nats"])), self._session.cores.measured)
        self._measured = role


@asynccontextmanager
async def running_fleet(session: Session, providers: Iterable[str], *, callers: int) -> AsyncGenerator[Fleet]:
    """With a worker for each of these providers, none for the others, and tenants for so many callers."""
    wanted = set(providers)
    sizes = [f"{provider}={int(provider in wanted)}" for provider in Provider]
    options = [word for size in sizes for word in ("--workers", size)]
    async with _fleet_up(session, *options, cores={session.cores.others}) as ready_file:
        ready = _read(ready_file)
        tenants = [ready["tenant"], *(f"load-{number}" for number in range(1, -(-callers // _CALLERS_OF_A_TENANT)))]
        await _configure(ready, tenants, sorted(wanted), session.vendor_port)
        yield Fleet(session, ready, await _logins(ready_file, tenants))


async def ready_s(session: Session) -> float:
    """How long `fleet up` takes, with all of its workers and on all cores, until its ready file is there."""
    begun = time.monotonic()
    async with _fleet_up(session, cores=session.cores.all):
        return time.monotonic() - begun


async def _configure(
    ready: Mapping[str, Any], tenants: Sequence[str], providers: Iterable[str], vendor_port: int
) -> None:
    """Makes the tenants that are not there, takes their limits away, and gives them the vendor."""
    headers = {"Authorization": f"Bearer {ready['admin_token']}"}
    limits = {"limits": {"requests_per_minute": 0, "requests_per_day": 0}}
    async with httpx.AsyncClient(base_url=ready["admin_url"], headers=headers, trust_env=False) as admin:
        (await admin.put(f"/api/v1/tenants/{tenants[0]}", json=limits)).raise_for_status()
        for tenant in tenants[1:]:
            (await admin.post("/api/v1/tenants", json={"slug": tenant, **limits})).raise_for_status()
        for tenant in tenants:
            for provider in providers:
                config = {"endpoints": [_endpoint(provider, vendor_port)]}
                body = {"tenant": tenant, "provider_type": provider, "api_key": _KEY, "config": config}
                (await admin.post("/api/v1/llm-providers", json=body)).raise_for_status()


async def _logins(ready_file: Path, tenants: Sequence[str]) -> list[Login]:
    """Of each tenant, as soon as all of them can log in. Raises TimeoutError."""
    async with asyncio.timeout(START_WITHIN_S):
        while not {*tenants[1:]} <= _read(ready_file).get("agents", {}).keys():  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.1)
    ready = _read(ready_file)
    agents = {ready["tenant"]: ready, **ready.get("agents", {})}
    return [
        Login(ready["nats_url"], tenant, agents[tenant]["nats_user"], agents[tenant]["nats_password"])
        for tenant in tenants
    ]


def _endpoint(provider: str, port: int) -> Mapping[str, str]:
    match provider:
        case Provider.OPENAI:
            return {"base_url": f"{HOST}:{port}/v1"}
        case Provider.AZURE:
            return {"base_url": f"{HOST}:{port}", "api_version": _AZURE_API}
        case _:
            return {"base_url": f"{HOST}:{port}"}


@asynccontextmanager
async def _fleet_up(session: Session, *options: str, cores: Collection[int]) -> AsyncGenerator[Path]:
    """Gives its ready file."""
    state, ready_file = session.folder / "fleet", session.folder / "ready.json"
    argv = [sys.executable, "-m", "fleet", "up", "--state", str(state), "--ready-file", str(ready_file), *options]
    env = {"LLM_WORKER_CONCURRENCY": str(_CONCURRENCY)}
    process = start("fleet-up", argv, cores=cores, folder=session.folder, env=env)

    async def is_ready() -> bool:
        return ready_file.exists()

    try:
        await process.wait_until(is_ready, timeout_s=START_WITHIN_S)
        yield ready_file
    finally:
        await process.stop(timeout_s=STOP_WITHIN_S)
        shutil.rmtree(state, ignore_errors=True)


def _read(ready_file: Path) -> dict[str, Any]:
    return json.loads(ready_file.read_text())
