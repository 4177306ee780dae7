"""How long `GET /api/v1/usage` takes with many events: a month of them, every roll-up made from them by a rebuild.

Run it as `python -m benchmarks.reports [--events N]`. Prints a table and one line of JSON.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import SecretStr
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from admin_api.database import Database, open_database
from admin_api.http.pagination import Paging
from admin_api.operations import usage_reports
from admin_api.operations.usage_reports import GroupBy, Question, UsageFilter
from fleet.local.servers import PostgresServer
from migrations import upgrade
from migrations.engine import make_engine
from workers.usage.partitions import Partitions
from workers.usage.rollups import ROLL_UPS
from workers.usage.verification import Period, rebuild

EVENTS = 300_000
DAYS = 30
TENANTS = 50
AGENTS = 20
"""Of each tenant, each with every model."""
MODELS = 4
_TIMES = 15
_TIMEOUT_S = 3600
_PAGE = Paging(limit=1000)
_QUESTIONS: Sequence[tuple[str, dict[str, str]]] = (
    ("day", {}),
    ("hour", {}),
    ("model", {}),
    ("provider", {}),
    ("tenant", {}),
    ("agent", {}),
    ("tenant,model", {}),
    ("day,tenant", {}),
    ("day,agent", {"tenant": "tenant-7"}),
    ("hour,model", {"tenant": "tenant-7"}),
    ("day,model", {"agent": "agent-3"}),
)

_FILL = text(rf"""
    INSERT INTO llm_usage_events (
        id, day, request_id, attempt, tenant, agent, provider, provider_id, endpoint, model, outcome, started_at,
        finished_at, duration_s, queued_s, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens,
        reasoning_tokens, usage_source, cost, price_source)
    SELECT md5(CAST(n AS text)) || '\:1', :day, md5(CAST(n AS text)), 1, 'tenant-' || n % {TENANTS},
        'agent-' || n / {TENANTS} % {AGENTS}, CASE n / 7 % 2 WHEN 0 THEN 'openai' ELSE 'google' END,
        'provider-' || n % {TENANTS} || '-' || n / 7 % 2, 'default', 'model-' || n / 7 % {MODELS},
        CASE n % 50 WHEN 0 THEN 'failed' ELSE 'completed' END,
        CAST(:start AS timestamptz) + n % 86400 * interval '1 second',
        CAST(:start AS timestamptz) + n % 86400 * interval '1 second' + interval '2 seconds',
        2.1, 0.003, 1200, 340, 1024, 0, 0, 'vendor', CASE n % 20 WHEN 0 THEN NULL ELSE 0.0003 END, 'catalogue'
    FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n
""")


async def main(events: int) -> None:
    with TemporaryDirectory(prefix="fleet-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # noqa: ASYNC240
        postgres = PostgresServer(folder / "postgres")
        await postgres.start()
        try:
            await asyncio.to_thread(upgrade, postgres.url())
            url = SecretStr(postgres.url())
            engine = make_engine(url, application_name="bench", command_timeout_s=_TIMEOUT_S)
            last = datetime.now(UTC).date()
            days = [last - timedelta(days=n) for n in reversed(range(DAYS))]
            await _fill(engine, days, events)
            begun = time.perf_counter()
            rebuilt = [day async for day, found in rebuild(engine, Period()) if found]
            facts = {"rebuild_s_per_day": round((time.perf_counter() - begun) / len(rebuilt), 2)}
            facts |= {"events": events, "rollup_rows": await _rows(engine)}
            await engine.dispose()
            async with open_database(url) as database:
                _show(facts, [await _ask(database, days, *question) for question in _QUESTIONS])
        finally:
            await postgres.stop()


async def _fill(engine: AsyncEngine, days: Sequence[date], events: int) -> None:
    await Partitions(engine).ensure(days)
    of_day = events // len(days)
    for number, day in enumerate(days):
        async with engine.begin() as connection:
            chosen = {"day": day, "start": datetime(day.year, day.month, day.day, tzinfo=UTC)}
            bounds = {"first": number * of_day, "last": (number + 1) * of_day - 1}
            await connection.execute(_FILL, chosen | bounds)


async def _rows(engine: AsyncEngine) -> dict[str, int]:
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        for roll_up in ROLL_UPS:
            await connection.execute(text(f"VACUUM ANALYZE {roll_up.name}"))
        count = select(func.count())
        return {r.name: await connection.scalar(count.select_from(r.table)) or 0 for r in ROLL_UPS}


async def _ask(database: Database, days: Sequence[date], group_by: str, only: dict[str, str]) -> dict[str, Any]:
    groups = [GroupBy(group) for group in group_by.split(",")]
    question = Question(usage_reports.days(days[0], days[-1]), groups, UsageFilter(**only))
    took: list[float] = []
    size = 0
    for _ in range(_TIMES):
        begun = time.perf_counter()
        answer = await usage_reports.summarise(database, question, paging=_PAGE)
        size = len(answer.model_dump_json())
        took.append((time.perf_counter() - begun) * 1000)
    asked = f"{group_by} {' '.join(f'{name}={value}' for name, value in only.items())}".rstrip()
    middle = round(statistics.median(took), 1)
    return {"asked": asked, "median_ms": middle, "max_ms": round(max(took), 1), "answer_kb": round(size / 1024, 1)}


def _show(facts: dict[str, Any], answers: Sequence[dict[str, Any]]) -> None:
    print(f"{facts['events']:,} events of {DAYS} days, roll-ups: {facts['rollup_rows']}")
    for answer in answers:
        print(f"{answer['asked']:<32} {answer['median_ms']:>8} ms {answer['max_ms']:>8} ms {answer['answer_kb']:>8} kB")
    print(json.dumps({"benchmark": "reports", **facts, "answers": answers}))


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--events", type=int, default=EVENTS)
    asyncio.run(main(options.parse_args().events))
