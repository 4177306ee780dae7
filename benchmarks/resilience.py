"""What failures cost: two worker processes on the embedded servers, against simulated vendors.

    python -m benchmarks.resilience [--flood 10000]

Time to redelivery after `kill -9`, calls that a dead primary gets, what a quiet tenant waits while another one floods
the same pool, how far 200 requests at once overrun a budget, and how soon a cancel closes the vendor's connection.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import uvloop
from rich.console import Console
from rich.table import Table

from contracts import subjects
from contracts.control import MSG_ID
from contracts.events import Completed, Delta, Event, Failed, Started
from contracts.providers import Price
from contracts.streams import Sizes
from contracts.subjects import Priority
from fleet.client import Client
from fleet.local.servers import NatsServer, VaultServer
from fleet.simulator import Script, Simulator
from tests import servers
from tests.kit import Plane, plane, worker_process
from tests.patience import until
from tests.servers import Vault

MODEL = "gpt-4o-mini"
KEY = "sk-benchmark-0123456789"
PRIMARY_REQUESTS, PRIMARY_AT_ONCE = 1000, 50
BUDGET_REQUESTS, BUDGET_USD = 200, Decimal(100)
QUIET_REQUESTS = 200
CANCELS = 50
POOL = 64
"""Slots of each worker: the flood is to be larger than the pool."""


@dataclass(frozen=True)
class Figures:
    redelivered_after_s: float
    dead_primary_requests: int
    dead_primary_calls: int
    dead_primary_completed: int
    flood: int
    quiet_started_ms_p50: float
    quiet_started_ms_p99: float
    budget_usd: str
    budget_spent_usd: str
    budget_overrun_usd: str
    budget_completed: int
    budget_refused: int
    budget_s: float
    cancel_to_closed_ms_p50: float
    cancel_to_closed_ms_p99: float


@dataclass(frozen=True)
class Bench:
    nats_url: str
    vault: Vault
    vendor: Simulator

    @asynccontextmanager
    async def tenant(self, **settings: Any) -> AsyncGenerator[tuple[Plane, Client]]:
        name = f"t-{uuid4().hex[:8]}"
        async with plane(self.nats_url, self.vault, name) as control, Client(self.nats_url, tenant=name) as client:
            await control.make_streams()
            await control.put_tenant(**settings)
            await control.put_provider("mock")
            await control.put_provider("openai", {"base_url": self.vendor.base_url("openai")}, key=KEY)
            yield control, client

    def worker(self, provider: str) -> Any:
        return worker_process(self.nats_url, self.vault, provider, LLM_WORKER_CONCURRENCY=str(POOL))


async def main(flood: int) -> None:
    async with _bench() as bench:
        figures = Figures(
            redelivered_after_s=await _redelivery(bench),
            **await _dead_primary(bench),
            flood=flood,
            **await _flood(bench, flood),
            **await _budget(bench),
            **await _cancel(bench),
        )
    table = Table("figure", "value", title="Resilience")
    for name, value in asdict(figures).items():
        table.add_row(name, str(value))
    Console().print(table)
    print(json.dumps(asdict(figures)))


async def _redelivery(bench: Bench) -> float:
    """From the kill to `started` of the next attempt at another worker."""
    async with bench.tenant() as (_, client), bench.worker("mock") as first:
        slowly = {"mock": {"text": "a b c d", "between_s": 0.5}}
        killed = 0.0
        async with AsyncExitStack() as later:
            async for event in client.stream("mock/echo", "Hello", provider_options=slowly):
                if not killed and isinstance(event, Delta):
                    await later.enter_async_context(bench.worker("mock"))
                    first.kill()
                    killed = time.monotonic()
                elif isinstance(event, Started) and event.attempt > 1:
                    return round(time.monotonic() - killed, 2)
    raise RuntimeError("the request was not taken up again")


async def _dead_primary(bench: Bench) -> dict[str, Any]:
    async with (
        bench.tenant() as (_, client),
        bench.worker("openai"),
        bench.worker("openai"),
        bench.worker("mock"),
    ):
        bench.vendor.script(MODEL, Script(status=500))
        before = len(bench.vendor.ledger.entries)
        room = asyncio.Semaphore(PRIMARY_AT_ONCE)

        async def ask() -> Event:
            async with room:
                return await _last(client, f"openai/{MODEL}", fallbacks=["mock/echo"])

        ended = await asyncio.gather(*(ask() for _ in range(PRIMARY_REQUESTS)))
    return {
        "dead_primary_requests": PRIMARY_REQUESTS,
        "dead_primary_calls": len(bench.vendor.ledger.entries) - before,
        "dead_primary_completed": sum(isinstance(event, Completed) for event in ended),
    }


async def _flood(bench: Bench, flood: int) -> dict[str, Any]:
    """The flood waits in the queue before the quiet tenant begins; its requests take 0.2 s each."""
    async with bench.tenant() as (loud, _), bench.tenant() as (_, quiet):
        subject = subjects.request("mock", Priority.INTERACTIVE, loud.tenant)
        jetstream = loud.client.jetstream()

        async def publish(number: int) -> None:
            body = {
                "id": f"flood-{number}",
                "tenant": loud.tenant,
                "agent": "loud",
                "model": "mock/echo",
                "messages": [{"role": "user", "content": "Hello"}],
                "provider_options": {"mock": {"text": "a b", "between_s": 0.2}},
            }
            await jetstream.publish(subject, json.dumps(body).encode(), headers={MSG_ID: str(body["id"])})

        for begin in range(0, flood, 500):
            await asyncio.gather(*(publish(number) for number in range(begin, min(begin + 500, flood))))
        async with bench.worker("mock"), bench.worker("mock"):
            await quiet.complete("mock/echo", "Hello", deadline_s=300)
            waited: list[float] = []
            for _ in range(QUIET_REQUESTS):
                began = time.monotonic()
                stream = quiet.stream("mock/echo", "Hello", deadline_s=300)
                waited += [time.monotonic() - began async for event in stream if isinstance(event, Started)]
        await jetstream.purge_stream("LLM_REQUESTS")
    return {
        "quiet_started_ms_p50": _ms(statistics.median(waited)),
        "quiet_started_ms_p99": _ms(statistics.quantiles(waited, n=100)[98]),
    }


async def _budget(bench: Bench) -> dict[str, Any]:
    """A USD for each token of the answer, of which there are 3 and might be 5."""
    prices = {"mock/echo": Price(input_mtok=Decimal(0), output_mtok=Decimal(1_000_000))}
    script = {"mock": {"text": "one two three", "usage": {"input_tokens": 0, "output_tokens": 3}}}
    async with (
        bench.tenant(prices=prices, daily_budget_usd=BUDGET_USD) as (_, client),
        bench.worker("mock"),
        bench.worker("mock"),
    ):
        began = time.monotonic()
        asked = (_last(client, "mock/echo", max_tokens=5, provider_options=script) for _ in range(BUDGET_REQUESTS))
        ended = await asyncio.gather(*asked)
        seconds = time.monotonic() - began
    spent = sum((event.cost.amount for event in ended if isinstance(event, Completed) and event.cost), Decimal(0))
    kinds = Counter(type(event) for event in ended)
    return {
        "budget_usd": str(BUDGET_USD),
        "budget_spent_usd": str(spent),
        "budget_overrun_usd": str(max(Decimal(0), spent - BUDGET_USD)),
        "budget_completed": kinds[Completed],
        "budget_refused": kinds[Failed],
        "budget_s": round(seconds, 2),
    }


async def _cancel(bench: Bench) -> dict[str, Any]:
    bench.vendor.script(MODEL, Script(chunks=1000, between_s=0.05))
    took: list[float] = []
    async with bench.tenant() as (_, client), bench.worker("openai"):
        for _ in range(CANCELS):
            stream = client.stream(f"openai/{MODEL}", "Hello")
            cancelled = 0.0
            async for event in stream:
                if not cancelled and isinstance(event, Delta):
                    cancelled = time.time()
                    await stream.cancel()
            entry = bench.vendor.ledger.entries[-1]
            await until(lambda entry=entry: entry.ended_at is not None)
            took.append((entry.ended_at or 0.0) - cancelled)
    return {
        "cancel_to_closed_ms_p50": _ms(statistics.median(took)),
        "cancel_to_closed_ms_p99": _ms(statistics.quantiles(took, n=100)[98]),
    }


async def _last(client: Client, model: str, **fields: Any) -> Event:
    return [event async for event in client.stream(model, "Hello", deadline_s=300, **fields)][-1]


@asynccontextmanager
async def _bench() -> AsyncGenerator[Bench]:
    with TemporaryDirectory(prefix="fleet-bench-") as folder:
        nats, vault = (
            NatsServer(Path(folder) / "nats"),
            VaultServer(Path(folder) / "vault", providers=servers.PROVIDERS),
        )
        try:
            await asyncio.gather(nats.start(), vault.start())
            async with Simulator() as vendor:
                yield Bench(nats.url, await servers.set_up_vault(vault.addr, vault.root_token), vendor)
        finally:
            await asyncio.gather(nats.kill(), vault.kill())


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    most = Sizes().queue_limit_per_tenant
    parser.add_argument("--flood", type=int, default=most, help=f"requests of one tenant that wait, at most {most}")
    uvloop.run(main(min(most, parser.parse_args().flood)))
