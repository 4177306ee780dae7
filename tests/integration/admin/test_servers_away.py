"""A server that goes away costs 503 answers while it is away, and nothing else."""

import asyncio
from collections.abc import AsyncGenerator

import httpx
import pytest_asyncio

from admin_api.app import open_admin_api
from admin_api.settings import AdminSettings
from fleet.local.servers import VaultServer
from fleet.local.vault_api import VaultApi
from tests.integration.admin.conftest import client_of, until
from tests.servers import StoppableDatabase

PROVIDERS = "/api/v1/llm-providers"


@pytest_asyncio.fixture
async def vaulted(settings: AdminSettings, sealable_vault: VaultServer) -> AsyncGenerator[httpx.AsyncClient]:
    role_id, secret_id = sealable_vault.role("admin")
    of_that_vault = {"vault_addr": sealable_vault.addr, "vault_role_id": role_id, "vault_secret_id": secret_id}
    changed = settings.model_dump() | of_that_vault
    async with open_admin_api(AdminSettings.model_validate(changed)) as admin, client_of(admin.app) as api:
        yield api


async def is_ready(api: httpx.AsyncClient) -> bool:
    return (await api.get("/readyz")).status_code == 200


async def checks(api: httpx.AsyncClient) -> dict[str, bool]:
    return (await api.get("/readyz")).json()["checks"]


async def test_a_key_is_not_accepted_while_vault_is_sealed_or_gone(
    vaulted: httpx.AsyncClient, sealable_vault: VaultServer, tenant: str
) -> None:
    await vaulted.post("/api/v1/tenants", json={"slug": tenant})
    body = {"tenant": tenant, "provider_type": "openai", "api_key": "sk-x"}
    kept = await vaulted.post(PROVIDERS, json={**body, "provider_type": "google"})
    assert kept.status_code == 201

    await sealable_vault.seal()
    sealed = await vaulted.post(PROVIDERS, json=body)
    rotated = await vaulted.put(f"{PROVIDERS}/{kept.json()['id']}", json={"api_key": "sk-y"})
    unready = await checks(vaulted)
    await sealable_vault.stop()
    gone = await vaulted.post(PROVIDERS, json=body)

    for answer in (sealed, rotated, gone):
        assert (answer.status_code, answer.json()["status"]) == (503, 503)
        assert "Vault" in answer.json()["detail"]
    assert unready == {"database": True, "nats": True, "storage": True, "vault": False}
    assert (await vaulted.get(PROVIDERS, params={"type": "openai"})).json()["items"] == []
    assert (await vaulted.get(f"{PROVIDERS}/{kept.json()['id']}")).json() == kept.json()
    # What needs no key goes on.
    assert (await vaulted.post(PROVIDERS, json={"tenant": tenant, "provider_type": "mock"})).status_code == 201

    await sealable_vault.start()
    await until(lambda: is_ready(vaulted))
    assert (await vaulted.post(PROVIDERS, json=body)).status_code == 201
    again = await vaulted.put(f"{PROVIDERS}/{kept.json()['id']}", json={"api_key": "sk-y"})
    assert again.json()["key_version"] == 2


async def test_a_revoked_vault_token_is_replaced(
    vaulted: httpx.AsyncClient, sealable_vault: VaultServer, tenant: str
) -> None:
    await vaulted.post("/api/v1/tenants", json={"slug": tenant})
    root = VaultApi(sealable_vault.addr, sealable_vault.root_token)
    await root.call("PUT", "sys/leases/revoke-prefix/auth/approle/login")

    answer = await vaulted.post(PROVIDERS, json={"tenant": tenant, "provider_type": "openai", "api_key": "sk-x"})

    assert answer.status_code == 201, answer.text


async def test_the_database_goes_away_and_comes_back(
    settings: AdminSettings, postgres: StoppableDatabase, tenant: str
) -> None:
    changed = settings.model_dump() | {"database_url": postgres.url}
    async with open_admin_api(AdminSettings.model_validate(changed)) as admin, client_of(admin.app) as api:
        await api.post("/api/v1/tenants", json={"slug": tenant})
        await postgres.stop()

        async with asyncio.timeout(60):  # far less than one after the other would take
            away = await asyncio.gather(*(api.get("/api/v1/tenants") for _ in range(20)))
            token = await api.get("/api/v1/tenants", headers={"Authorization": "Bearer fleet_stored-in-the-database"})
            ready = await checks(api)
            alive = await api.get("/healthz")

        assert {answer.status_code for answer in away} == {503}
        assert all("PostgreSQL" in answer.json()["detail"] for answer in away)
        assert token.status_code == 503
        assert (ready, alive.status_code) == ({"database": False, "nats": True, "storage": True, "vault": True}, 200)

        await postgres.start()
        await until(lambda: is_ready(api))
        assert [item["slug"] for item in (await api.get("/api/v1/tenants")).json()["items"]] == [tenant]


async def test_metrics_count_by_route_template(api: httpx.AsyncClient, acme: str) -> None:
    for slug in (acme, "nobody"):
        await api.get(f"/api/v1/tenants/{slug}")
    await api.get("/nowhere/at/all")

    metrics = (await api.get("/metrics")).text

    assert 'fleet_admin_requests_total{method="GET",route="/api/v1/tenants/{slug}",status="200"} 1.0' in metrics
    assert 'fleet_admin_requests_total{method="GET",route="/api/v1/tenants/{slug}",status="404"} 1.0' in metrics
    assert 'route="unmatched",status="404"' in metrics
    assert acme not in metrics
    assert "process_resident_memory_bytes" in metrics
