"""The fleet under load on one core, beside other gateways: the table of docs/performance.md, with every reply checked.

    python -m benchmarks.load [--rounds 3] [--peers DIR] [--soak 3600] [--only streams,fast] [--markdown] [--json FILE]

One worker and nats-server have a core to themselves, as each other gateway has; the vendor and the callers are on the
next one, with every other role of the fleet. benchmarks/README.md says how each figure is measured. Ends with 1 when a
reply was not whole. `!` is a goal that was missed, `~` a figure of a run that other processes disturbed.
"""

import argparse
import asyncio
import json
import platform
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import uvloop
from rich.console import Console
from rich.markdown import Markdown

from benchmarks.load import table
from benchmarks.load.gateways import (
    Gateway,
    Session,
    direct,
    peers,
    running_peer,
    session,
)
from benchmarks.load.local_fleet import ready_s, running_fleet
from benchmarks.load.processes import quiet, running_on, used_by_others_s
from benchmarks.load.scenarios import Run, Scenario, chosen, memory, run_of, soak, warming
from benchmarks.load.table import Results
from contracts.subjects import Provider
from fleet.local.process import StartFailed

READY, AGENT = "ready", "agent"
_TRIES = 3
"""How often a run is made anew that was disturbed."""
_PIECE_S = 60
"""How long the callers of a soak stay before others take their places."""
_REST_S = 1
_OPEN_FILES = 16_384
_PATIENCE_S = 600


@dataclass(frozen=True, slots=True)
class Wishes:
    """What was asked for on the command line."""

    only: Sequence[str]
    gateways: Sequence[str]
    """Empty: all that are there."""
    peers: Path | None
    rounds: int
    soak_s: float
    quick: bool
    callers: int | None
    patience_s: float

    def wants(self, scenario: str) -> bool:
        return not self.only or scenario.startswith(tuple(self.only))

    def has(self, gateway: str) -> bool:
        return not self.gateways or gateway in self.gateways


class Patience:
    """How long a session may still wait for a quiet machine, runs that were in vain included."""

    def __init__(self, seconds: float) -> None:
        self._left_s = seconds

    async def measured(self, gateway: Gateway, scenario: Scenario) -> Run:
        """Tries again while a run was disturbed, and gives the last one when patience has ended."""
        for _ in range(_TRIES - 1):
            run = await self._when_quiet(gateway, scenario)
            if not run.disturbed or self._left_s <= 0:
                return run
            self._left_s -= run.seconds
        return await self._when_quiet(gateway, scenario)

    async def _when_quiet(self, gateway: Gateway, scenario: Scenario) -> Run:
        begun = time.monotonic()
        if self._left_s > 0:
            await quiet(patience_s=self._left_s)
        self._left_s -= time.monotonic() - begun
        run = await _run(gateway, scenario)
        _say(run)
        return run


async def main(wishes: Wishes) -> Results:
    """Measures everything that was asked for."""
    _raise_open_files()
    results, patience = Results(), Patience(wishes.patience_s)
    scenarios = chosen(wishes.only, quick=wishes.quick, most_callers=wishes.callers)
    with TemporaryDirectory(prefix="fleet-bench-") as folder:
        async with session(Path(folder)) as shared:
            if wishes.has("fleet") and wishes.wants(READY):
                results.ready_s = [await ready_s(shared) for _ in range(wishes.rounds)]
            for _ in range(wishes.rounds):
                async with aclosing(_each(shared, wishes, scenarios)) as each:
                    async for gateway in each:
                        await _measure(gateway, scenarios, results, patience)
                        if wishes.soak_s and gateway.name == "fleet":
                            await _soak(gateway, wishes.soak_s, results)
            if wishes.has("fleet") and wishes.wants(AGENT) and find_spec("benchmarks.agent"):
                results.agent = await asyncio.to_thread(_agent, shared)
    return results


async def _each(shared: Session, wishes: Wishes, scenarios: Sequence[Scenario]) -> AsyncGenerator[Gateway]:
    """One after the other, so that each has the core for itself. A peer that does not start is left out."""
    if not scenarios and not wishes.soak_s:
        return
    if wishes.has("direct"):
        yield direct(shared)
    found = peers(wishes.peers, [scenario.load.script for scenario in scenarios])
    for peer in found:
        if wishes.has(peer.name):
            async with AsyncExitStack() as stack:
                try:
                    gateway = await stack.enter_async_context(running_peer(shared, peer, wishes.peers))
                except StartFailed as exc:
                    print(exc, file=sys.stderr)
                else:
                    yield gateway
    if wishes.has("fleet"):
        providers = {scenario.load.provider for scenario in scenarios} | {str(Provider.OPENAI)}
        callers = max((scenario.load.callers for scenario in scenarios), default=1)
        async with running_fleet(shared, providers, callers=callers) as fleet:
            yield fleet


async def _measure(gateway: Gateway, scenarios: Sequence[Scenario], results: Results, patience: Patience) -> None:
    for load in warming():
        await gateway.load(load)
    await asyncio.sleep(_REST_S)
    results.idle_mb.setdefault(gateway.name, []).append(memory(gateway.parts()))
    for scenario in scenarios:
        if gateway.name == "fleet" or not scenario.fleet_only:
            results.runs.append(await patience.measured(gateway, scenario))


