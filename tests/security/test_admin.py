"""What a tenant's admin may not: lift its own walls, or stop the control plane."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
import pytest_asyncio

from fleet.admin_client import AdminRefused
from tests.patience import PATIENCE_S
from tests.security.fleet import MODELS, Fleet, Tenant
from tests.security.neighbours import Neighbours

WALLS: Mapping[str, Any] = {
    "daily_budget_usd": "5",
    "limits": {"requests_per_minute": 600, "requests_per_day": 6000},
    "prices": {f"openai/{MODELS['openai']}": {"input_mtok": "1", "output_mtok": "2"}},
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def walled(fleet: Fleet) -> Tenant:
    """Whose admin attacks."""
    return await fleet.tenant()


LIFTED: dict[str, dict[str, Any]] = {
    "no budget": {"daily_budget_usd": None},
    "a budget of nothing": {"daily_budget_usd": "0"},
    "a larger budget": {"daily_budget_usd": "1000000"},
    "no limit a minute": {"limits": {"requests_per_minute": 0}},
    "no limit a day": {"limits": {"requests_per_day": 0}},
    "the default limit": {"limits": {"requests_per_minute": None}},
    "no limits": {"limits": None},
    "a higher limit": {"limits": {"requests_per_minute": 1_000_000}},
    "no prices": {"prices": {}},
    "the catalogue's prices": {"prices": None},
    "prices of nothing": {"prices": {f"openai/{MODELS['openai']}": {"input_mtok": "0", "output_mtok": "0"}}},
    "prices of another model": {"prices": {**WALLS["prices"], "openai/x": {"input_mtok": "0", "output_mtok": "0"}}},
    "all at once, among what is allowed": {"aliases": {"fast": ["openai/x"]}, "daily_budget_usd": None, "prices": {}},
}


@pytest.mark.parametrize("lift", LIFTED)
async def test_a_tenants_admin_cannot_lift_its_own_walls(fleet: Fleet, walled: Tenant, lift: str) -> None:
    def attack() -> tuple[Any, Any, int | None]:
        fleet.admin.put(f"tenants/{walled.name}", dict(WALLS))
        before = fleet.admin.get(f"tenants/{walled.name}")
        status = None
        try:
            walled.admin.put(f"tenants/{walled.name}", LIFTED[lift])
        except AdminRefused as exc:
            status = exc.status
        return before, fleet.admin.get(f"tenants/{walled.name}"), status

    before, after, status = await asyncio.to_thread(attack)

    assert {name: after[name] for name in (*WALLS, "aliases")} == {name: before[name] for name in (*WALLS, "aliases")}
    assert status in (403, 422)


BODIES: dict[str, bytes] = {
    "unknown fields": json.dumps({f"f{n}": n for n in range(80_000)}).encode(),
    "items": json.dumps({"aliases": {"a": ["x"] * 200_000}}).encode(),
    "members": json.dumps({"aliases": {f"a{n}": ["openai/x"] for n in range(40_000)}}).encode(),
    "levels": b'{"aliases":' + b"[" * 500_000 + b"]" * 500_000 + b"}",
    "digits": b'{"daily_budget_usd":' + b"9" * 900_000 + b"}",
    "one name": json.dumps({"x" * 900_000: 1}).encode(),
    "the same name": b"{" + b'"a":1,' * 150_000 + b'"a":1}',
}
_MOST_CPU_S = 1.5
"""Of a processor, however busy the machine is; where the wall was missing it was 4.9 s."""


@pytest.mark.parametrize("body", BODIES)
async def test_no_body_of_a_megabyte_occupies_the_control_plane(
    fleet: Fleet, walled: Tenant, neighbours: Neighbours, body: str
) -> None:
    process = psutil.Process(fleet.process("admin").pid)
    token = walled.admin._token.get_secret_value()  # pyright: ignore[reportPrivateUsage]
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    async with neighbours.unharmed(), httpx.AsyncClient(timeout=PATIENCE_S) as http:
        before = sum(process.cpu_times()[:2])
        answer = await http.put(
            f"{fleet.admin_url}/api/v1/tenants/{walled.name}", content=BODIES[body], headers=headers
        )
        used = sum(process.cpu_times()[:2]) - before

    assert 400 <= answer.status_code < 500
    assert len(answer.content) < 16_384
    assert used < _MOST_CPU_S


HEAD = "POST /api/v1/tenants HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
SMUGGLED = {
    "a length and chunks": "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and a length": "transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": "content-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    "a list of lengths": "content-length: 5, 6\r\n\r\nhello!",
    "a signed length": "content-length: +5\r\n\r\nhello",
    "a blank before the colon": "content-length : 5\r\n\r\nhello",
    "another coding": "transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("framing", SMUGGLED)
async def test_a_request_with_two_lengths_is_refused_and_its_connection_closed(fleet: Fleet, framing: str) -> None:
    follows = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(fleet.admin_url).port)
    try:
        writer.write((HEAD + SMUGGLED[framing] + follows).encode())
        async with asyncio.timeout(PATIENCE_S):
            said = await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()

    assert said.startswith(b"HTTP/1.1 400")
    assert said.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("slug", ["-rf", "_", "--", "-", "__"])
async def test_a_name_that_no_tenant_can_have_is_refused(fleet: Fleet, slug: str) -> None:
    with pytest.raises(AdminRefused) as refused:
        await asyncio.to_thread(fleet.admin.post, "tenants", {"slug": slug})
    assert refused.value.status in (409, 422)


async def test_a_name_that_differs_by_its_case_alone_is_refused(fleet: Fleet, walled: Tenant) -> None:
    for alike in (walled.name.upper(), walled.name.replace("-", "_")):
        with pytest.raises(AdminRefused) as refused:
            await asyncio.to_thread(fleet.admin.post, "tenants", {"slug": alike})
        assert refused.value.status in (409, 422)
