"""What the fleet adds to a call, and what a worker process costs: the embedded stack against the simulator.

    python -m benchmarks.worker [--streams 500]

Time to first token is measured in turns, once with the SDK alone and once through the fleet, on the same simulator.
CPU is the worker process's own, from /proc; chunks come 20 ms apart, so that each is read on its own.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import psutil
import uvloop
from openai import AsyncOpenAI
from rich.console import Console
from rich.table import Table

from contracts.events import Completed, Delta
from fleet.client import Client
from fleet.simulator.openai import OpenAI

KEY = "sk-benchmark-0123456789"
MODEL = "gpt-4o-mini"
TURNS = 200
SHORT_REQUESTS = 1000
CHUNKS = 200
BETWEEN_S = 0.02
DEADLINE_S = 300


@dataclass(frozen=True)
class Figures:
    ttft_sdk_ms_p50: float
    ttft_fleet_ms_p50: float
    ttft_added_ms_p50: float
    ttft_added_ms_p99: float
    worker_cpu_us_per_request: float
    worker_cpu_us_per_chunk: float
    streams_held: int
    streams_completed: int
    chunks_per_second: float
    worker_cpu_percent_of_a_core: float
    worker_rss_mb_idle: float
    worker_rss_mb_at_most: float


@dataclass(frozen=True)
class Bench:
    """A running fleet whose provider `openai` is the simulator."""

    client: Client
    sdk: AsyncOpenAI
    worker: psutil.Process

    def cpu_s(self) -> float:
        times = self.worker.cpu_times()
        return times.user + times.system

    def rss_mb(self) -> float:
        return self.worker.memory_info().rss / 1e6


async def main(streams: int) -> None:
    async with _bench() as bench:
        idle_mb = bench.rss_mb()
        alone, through = await _first_tokens(bench)
        per_request_us = await _cpu_per_request(bench)
        held = await _hold(bench, streams)
        added = [f - s for s, f in zip(alone, through, strict=True)]
        figures = Figures(
            ttft_sdk_ms_p50=_ms(statistics.median(alone)),
            ttft_fleet_ms_p50=_ms(statistics.median(through)),
            ttft_added_ms_p50=_ms(statistics.median(added)),
            ttft_added_ms_p99=_ms(statistics.quantiles(added, n=100)[98]),
            worker_cpu_us_per_request=round(per_request_us),
            worker_cpu_us_per_chunk=round((held.cpu_s * 1e6 - streams * per_request_us) / held.chunks, 1),
            streams_held=streams,
            streams_completed=held.completed,
            chunks_per_second=round(held.chunks / held.seconds),
            worker_cpu_percent_of_a_core=round(100 * held.cpu_s / held.seconds, 1),
            worker_rss_mb_idle=round(idle_mb, 1),
            worker_rss_mb_at_most=round(held.rss_mb, 1),
        )
    table = Table("figure", "value", title="A worker of the fleet")
    for name, value in asdict(figures).items():
        table.add_row(name, str(value))
    Console().print(table)
    print(json.dumps(asdict(figures)))


async def _first_tokens(bench: Bench) -> tuple[list[float], list[float]]:
    alone: list[float] = []
    through: list[float] = []
    for turn in range(TURNS + 10):
        sdk_s, fleet_s = await _sdk_first_token(bench), await _fleet_first_token(bench)
        if turn >= 10:
            alone.append(sdk_s)
            through.append(fleet_s)
    return alone, through


async def _sdk_first_token(bench: Bench) -> float:
    started = time.perf_counter()
    stream = await bench.sdk.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Hello"}], stream=True
    )
    first: float | None = None
    async for chunk in stream:
        if first is None and chunk.choices and chunk.choices[0].delta.content:
            first = time.perf_counter() - started
    return first or 0.0


async def _fleet_first_token(bench: Bench) -> float:
    started = time.perf_counter()
    first: float | None = None
    async for event in bench.client.stream(f"openai/{MODEL}", "Hello"):
        if first is None and isinstance(event, Delta):
            first = time.perf_counter() - started
    return first or 0.0


async def _cpu_per_request(bench: Bench) -> float:
    """Of short requests, 16 at a time; their few chunks are part of it."""

    async def some(count: int) -> None:
        for _ in range(count):
            await bench.client.complete(f"openai/{MODEL}", "Hello", **_script(text="Hi"))

    await asyncio.gather(*(some(10) for _ in range(16)))
    before = bench.cpu_s()
    await asyncio.gather(*(some(SHORT_REQUESTS // 16) for _ in range(16)))
    return (bench.cpu_s() - before) * 1e6 / (SHORT_REQUESTS // 16 * 16)


@dataclass(frozen=True)
class Held:
    completed: int
    chunks: int
    seconds: float
    cpu_s: float
    rss_mb: float


async def _hold(bench: Bench, streams: int) -> Held:
    most_mb = 0.0

    async def one() -> int:
        chunks = 0
        script = _script(chunks=CHUNKS, between_s=BETWEEN_S)
        async for event in bench.client.stream(f"openai/{MODEL}", "Hello", deadline_s=DEADLINE_S, **script):
            chunks += isinstance(event, Delta)
            if isinstance(event, Completed):
                return chunks
        return -chunks

    async def watch() -> None:
        nonlocal most_mb
        while True:
            most_mb = max(most_mb, bench.rss_mb())
            await asyncio.sleep(0.2)

    watching = asyncio.create_task(watch())
    cpu, started = bench.cpu_s(), time.perf_counter()
    counts = await asyncio.gather(*(one() for _ in range(streams)))
    seconds = time.perf_counter() - started
    watching.cancel()
    return Held(
        completed=sum(count > 0 for count in counts),
        chunks=sum(map(abs, counts)),
        seconds=seconds,
        cpu_s=bench.cpu_s() - cpu,
        rss_mb=most_mb,
    )


def _script(**script: Any) -> dict[str, Any]:
    return {"provider_options": {"openai": {"simulate": script}}}


@asynccontextmanager
async def _bench() -> AsyncGenerator[Bench]:
    with TemporaryDirectory(prefix="fleet-bench-") as folder:
        path = Path(folder)
        async with (
            _process("fleet.simulator", "--ready-file", str(path / "sim.json"), ready=path / "sim.json") as simulator,
            _process(
                "fleet", "up", "--state", str(path / "state"), "--ready-file", str(path / "up.json"),
                ready=path / "up.json",
            ) as up,
        ):  # fmt: skip
            base_url = f"{simulator['url']}{OpenAI.prefix}"
            await _configure(up, base_url)
            sdk = AsyncOpenAI(api_key=KEY, base_url=base_url, max_retries=0)
            worker = psutil.Process(up["pids"]["worker-openai"][0])
            async with Client(
                up["nats_url"], tenant=up["tenant"], agent="bench", user=up["nats_user"], password=up["nats_password"]
            ) as client:
                yield Bench(client, sdk, worker)
            await sdk.close()


@asynccontextmanager
async def _process(module: str, *args: str, ready: Path) -> AsyncGenerator[dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *args, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        give_up = time.monotonic() + 60
        while (answer := await asyncio.to_thread(_read, ready)) is None:
            if process.returncode is not None or time.monotonic() > give_up:
                raise RuntimeError(f"{module} did not become ready")
            await asyncio.sleep(0.1)
        yield answer
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _read(ready: Path) -> dict[str, Any] | None:
    return json.loads(ready.read_text()) if ready.exists() else None


async def _configure(up: dict[str, Any], base_url: str) -> None:
    headers = {"Authorization": f"Bearer {up['admin_token']}"}
    async with httpx.AsyncClient(base_url=up["admin_url"], headers=headers) as http:
        limits = {"requests_per_minute": 0, "requests_per_day": 0}
        (await http.put(f"/api/v1/tenants/{up['tenant']}", json={"limits": limits})).raise_for_status()
        provider = {
            "tenant": up["tenant"],
            "provider_type": "openai",
            "api_key": KEY,
            "config": {"base_url": base_url},
        }
        (await http.post("/api/v1/llm-providers", json=provider)).raise_for_status()


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--streams", type=int, default=500)
    uvloop.run(main(parser.parse_args().streams))