async def _run(gateway: Gateway, scenario: Scenario) -> Run:
    others_s, begun = used_by_others_s(), time.monotonic()
    seen = await gateway.load(scenario.load)
    took_s = time.monotonic() - begun
    return run_of(gateway.name, scenario, seen, others_s=used_by_others_s() - others_s, took_s=took_s)


async def _soak(gateway: Gateway, seconds: float, results: Results) -> None:
    """One piece after the other, with the worker's memory in the middle of each."""
    begun = time.monotonic()
    while (left := seconds - (time.monotonic() - begun)) > 0:
        run = await _run(gateway, soak(min(_PIECE_S, max(1, left))))
        results.runs.append(run)
        results.soak.append((time.monotonic() - begun, run.rss_mb["worker"]))
        _say(run)


def _agent(shared: Session) -> Sequence[Mapping[str, Any]]:
    """What an agent pays, in a process of its own on the core of the callers."""
    with running_on({shared.cores.others}):
        command = [sys.executable, "-m", "benchmarks.agent"]
        said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(said.splitlines()[-1])["results"]


def _say(run: Run) -> None:
    """On stderr, while the next one is measured."""
    token, request = run.us_a_token("all"), run.ms_a_request("all")
    streamed = run.first_token_ms is not None
    cpu = "" if token is None else f", {token:.1f} µs a token" if streamed else f", {request or 0:.3f} ms a request"
    share = f", share {run.share:.3f}" if run.share else ""
    doubt = f", others used {run.others_percent:.0f} %" if run.disturbed else ""
    limit = ", the callers' core was the limit" if run.harness_percent > 95 and run.gateway != "direct" else ""
    wrong = f", not whole: {dict(run.errors)}" if run.errors else ""
    print(f"{run.gateway} {run.scenario}{share}{cpu}{doubt}{limit}{wrong}", file=sys.stderr, flush=True)


def _raise_open_files() -> None:
    """Each caller has a connection, and each stream one of the worker's; children inherit the limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if most == resource.RLIM_INFINITY else min(_OPEN_FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def report(results: Results) -> dict[str, Any]:
    """Everything that is known of the session, as JSON."""
    machine = {
        "cpus": psutil.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "architecture": platform.machine(),
    }
    return {
        "benchmark": "load",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "figures": table.as_json(results),
        **asdict(results),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [scenario.name for scenario in chosen((), quick=False, most_callers=None)]
    known = ", ".join((*names, READY, AGENT))
    parser.add_argument("--only", default="", help=f"scenarios, by how their names begin: {known}")
    parser.add_argument("--gateways", default="", help="of direct, relay, tensorzero, smg, fleet")
    parser.add_argument("--peers", type=Path, metavar="DIR", help="where TensorZero and smg are installed")
    parser.add_argument("--rounds", type=int, default=1, help="how often each is measured; figures are medians")
    parser.add_argument("--soak", type=float, default=0, metavar="SECONDS", help="for how long memory is watched")
    parser.add_argument("--quick", action="store_true", help="short windows and no patience, to try it")
    parser.add_argument("--callers", type=int, help="at most so many at once, to try it")
    parser.add_argument("--patience", type=float, metavar="SECONDS", help="for a quiet machine, in all (600)")
    parser.add_argument("--markdown", action="store_true", help="the table of docs/performance.md, and nothing else")
    parser.add_argument("--before", type=Path, metavar="FILE", help="the JSON of a session to set beside this one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="gets the figures and every run")
    return parser


def _wishes(asked: argparse.Namespace) -> Wishes:
    only, gateways = (tuple(filter(None, text.split(","))) for text in (asked.only, asked.gateways))
    patience_s = asked.patience if asked.patience is not None else 0 if asked.quick else _PATIENCE_S
    return Wishes(only, gateways, asked.peers, asked.rounds, asked.soak, asked.quick, asked.callers, patience_s)


def _figures_of(file: Path) -> dict[str, float]:
    """The fleet's, from what `--json` wrote."""
    figures = json.loads(file.read_text())["figures"]
    return {title: row["fleet"] for title, row in figures.items() if "fleet" in row}


async def _until_told_to_end(wishes: Wishes) -> Results:
    """SIGTERM ends what was started, as Ctrl-C does."""
    task = asyncio.current_task()
    assert task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await main(wishes)


if __name__ == "__main__":
    asked = _parser().parse_args()
    before = _figures_of(asked.before) if asked.before else None
    results = uvloop.run(_until_told_to_end(_wishes(asked)))
    text = table.markdown(results, before=before)
    if asked.json:
        asked.json.write_text(json.dumps(report(results), indent=1))
    if asked.markdown:
        print(text)
    else:
        Console().print(Markdown(text))
        print(json.dumps({"benchmark": "load", "figures": table.as_json(results)}))
    sys.exit(any(run.errors for run in results.runs))
