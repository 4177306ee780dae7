"""The role as a process: how it starts, refuses to, survives its servers, and stops."""

import asyncio
import json
import re
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest

from fleet.local.process import Command, Process
from fleet.local.servers import NatsServer
from runtime import broker
from runtime.settings import BrokerSettings
from tests.integration.usage.conftest import publish, publish_raw, unbooked, until_booked
from tests.ports import free_port
from tests.servers import StoppableDatabase
from tests.usage import record

_PROGRAM = "import sys; from workers.usage.app import main; sys.exit(main())"
_ROOT = Path(__file__).parents[3]
_EXIT_S = 15


@asynccontextmanager
async def role(folder: Path, **env: str) -> AsyncGenerator[Process]:
    log = folder / "usage.log"
    process = Process(Command("usage", (sys.executable, "-c", _PROGRAM), log, env=env, cwd=_ROOT))
    try:
        yield process
    finally:
        if process.alive:
            await process.kill()


async def probes(process: Process) -> str:
    """Where they answer; returns when the role has started."""
    found: list[str] = []

    async def started() -> bool:
        log = await asyncio.to_thread(process.command.log.read_text)
        lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
        found.extend(str(line["port"]) for line in lines if line["event"] == "probes_listening")
        return any(line["event"] == "usage_consumer_started" for line in lines)

    await process.wait_until(started)
    return f"http://127.0.0.1:{found[0]}"


async def until_says(base: str, path: str, accept: Callable[[httpx.Response], bool]) -> httpx.Response:
    """The answer, once it is the one that is waited for."""
    async with httpx.AsyncClient(base_url=base) as client, asyncio.timeout(90):
        while True:
            if accept(answer := await client.get(path)):
                return answer
            await asyncio.sleep(0.05)


async def until_ready(base: str, accept: Callable[[httpx.Response], bool]) -> None:
    await until_says(base, "/readyz", accept)


def counted(metrics: str, result: str) -> float:
    found = re.search(rf'fleet_usage_records_total\{{result="{result}"\}} (\S+)', metrics)
    return float(found[1]) if found else 0


async def booked_in(postgres: StoppableDatabase) -> int:
    connection = await asyncpg.connect(postgres.url)
    try:
        return await connection.fetchval("SELECT sum(request_count)::int FROM llm_provider_usage")
    finally:
        await connection.close()


async def test_books_until_it_is_told_to_stop(nats: NatsServer, postgres: StoppableDatabase, tmp_path: Path) -> None:
    settings = BrokerSettings(nats_url=nats.url)
    async with (
        role(tmp_path, NATS_URL=nats.url, DATABASE_URL=postgres.url) as process,
        broker.connect(settings, name="test", inbox_prefix="_INBOX") as connection,
    ):
        base = await probes(process)
        await publish(connection, *(record() for _ in range(50)))
        await publish_raw(connection, ("llm.v1.usage.openai.acme", b"?", {}))
        await until_booked(connection)
        async with httpx.AsyncClient(base_url=base) as client:
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get("/readyz")).json()["checks"] == {"nats": True, "database": True}
        answer = await until_says(base, "/metrics", lambda said: counted(said.text, "booked") == 50)
        process.send(signal.SIGTERM)
        async with asyncio.timeout(_EXIT_S):
            assert await process.exited() == 0

    assert counted(answer.text, "dead") == 1
    assert "fleet_usage_batch_seconds_count" in answer.text
    assert "fleet_usage_lag_seconds" in answer.text


async def test_records_wait_while_postgresql_is_away_and_are_booked_afterwards(
    nats: NatsServer, postgres: StoppableDatabase, tmp_path: Path
) -> None:
    settings = BrokerSettings(nats_url=nats.url)
    async with (
        role(tmp_path, NATS_URL=nats.url, DATABASE_URL=postgres.url) as process,
        broker.connect(settings, name="test", inbox_prefix="_INBOX") as connection,
    ):
        base = await probes(process)
        first = [record(provider_id="p") for _ in range(3000)]
        await publish(connection, *first[:1500])
        await postgres.kill()
        await publish(connection, *first[1500:])
        await until_ready(base, lambda answer: answer.json()["checks"] == {"nats": True, "database": False})

        await postgres.start()

        await until_ready(base, lambda answer: answer.status_code == 200)
        await until_booked(connection)
        await until_says(base, "/metrics", lambda said: counted(said.text, "booked") >= 1500)
        assert await booked_in(postgres) == 3000
        process.send(signal.SIGTERM)
        async with asyncio.timeout(_EXIT_S):
            assert await process.exited() == 0
        log = process.command.log.read_text()

    assert "database_unusable" in log
    assert "Traceback" not in log
    password = postgres.url.split(":")[2].split("@")[0]
    assert password not in log


