"""`fleet keys` as an operator types it, against a running stack and a simulated vendor."""

import asyncio
import csv
import json
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiohttp import web
from cryptography.fernet import Fernet

from fleet.client import Client
from fleet.local.state import new_sealing_key
from fleet.operator.key_import import importing, sources
from fleet.operator.key_import.importing import Options
from fleet.operator.key_import.plan import Wish
from fleet.operator.key_import.rows import Reading
from fleet.simulator import Script, Simulator
from tests.acceptance.running import RunningStack, pools, run, running_stack
from tests.web import serving

pytestmark = pytest.mark.slow

FERNET, OLD_FERNET = Fernet.generate_key(), Fernet.generate_key()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Generator[RunningStack]:
    with running_stack(tmp_path_factory.mktemp("keys"), *pools(openai=1, anthropic=1)) as running:
        yield running


@pytest.fixture
async def vendor() -> AsyncGenerator[Simulator]:
    async with Simulator() as simulator:
        yield simulator


class Operator:
    """Types commands, and sees what the admin API says afterwards."""

    def __init__(self, stack: RunningStack, folder: Path) -> None:
        self.stack = stack
        self.folder = folder
        self.said = ""

    async def keys(self, *arguments: str, code: int = 0, env: Mapping[str, str] | None = None) -> list[str]:
        """The lines of `fleet keys …` on the stack of this test."""
        state = str(self.stack.ready_file.parent / "state")
        ended = await asyncio.to_thread(run, "keys", *arguments, "--state", state, env=env, timeout_s=60)
        self.said += ended.stdout + ended.stderr
        assert ended.returncode == code, ended
        return (ended.stdout + ended.stderr).splitlines()

    async def imports(self, source: str, wish: Wish = Wish(), **options: Any) -> list[str]:  # noqa: B008 - frozen
        """What the command would print, without a process of its own."""
        found = await sources.read(source, Reading())
        asked = Options(tenant=None, wish=wish, **options)
        lines = await asyncio.to_thread(lambda: list(importing.lines([*importing.run(self.stack.admin, found, asked)])))
        self.said += "\n".join(lines)
        return lines

    def csv(self, *rows: dict[str, str]) -> str:
        path = self.folder / "keys.csv"
        with path.open("w", newline="") as out:
            writer = csv.DictWriter(out, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return str(path)

    def provider(self, tenant: str, kind: str = "openai") -> dict[str, Any]:
        (found,) = self.stack.admin.get(f"llm-providers?tenant={tenant}&type={kind}")["items"]
        return found


@pytest.fixture
def operator(stack: RunningStack, tmp_path: Path) -> Operator:
    return Operator(stack, tmp_path)


def at(vendor: Simulator, tenant: str, key: str, kind: str = "openai") -> dict[str, str]:
    return {"tenant": tenant, "provider": kind, "api_key": key, "base_url": vendor.base_url(kind)}


def assert_says(lines: Sequence[str], *words: str) -> None:
    """Each line has its word; a failure shows them all. No line has a key in it."""
    assert len(lines) == len(words), "\n".join(lines)
    missing = [(word, line) for word, line in zip(words, lines, strict=True) if word not in line]
    assert not missing, "\n".join(lines)


async def test_an_import_adds_what_works_and_tells_of_the_rest(
    operator: Operator, vendor: Simulator, tenant: str
) -> None:
    rows = [
        at(vendor, tenant, "sk-of-this-test-1"),
        at(vendor, tenant, "sk-of-this-test-2", "anthropic"),
        at(vendor, f"{tenant}-none", "sk-of-this-test-3"),
        {**at(vendor, tenant, "sk-of-this-test-4"), "provider": "cohere"},
        {**at(vendor, tenant, "sk-of-this-test-5"), "base_url": "http://10.0.0.1:1"},
    ]
    operator.stack.admin.post("tenants", {"slug": tenant})
    source = operator.csv(*rows)

    planned = await operator.imports(source, dry_run=True)
    assert operator.stack.admin.get(f"llm-providers?tenant={tenant}")["items"] == []
    done = await operator.imports(source)
    again = await operator.imports(source)

    assert_says(planned[:4], "would be done", "would be done", "failed", "failed")
    assert_says(done, "done", "done", "--create-tenants", "no provider", "failed")
    assert_says(again, "there already", "there already", "--create-tenants", "no provider", "failed")
    assert operator.provider(tenant)["key_version"] == operator.provider(tenant, "anthropic")["key_version"] == 1
    assert operator.provider(tenant)["key_fingerprint"] in done[0]
    assert "of-this-test" not in operator.said


async def test_a_key_that_the_vendor_refuses_is_taken_back(operator: Operator, vendor: Simulator, tenant: str) -> None:
    good, bad = at(vendor, tenant, "sk-good-1"), at(vendor, tenant, "sk-invalid-1")

    (refused,) = await operator.imports(operator.csv(bad), adds_tenants=True)
    assert "taken back" in refused
    assert operator.provider(tenant)["is_active"] is False

    await operator.imports(operator.csv(good))
    before = operator.provider(tenant)
    (refused,) = await operator.imports(operator.csv(bad), Wish(share=50))

    assert "taken back" in refused
    after = operator.provider(tenant)
    assert (after["keys"], after["config"]) == (before["keys"], before["config"])
    assert "sk-invalid-1" not in operator.said


@pytest.mark.parametrize(("failures", "outcome"), [(2, "done"), (1000, "taken back")])
async def test_a_key_is_not_judged_by_what_may_pass(
    operator: Operator, tenant: str, failures: int, outcome: str
) -> None:
    asked = 0

    async def models(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.json_response({"object": "list", "data": []}, status=503 if asked <= failures else 200)

    app = web.Application()
    app.router.add_get("/v1/models", models)
    async with serving(app) as port:
        row = {"tenant": tenant, "provider": "openai", "api_key": "sk-1", "base_url": f"http://127.0.0.1:{port}/v1"}
        lines = await operator.imports(operator.csv(row), adds_tenants=True)

    assert_says(lines, outcome)
    assert operator.provider(tenant)["is_active"] is (outcome == "done")


async def test_an_imported_key_takes_its_share_then_all(
    operator: Operator, vendor: Simulator, stack: RunningStack
) -> None:
    tenant = stack.ready["tenant"]
    await operator.imports(operator.csv(at(vendor, tenant, "sk-first")))
    second = operator.csv(at(vendor, tenant, "sk-second"))
    (refused,) = await operator.imports(second)
    assert "--weight" in refused

    for share in (1, 100):
        (line,) = await operator.imports(second, Wish(share=share))
        assert f"{share} % of the traffic" in line
    (there,) = await operator.imports(second, Wish(share=100))
    assert "there already" in there

    ready = stack.ready
    login = {"user": ready["nats_user"], "password": ready["nats_password"]}
    async with Client(ready["nats_url"], tenant=tenant, agent="tester", **login) as agent:
        vendor.script("gpt-4o-mini", Script(text="served"))
        assert (await agent.complete("openai/gpt-4o-mini", "Hello")).finish_reason == "stop"
        await operator.imports(second, Wish(replaces=True))
        assert (await agent.complete("openai/gpt-4o-mini", "Hello")).finish_reason == "stop"

    provider = operator.provider(tenant)
    assert [key["name"] for key in provider["keys"]] == ["default"]
    served = vendor.ledger.of_model("gpt-4o-mini")
    assert {entry.key_fingerprint for entry in served} == {provider["key_fingerprint"]}


async def test_a_table_of_another_database_is_imported_with_its_keys_unsealed(
    operator: Operator, vendor: Simulator, tenant: str, empty_database_url: str
) -> None:
    connection = await asyncpg.connect(empty_database_url)
    try:
        await connection.execute("CREATE TABLE llm_providers (org text, provider_type text, blob bytea, base_url text)")
        for kind, fernet in (("openai", FERNET), ("anthropic", OLD_FERNET), ("openai", Fernet.generate_key())):
            blob = Fernet(fernet).encrypt(f"sk-sealed-{kind}".encode())
            values = (tenant, kind, blob, vendor.base_url(kind))
            await connection.execute("INSERT INTO llm_providers VALUES ($1, $2, $3, $4)", *values)
    finally:
        await connection.close()

    lines = await operator.keys(
        *("import", "--from", f"{empty_database_url}#public.llm_providers"),
        *("--column", "tenant=org", "--column", "key=blob", "--fernet-key-env", "OLD_KEYS", "--create-tenants"),
        code=1,
        env={"OLD_KEYS": f"{FERNET.decode()},{OLD_FERNET.decode()}"},
    )

    assert_says(lines, "done", "done", "no Fernet key that was given opens it")
    assert "sk-sealed" not in operator.said
    (line,) = await operator.keys("import", "--from", f"{empty_database_url}#nowhere", code=1)
    assert line.startswith("fleet: the table nowhere cannot be read")


async def test_a_stack_takes_a_new_sealing_key(tmp_path: Path, vendor: Simulator) -> None:
    with running_stack(tmp_path, *pools(openai=1)) as stack:
        operator = Operator(stack, tmp_path)
        await operator.imports(operator.csv(at(vendor, "demo", "sk-kept")))
        stack.stop()
    sealing = {"LLM_ENCRYPTION_KEY": new_sealing_key()}
    with running_stack(tmp_path, *pools(openai=1), env=sealing) as stack:
        operator = Operator(stack, tmp_path)
        (said,) = await operator.keys("reseal", env=sealing)
        assert said == "1 sealed anew"
        (said,) = await operator.keys("reseal", env=sealing)
        assert said == "1 sealed with the newest key already"
        where = f"llm-providers/{operator.provider('demo')['id']}/test"
        assert (await asyncio.to_thread(stack.admin.post, where, None))["healthy"] is True
    kept = json.loads((tmp_path / "state" / "secrets.json").read_text())
    assert kept["encryption_key"] != sealing["LLM_ENCRYPTION_KEY"]
