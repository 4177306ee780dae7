"""The role as a process: how it starts, serves, refuses to start, and stops."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from admin_api.settings import AdminSettings
from fleet.admin_client import AdminApi
from fleet.simulator.tcp import listening
from tests.integration.admin.conftest import ADMIN_TOKEN
from tests.kit import hang_up
from tests.ports import free_port

_START_S = 30
_STOP_S = 15
_PROGRAM = "import sys; from admin_api.app import main; sys.exit(main())"


def environment(settings: AdminSettings, **changes: str | None) -> dict[str, str]:
    values: dict[str, str | None] = {
        "NATS_URL": settings.nats_url,
        "NATS_USER": settings.nats_user,
        "NATS_PASSWORD": _shown(settings.nats_password),
        "DATABASE_URL": _shown(settings.database_url),
        "VAULT_ADDR": settings.vault_addr,
        "VAULT_ROLE_ID": settings.vault_role_id,
        "VAULT_SECRET_ID": _shown(settings.vault_secret_id),
        "LLM_ENCRYPTION_KEY": _shown(settings.llm_encryption_key),
        "LLM_ADMIN_TOKEN": ADMIN_TOKEN,
        "LLM_HTTP_PORT": "0",
        **changes,
    }
    return {name: value for name, value in values.items() if value is not None}


def _shown(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


@asynccontextmanager
async def running(env: dict[str, str]) -> AsyncGenerator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _PROGRAM, env=env, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line_of(process: asyncio.subprocess.Process, event: str) -> dict[str, Any]:
    """The first log line with this event."""
    assert process.stderr is not None
    async with asyncio.timeout(_START_S):
        while line := await process.stderr.readline():
            if f'"event": "{event}"' in line.decode():
                return json.loads(line)
    raise AssertionError(f"it ended before it said {event}")


async def test_serves_until_it_is_told_to_stop(settings: AdminSettings) -> None:
    async with running(environment(settings)) as process:
        said = await line_of(process, "admin_listening")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{said['port']}") as client:
            assert (await client.get("/healthz")).json() == {"status": "ok"}
            assert (await client.get("/readyz")).status_code == 200
            refused = await client.get("/api/v1/tenants")
            assert (refused.status_code, "server" in refused.headers) == (401, False)
            authorization = {"Authorization": f"Bearer {ADMIN_TOKEN}", "X-Request-Id": "from-the-test"}
            assert (await client.get("/api/v1/tenants", headers=authorization)).json() == {"items": [], "next": None}
            logged = await line_of(process, "request")
            while logged.get("request_id") != "from-the-test":
                logged = await line_of(process, "request")
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(_STOP_S):
                out, err = await process.communicate()

    assert (said["host"], process.returncode, out) == ("127.0.0.1", 0, b"")
    assert (logged["route"], logged["status"], logged["actor"]) == ("/api/v1/tenants", 200, "bootstrap")
    assert b"Traceback" not in err
    assert ADMIN_TOKEN.encode() not in err


async def test_a_command_that_comes_too_often_waits_as_it_is_told(settings: AdminSettings) -> None:
    async with running(environment(settings, LLM_ADMIN_RATE_LIMIT_PER_MINUTE="60")) as process:
        port = (await line_of(process, "admin_listening"))["port"]
        api = AdminApi(f"http://127.0.0.1:{port}", SecretStr(ADMIN_TOKEN))
        answers = await asyncio.gather(*(asyncio.to_thread(api.get, "tenants") for _ in range(62)))

    assert answers == [{"items": [], "next": None}] * 62


@pytest.mark.parametrize(
    ("variable", "scheme", "server"), [("NATS_URL", "nats", "NATS"), ("VAULT_ADDR", "http", "Vault")]
)
async def test_a_missing_server_is_one_line_and_code_1(
    settings: AdminSettings, variable: str, scheme: str, server: str
) -> None:
    port = free_port()

    code, lines = await outcome(environment(settings, **{variable: f"{scheme}://127.0.0.1:{port}"}))

    assert code == 1
    assert lines[-1].startswith("fleet: ")
    assert server in lines[-1]
    assert f"127.0.0.1:{port}" in lines[-1]
    assert "Traceback" not in "".join(lines)


async def test_a_missing_database_is_one_line_without_its_password(settings: AdminSettings) -> None:
    port = free_port()

    code, lines = await outcome(environment(settings, DATABASE_URL=f"postgresql://u:pa55word@127.0.0.1:{port}/x"))

    assert (code, len(lines)) == (1, 1)
    assert f"127.0.0.1:{port}" in lines[0]
    assert "pa55word" not in lines[0]


async def test_a_database_without_the_schema_is_one_line(settings: AdminSettings, empty_database_url: str) -> None:
    code, lines = await outcome(environment(settings, DATABASE_URL=empty_database_url))

    assert (code, len(lines)) == (1, 1)
    assert "fleet migrate" in lines[0]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"LLM_ENCRYPTION_KEY": "c2hvcnQ="}, "LLM_ENCRYPTION_KEY"),
        ({"DATABASE_URL": None}, "DATABASE_URL"),
        ({"LLM_ALLOWED_PRIVATE_NETWORKS": "everything"}, "LLM_ALLOWED_PRIVATE_NETWORKS"),
    ],
)
async def test_a_wrong_setting_is_one_line(settings: AdminSettings, changes: dict[str, Any], name: str) -> None:
    code, lines = await outcome(environment(settings, **changes))

    assert (code, len(lines)) == (1, 1)
    assert name in lines[0]


async def test_a_taken_port_is_one_line(settings: AdminSettings) -> None:
    async with listening(hang_up) as port:
        code, lines = await outcome(environment(settings, LLM_HTTP_PORT=str(port)))

    assert (code, len(lines)) == (1, 1)
    assert f"127.0.0.1:{port}" in lines[0]


async def outcome(env: dict[str, str]) -> tuple[int | None, list[str]]:
    async with running(env) as process, asyncio.timeout(_START_S):
        _, err = await process.communicate()
    return process.returncode, err.decode().splitlines()
