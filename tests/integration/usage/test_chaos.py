"""Four consumers book a shuffled, repeating stream of records while they and PostgreSQL are killed: nothing is lost.

`FLEET_LEDGER_RECORDS=100000` books so many attempts; by default few enough for every run.
"""

import asyncio
import itertools
import os
import random
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import asyncpg
import pytest
from pydantic import SecretStr

from contracts import subjects
from contracts.usage import Outcome, PriceSource, Usage, UsageRecord, UsageSource
from fleet.local.process import StartFailed
from fleet.local.servers import NatsServer
from migrations.engine import make_engine
from runtime import broker
from runtime.settings import BrokerSettings
from tests.integration.usage.conftest import publish_raw, unbooked
from tests.integration.usage.test_role import probes, role
from tests.servers import StoppableDatabase
from tests.usage import USED_AT, record
from workers.usage.verification import Period, verify

pytestmark = pytest.mark.slow

ATTEMPTS = int(os.environ.get("FLEET_LEDGER_RECORDS", "6000"))
CONSUMERS = 4
SEED = 7
_WAVE = 1000

Sums = dict[tuple[str, date, str], tuple[int, int, int, Decimal, int]]
"""By provider, day and model: calls, input tokens, output tokens, cost, calls without a price."""


def spoken(rng: random.Random) -> tuple[list[UsageRecord], list[UsageRecord]]:
    """What workers say of each attempt, mostly once, and what counts of it: the record of the best source."""
    said: list[UsageRecord] = []
    counts: list[UsageRecord] = []
    for number in range(ATTEMPTS):
        tenant = rng.randrange(5)
        started_at = USED_AT + timedelta(hours=rng.randrange(48), seconds=rng.randrange(3600))
        sources = [UsageSource.VENDOR, UsageSource.ESTIMATED, UsageSource.UNKNOWN][rng.choice([0, 0, 0, 1, 2]) :]
        sources = sources[: rng.choice([1, 1, 1, 2, 3])]
        versions = [
            record(
                f"request-{number}",
                tenant=f"tenant-{tenant}",
                agent=f"agent-{rng.randrange(3)}",
                provider_id=f"provider-of-{tenant}",
                model=rng.choice(["small", "large"]),
                outcome=Outcome.COMPLETED if source is UsageSource.VENDOR else Outcome.ABANDONED,
                started_at=started_at,
                usage=Usage(input_tokens=rng.randrange(10_000), output_tokens=rng.randrange(5000), source=source),
                cost=rng.choice([None, f"{rng.randrange(10**9)}e-10", f"{rng.randrange(10**9)}e-10"]),
            )
            for source in sources
        ]
        counts.append(versions[0])
        said += [each for each in versions for _ in range(rng.choice([1, 1, 1, 1, 2, 3]))]
    rng.shuffle(said)
    return said, counts


def summed(records: Iterable[UsageRecord]) -> Sums:
    sums: Sums = defaultdict(lambda: (0, 0, 0, Decimal(0), 0))
    for each in records:
        key = each.provider_id, each.started_at.date(), each.model
        calls, tokens_in, tokens_out, cost, unpriced = sums[key]
        sums[key] = (
            calls + 1,
            tokens_in + each.usage.input_tokens,
            tokens_out + each.usage.output_tokens,
            cost + (each.cost or 0),
            unpriced + (each.price_source is PriceSource.NONE),
        )
    return dict(sums)


async def rolled_up(url: str) -> Sums:
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(
            "SELECT provider_id, date, model, request_count, prompt_tokens, completion_tokens, total_cost,"
            " unpriced_count FROM llm_provider_usage"
        )
    finally:
        await connection.close()
    return {(row[0], row[1], row[2]): (row[3], row[4], row[5], row[6], row[7]) for row in rows}


async def test_whatever_is_killed_every_record_counts_once(
    nats: NatsServer, postgres: StoppableDatabase, tmp_path: Path
) -> None:
    rng = random.Random(SEED)
    said, counts = spoken(rng)
    calm, done = asyncio.Event(), asyncio.Event()
    settings = BrokerSettings(nats_url=nats.url)
    async with broker.connect(settings, name="test", inbox_prefix="_INBOX") as connection:
        await broker.ensure_streams(connection, settings)
        async with asyncio.TaskGroup() as group:
            for number in range(CONSUMERS):
                lives = _lives(tmp_path / str(number), nats, postgres, random.Random(number), calm=calm, done=done)
                group.create_task(lives)
            dying = group.create_task(_restart_often(postgres, rng, calm=calm))
            # Without a message id, so that NATS drops no repetition before the ledger sees it.
            messages = [(subjects.usage(each.provider, each.tenant), each.to_json(), {}) for each in said]
            for begin in range(0, len(messages), _WAVE):
                await publish_raw(connection, *messages[begin : begin + _WAVE])
            calm.set()
            await dying
            while await unbooked(connection):
                await asyncio.sleep(0.1)
            done.set()

    assert await rolled_up(postgres.url) == summed(counts)
    engine = make_engine(SecretStr(postgres.url), application_name="test")
    assert [found async for _, found in verify(engine, Period()) if found] == []
    await engine.dispose()


async def _lives(
    folder: Path,
    nats: NatsServer,
    postgres: StoppableDatabase,
    rng: random.Random,
    *,
    calm: asyncio.Event,
    done: asyncio.Event,
) -> None:
    """One consumer after the other, each killed in the middle of its work, until it is calm."""
    for number in itertools.count():
        life = folder / str(number)
        await asyncio.to_thread(life.mkdir, parents=True)
        with suppress(StartFailed):  # PostgreSQL was away
            async with role(life, NATS_URL=nats.url, DATABASE_URL=postgres.url) as process:
                await probes(process)
                await _passed(calm, within_s=rng.uniform(0.2, 2))
                if calm.is_set():
                    await done.wait()
                    return


async def _restart_often(postgres: StoppableDatabase, rng: random.Random, *, calm: asyncio.Event) -> None:
    while not await _passed(calm, within_s=rng.uniform(2, 4)):
        await postgres.kill()
        await postgres.start()


async def _passed(event: asyncio.Event, *, within_s: float) -> bool:
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), within_s)
    return event.is_set()