async def test_records_wait_while_nats_is_away(nats: NatsServer, postgres: StoppableDatabase, tmp_path: Path) -> None:
    settings = BrokerSettings(nats_url=nats.url)
    async with (
        role(tmp_path, NATS_URL=nats.url, DATABASE_URL=postgres.url) as process,
        broker.connect(settings, name="test", inbox_prefix="_INBOX") as connection,
    ):
        base = await probes(process)
        await publish(connection, *(record() for _ in range(10)))
        await until_booked(connection)
        await nats.kill()
        await until_ready(base, lambda answer: answer.json()["checks"] == {"nats": False, "database": True})

        await nats.start()

        await until_ready(base, lambda answer: answer.status_code == 200)
        await publish(connection, *(record() for _ in range(10)))
        await until_booked(connection)


async def test_records_are_booked_once_although_nats_is_killed_in_the_middle_of_them(
    nats: NatsServer, postgres: StoppableDatabase, tmp_path: Path
) -> None:
    total = 6000
    settings = BrokerSettings(nats_url=nats.url)
    async with (
        role(tmp_path, NATS_URL=nats.url, DATABASE_URL=postgres.url) as process,
        broker.connect(settings, name="test", inbox_prefix="_INBOX") as connection,
    ):
        base = await probes(process)
        await publish(connection, *(record(provider_id="p") for _ in range(total)))
        while await unbooked(connection) == total:
            await asyncio.sleep(0.005)
        await nats.kill()
        await nats.start()

        await until_ready(base, lambda answer: answer.status_code == 200)
        await until_booked(connection)
        assert await booked_in(postgres) == total
        process.send(signal.SIGTERM)
        async with asyncio.timeout(_EXIT_S):
            assert await process.exited() == 0

    assert "Traceback" not in process.command.log.read_text()


async def test_stops_in_time_while_postgresql_is_away(
    nats: NatsServer, postgres: StoppableDatabase, tmp_path: Path
) -> None:
    settings = BrokerSettings(nats_url=nats.url)
    async with (
        role(tmp_path, NATS_URL=nats.url, DATABASE_URL=postgres.url) as process,
        broker.connect(settings, name="test", inbox_prefix="_INBOX") as connection,
    ):
        base = await probes(process)
        await postgres.stop()
        await publish(connection, record())
        await until_ready(base, lambda answer: answer.status_code == 503)

        process.send(signal.SIGTERM)

        async with asyncio.timeout(_EXIT_S):
            assert await process.exited() == 0


async def test_refuses_to_start_without_a_server_in_one_line(
    nats: NatsServer, empty_database_url: str, tmp_path: Path
) -> None:
    nowhere = free_port()
    cases = {
        f"NATS cannot be used at 127.0.0.1:{nowhere}": {
            "NATS_URL": f"nats://127.0.0.1:{nowhere}",
            "DATABASE_URL": empty_database_url,
        },
        f"PostgreSQL cannot be used at 127.0.0.1:{nowhere}/fleet": {
            "NATS_URL": nats.url,
            "DATABASE_URL": f"postgresql://u:hunter2@127.0.0.1:{nowhere}/fleet",
        },
        "run: fleet migrate": {"NATS_URL": nats.url, "DATABASE_URL": empty_database_url},
        "DATABASE_URL": {"NATS_URL": nats.url},
    }
    for number, (said, env) in enumerate(cases.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with role(folder, **env) as process, asyncio.timeout(90):
            assert await process.exited() == 1
            words = process.command.log.read_text()
        assert said in words
        assert len(words.splitlines()) == 1
        assert "hunter2" not in words


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
async def test_either_signal_ends_it_cleanly(
    nats: NatsServer, database_url: str, tmp_path: Path, sig: signal.Signals
) -> None:
    async with role(tmp_path, NATS_URL=nats.url, DATABASE_URL=database_url) as process:
        await probes(process)
        process.send(sig)
        async with asyncio.timeout(_EXIT_S):
            assert await process.exited() == 0
