"""Gateways with one interface, and those that are called over HTTP: the vendor itself, the relay, and peers."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import httpx
import psutil

from benchmarks.load.callers import Load, Seen, Tally, measure
from benchmarks.load.http_callers import Address, HttpCaller
from benchmarks.load.nats_callers import NatsCaller
from benchmarks.load.processes import (
    Cores,
    Used,
    running_on,
    start,
    stolen_s,
    tree,
    used,
)
from benchmarks.load.vendor import Script
from fleet.local.process import Process, free_port

START_WITHIN_S = 180
HOST = "http://127.0.0.1"
_CONNECTING_AT_ONCE = 100
_OF_THE_REPOSITORY = {"PYTHONPATH": str(Path(__file__).parents[2])}
"""For modules of this package that run as processes."""
_FIRST = Script(tokens=16)
"""What a gateway is asked before anything is measured."""

Parts = Mapping[str, Used]
"""What each part of a gateway used. `all` is the whole gateway, `worker` the fleet's worker alone."""


@dataclass(frozen=True, slots=True)
class Probe:
    parts: Parts
    harness: Used
    """The callers and the vendor, on the other core."""
    stolen_s: float


class Gateway(Protocol):
    """A gateway that serves."""

    @property
    def name(self) -> str: ...
    async def load(self, load: Load) -> Seen[Probe]:
        """Puts it under a load, every reply checked."""
        ...

    def parts(self) -> Parts: ...


@dataclass(frozen=True, slots=True)
class Session:
    """What all gateways of a run share."""

    cores: Cores
    folder: Path
    vendor: Process
    vendor_port: int

    def probe(self, parts: Parts) -> Probe:
        harness = [psutil.Process(os.getpid()), psutil.Process(self.vendor.pid)]
        return Probe(parts, used(harness), stolen_s())


@asynccontextmanager
async def session(folder: Path) -> AsyncGenerator[Session]:
    """A vendor that serves, and this process beside it on the other core."""
    cores, port = Cores.of_this_process(), free_port()
    with running_on({cores.others}):
        argv = [sys.executable, "-m", "benchmarks.load.vendor", "--port", str(port)]
        vendor = start("vendor", argv, cores={cores.others}, folder=folder, env=_OF_THE_REPOSITORY)
        try:
            await _answers(vendor, Address(port))
            yield Session(cores, folder, vendor, port)
        finally:
            await vendor.kill()


@dataclass(frozen=True, slots=True)
class HttpGateway:
    """Anything that speaks OpenAI's chat completions; without processes, the vendor itself."""

    name: str
    session: Session
    address: Address
    processes: Sequence[psutil.Process] = ()

    async def load(self, load: Load) -> Seen[Probe]:
        tally = Tally(load)
        callers = [HttpCaller(tally, self.address) for _ in range(load.callers)]
        await connect(callers)
        return await measure(tally, callers, lambda: self.session.probe(self.parts()))

    def parts(self) -> Parts:
        return {"all": used(self.processes)} if self.processes else {}


@dataclass(frozen=True, slots=True)
class Peer:
    """A gateway of others, installed in a folder of theirs; see benchmarks/README.md."""

    name: str
    program: str
    """What must be there, below the folder of all peers."""
    argv: Callable[[Session, Path, int], Sequence[str]]
    """Of a session, the program and a free port."""
    path: str = "/v1/chat/completions"
    model_prefix: str = ""
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    says_its_port: bool = False
    """It takes a port of its own, and prints `PORT <number>`."""


_START_TENSORZERO = """
import signal, sys
from tensorzero.tensorzero import _start_http_gateway
gateway = _start_http_gateway(
    config_file=sys.argv[1], clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=False
)
print("PORT", gateway.base_url.split(":")[2].split("/")[0], flush=True)
signal.sigwait({signal.SIGTERM, signal.SIGINT})
"""
"""The wheel has no program, but what serves OpenAI's routes from threads in Rust; Python sleeps meanwhile."""


