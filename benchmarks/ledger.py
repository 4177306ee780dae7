"""Usage records booked per second: a backlog in NATS, one consumer process, PostgreSQL with fsync.

Run it as `python -m benchmarks.ledger [--records N]`. Prints a table and one line of JSON.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import asyncpg
import psutil

from contracts import streams, subjects
from contracts.attempts import new_id
from contracts.control import MSG_ID
from contracts.usage import Outcome, PriceSource, Usage, UsageRecord, UsageSource
from fleet.local.process import Command, Process
from fleet.local.servers import NatsServer, PostgresServer
from migrations import upgrade
from migrations.schema import llm_agent_usage, llm_hourly_usage, llm_provider_usage
from runtime import broker
from runtime.broker import Broker
from runtime.settings import BrokerSettings

RECORDS = 100_000
TENANTS = 20
AGENTS = 10
"""Of each tenant."""
MODELS = ("gpt-4o-mini", "gpt-4o", "gpt-6-luna")
_WAVE = 2000
_PERIOD = timedelta(hours=12)
"""How long the backlog took to gather."""
_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Result:
    records: int
    seconds: float
    records_per_s: int
    consumer_cpu_us_per_record: float
    postgres_cpu_us_per_record: float
    nats_cpu_us_per_record: float
    consumer_peak_rss_mb: float
    rollup_rows: int


async def main(records: int) -> None:
    with TemporaryDirectory(prefix="fleet-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # noqa: ASYNC240
        async with _servers(folder) as (nats, postgres):
            await asyncio.to_thread(upgrade, postgres.url())
            settings = BrokerSettings(nats_url=nats.url)
            async with broker.connect(settings, name="bench", inbox_prefix="_INBOX") as connection:
                await broker.ensure_streams(connection, settings)
                await _fill(connection, records)
                result = await _measure(connection, records, nats, postgres, folder)
    _show(result)


@asynccontextmanager
async def _servers(folder: Path) -> AsyncGenerator[tuple[NatsServer, PostgresServer]]:
    nats, postgres = NatsServer(folder / "nats"), PostgresServer(folder / "postgres")
    await asyncio.gather(nats.start(), postgres.start())
    try:
        yield nats, postgres
    finally:
        await asyncio.gather(nats.stop(), postgres.stop())


async def _fill(connection: Broker, records: int) -> None:
    """In waves: a server that is sent faster than it stores drops what it has no room for."""
    began = datetime.now(UTC) - _PERIOD
    providers = [str(uuid4()) for _ in range(TENANTS)]
    for number in range(records):
        record = _record(number, providers, began + _PERIOD * number / records)
        subject = subjects.usage(record.provider, record.tenant)
        await connection.client.publish(subject, record.to_json(), headers={MSG_ID: record.id})
        if (number + 1) % _WAVE == 0 or number + 1 == records:
            await connection.client.flush()
            while await _waiting(connection) <= number:  # noqa: ASYNC110 - only the server knows
                await asyncio.sleep(0.005)


def _record(number: int, providers: list[str], started: datetime) -> UsageRecord:
    request_id = uuid4().hex
    tenant, agent = number % TENANTS, number // TENANTS % AGENTS
    return UsageRecord(
        id=new_id(started),
        request_id=request_id,
        attempt=1,
        tenant=f"tenant-{tenant}",
        agent=f"agent-{agent}",
        provider="openai",
        provider_id=providers[tenant],
        endpoint="default",
        model=MODELS[number % len(MODELS)],
        response_model="gpt-4o-mini-2024-07-18",
        outcome=Outcome.COMPLETED,
        started_at=started,
        finished_at=started + timedelta(seconds=2),
        time_to_first_token_s=0.4,
        duration_s=2.1,
        queued_s=0.003,
        usage=Usage(input_tokens=1200, output_tokens=340, cache_read_tokens=1024, source=UsageSource.VENDOR),
        cost=Decimal("0.0003"),
        price_source=PriceSource.CATALOGUE,
        metadata={"run": "42"},
    )


async def _measure(
    connection: Broker, records: int, nats: NatsServer, postgres: PostgresServer, folder: Path
) -> Result:
    """The clock runs from the first record that is booked, so that imports do not count."""
    command = Command(
        "usage",
        (sys.executable, "-c", "import sys; from workers.usage.app import main; sys.exit(main())"),
        folder / "usage.log",
        env={"NATS_URL": nats.url, "DATABASE_URL": postgres.url(), "PYTHONPATH": str(Path.cwd())},
    )
    consumer = Process(command)
    try:
        deadline = time.monotonic() + _TIMEOUT_S
        while (left := await _waiting(connection)) == records and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        begun, before = time.perf_counter(), [_cpu(p) for p in (consumer, postgres.process, nats.process)]
        counted, peak = left, 0
        while left and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
            left = await _waiting(connection)
            peak = max(peak, psutil.Process(consumer.pid).memory_info().rss)
        seconds = time.perf_counter() - begun
        after = [_cpu(p) for p in (consumer, postgres.process, nats.process)]
        used = [end - start for start, end in zip(before, after, strict=True)]
        if left:
            raise SystemExit(f"{left} records were not booked; see {command.log.read_text()[-2000:]}")
        return Result(
            records=counted,
            seconds=round(seconds, 2),
            records_per_s=round(counted / seconds),
            consumer_cpu_us_per_record=round(used[0] / counted * 1e6, 1),
            postgres_cpu_us_per_record=round(used[1] / counted * 1e6, 1),
            nats_cpu_us_per_record=round(used[2] / counted * 1e6, 1),
            consumer_peak_rss_mb=round(peak / 2**20, 1),
            rollup_rows=await _rollup_rows(postgres),
        )
    finally:
        await consumer.stop()


async def _rollup_rows(postgres: PostgresServer) -> int:
    tables = (llm_provider_usage, llm_hourly_usage, llm_agent_usage)
    connection = await asyncpg.connect(postgres.url())
    try:
        return sum([await connection.fetchval(f"SELECT count(*) FROM {table.name}") for table in tables])
    finally:
        await connection.close()


async def _waiting(connection: Broker) -> int:
    """Records that are not booked yet."""
    info = await connection.client.jetstream().consumer_info(streams.USAGE, streams.USAGE_CONSUMER)
    return (info.num_pending or 0) + (info.num_ack_pending or 0)


def _cpu(process: Process | None) -> float:
    """CPU seconds of a process and its living children."""
    assert process is not None
    root = psutil.Process(process.pid)
    times = [p.cpu_times() for p in (root, *root.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def _show(result: Result) -> None:
    for name, value in asdict(result).items():
        print(f"{name.replace('_', ' '):<30} {value:>12,}")
    print(json.dumps({"benchmark": "ledger", **asdict(result)}))


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--records", type=int, default=RECORDS)
    asyncio.run(main(options.parse_args().records))