def _tensorzero(session: Session, program: Path, _port: int, models: Iterable[str]) -> Sequence[str]:
    """Its configuration names each model, and switches everything off that it could store."""
    lines = ["[gateway]", "observability.enabled = false", "disable_pseudonymous_usage_analytics = true"]
    for model in models:
        lines += [f"[models.{model}]", 'routing = ["fake"]', f"[models.{model}.providers.fake]", 'type = "openai"']
        lines += [f'model_name = "{model}"', f'api_base = "{HOST}:{session.vendor_port}/v1/"']
        lines += ['api_key_location = "none"']
    config = session.folder / "tensorzero.toml"
    config.write_text("\n".join(lines))
    return [str(program), "-c", _START_TENSORZERO, str(config)]


def _smg(session: Session, program: Path, port: int) -> Sequence[str]:
    options = {
        "--host": "127.0.0.1",
        "--port": str(port),
        "--prometheus-host": "127.0.0.1",
        "--prometheus-port": str(free_port()),
        "--backend": "openai",
        "--worker-urls": f"{HOST}:{session.vendor_port}",
        "--log-level": "error",
    }
    return [
        str(program),
        "launch",
        *(word for pair in options.items() for word in pair),
        "--disable-tokenizer-autoload",
    ]


def peers(folder: Path | None, scripts: Iterable[Script]) -> list[Peer]:
    """The relay, and those that are installed in `folder`. `scripts`: what they will be asked for."""
    models = sorted({script.model for script in (*scripts, _FIRST)})

    def relay(session: Session, program: Path, port: int) -> Sequence[str]:
        module = [str(program), "-m", "benchmarks.load.relay"]
        return [*module, "--port", str(port), "--to", str(session.vendor_port)]

    def tensorzero(session: Session, program: Path, port: int) -> Sequence[str]:
        return _tensorzero(session, program, port, models)

    found = [
        Peer(
            "tensorzero",
            "tz/venv/bin/python",
            tensorzero,
            path="/openai/v1/chat/completions",
            model_prefix="tensorzero::model_name::",
            says_its_port=True,
        ),
        Peer("smg", "smg/bin/smg", _smg),
    ]
    installed = [peer for peer in found if folder and (folder / peer.program).exists()]
    return [Peer("relay", sys.executable, relay, env=_OF_THE_REPOSITORY), *installed]


def direct(session: Session) -> HttpGateway:
    """The vendor itself: what every gateway adds to."""
    return HttpGateway("direct", session, Address(session.vendor_port))


@asynccontextmanager
async def running_peer(session: Session, peer: Peer, folder: Path | None) -> AsyncGenerator[HttpGateway]:
    """Alone on its core."""
    port = free_port()
    argv = peer.argv(session, (folder or Path()).absolute() / peer.program, port)
    process = start(peer.name, argv, cores={session.cores.measured}, folder=session.folder, env=peer.env)
    try:
        if peer.says_its_port:
            port = await _port_of(process)
        address = Address(port, path=peer.path, model_prefix=peer.model_prefix)
        await _answers(process, address)
        yield HttpGateway(peer.name, session, address, tree(process.pid))
    finally:
        await process.stop()


async def _port_of(process: Process) -> int:
    found: list[str] = []

    async def said() -> bool:
        found[:] = re.findall(r"^PORT (\d+)$", process.command.log.read_text(), re.MULTILINE)
        return bool(found)

    await process.wait_until(said, timeout_s=START_WITHIN_S)
    return int(found[0])


async def _answers(process: Process, address: Address) -> None:
    """Returns when a whole reply came. Raises StartFailed."""
    head, _, body = address.request(Load(_FIRST, 1, 1, stream=False)).partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    async with httpx.AsyncClient(base_url=f"{HOST}:{address.port}", trust_env=False) as client:

        async def whole() -> bool:
            try:
                answer = await client.post(address.path, content=body, headers=headers)
            except httpx.TransportError:
                return False
            return answer.is_success and _FIRST.text in answer.text

        await process.wait_until(whole, timeout_s=START_WITHIN_S)


async def connect(callers: Sequence[HttpCaller | NatsCaller]) -> None:
    """Some at a time, so that none is lost in a full backlog."""
    for first in range(0, len(callers), _CONNECTING_AT_ONCE):
        await asyncio.gather(*(caller.connect() for caller in callers[first : first + _CONNECTING_AT_ONCE]))
