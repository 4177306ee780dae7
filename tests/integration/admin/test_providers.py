"""The llm-providers endpoints against PostgreSQL, OpenBao and NATS."""

import hashlib
import json
import logging
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import select, text, update

from admin_api.database import Database
from contracts.subjects import Provider
from fleet.local.vault_api import VaultApi, VaultRefused
from migrations.schema import audit_log, llm_providers
from runtime.sealing import Keyring
from runtime.settings import SealingSettings
from tests.integration.admin.conftest import NatsWithUsers, ReadConfig, ReadKey
from tests.servers import Vault

PROVIDERS = "/api/v1/llm-providers"
KEY = "sk-test-0123456789abcdef-KEEPME"
OTHER_KEY = "sk-test-fedcba9876543210-KEEPME"
ENTRA_AT_HOME = f'{{"tenant_id": "t", "client_id": "c", "client_secret": "{KEY}", "authority": "https://127.0.0.1"}}'
AZURE = "https://west.openai.azure.com"
CONFIG = {"base_url": "https://llm.example.com/v1", "models": ["gpt-4o-mini"], "timeouts": {"total_s": 30}}


def fingerprint(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:8]


async def add(api: httpx.AsyncClient, tenant: str, **fields: Any) -> dict[str, Any]:
    body = {"tenant": tenant, "provider_type": "openai", "api_key": KEY, **fields}
    answer = await api.post(PROVIDERS, json={name: value for name, value in body.items() if value is not None})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def test_adds_a_provider_and_seals_its_key(
    api: httpx.AsyncClient, acme: str, stored_key: ReadKey, sealing_key: str, config_entry: ReadConfig
) -> None:
    added = await add(api, acme, config=CONFIG, is_default=True)

    assert set(added) == {
        "id",
        "tenant",
        "provider_type",
        "config",
        "is_active",
        "is_default",
        "key_fingerprint",
        "key_version",
        "keys",
        "revision",
        "created_at",
        "updated_at",
    }
    assert added["config"] == CONFIG
    assert (added["is_active"], added["is_default"]) == (True, True)
    assert (added["key_fingerprint"], added["key_version"]) == (fingerprint(KEY), 1)
    assert added["keys"] == [{"name": "default", "fingerprint": fingerprint(KEY), "version": 1}]

    held = await stored_key("openai", acme)
    assert KEY not in json.dumps(held)
    assert held["data"]["key_version"] == 1
    keyring = Keyring.from_settings(SealingSettings(llm_encryption_key=SecretStr(sealing_key)))
    assert keyring.unseal(held["data"]["sealed"], tenant=acme, provider="openai").get_secret_value() == KEY

    entry = await config_entry(f"provider.{acme}.openai")
    assert entry is not None
    assert entry["provider_id"] == added["id"]
    assert (entry["key_version"], entry["is_active"], entry["is_default"]) == (1, True, True)
    assert entry["config"]["base_url"] == CONFIG["base_url"]
    assert KEY not in json.dumps(entry)

    assert (await api.get(f"{PROVIDERS}/{added['id']}")).json() == added


async def test_rotation_raises_the_key_version_and_tells_the_workers(
    api: httpx.AsyncClient, acme: str, stored_key: ReadKey, config_entry: ReadConfig
) -> None:
    added = await add(api, acme, config=CONFIG)

    rotated = await api.put(f"{PROVIDERS}/{added['id']}", json={"api_key": OTHER_KEY})

    assert rotated.status_code == 200
    assert (rotated.json()["key_version"], rotated.json()["key_fingerprint"]) == (2, fingerprint(OTHER_KEY))
    assert rotated.json()["config"] == CONFIG
    held = await stored_key("openai", acme)
    assert (held["data"]["key_version"], held["metadata"]["version"]) == (2, 2)
    entry = await config_entry(f"provider.{acme}.openai")
    assert entry is not None
    assert (entry["key_version"], entry["revision"]) == (2, 2)


async def test_rotates_although_vault_is_ahead_of_the_database(
    api: httpx.AsyncClient, acme: str, vault: Vault, stored_key: ReadKey
) -> None:
    added = await add(api, acme)
    await vault.root.call("POST", f"llm/data/openai/{acme}", {"data": {"sealed": "of a lost commit", "key_version": 2}})

    rotated = await api.put(f"{PROVIDERS}/{added['id']}", json={"api_key": OTHER_KEY})

    assert rotated.json()["key_version"] == 2
    assert (await stored_key("openai", acme))["data"]["sealed"].startswith("fleet1.")


async def test_the_admin_role_cannot_read_keys_back(
    api: httpx.AsyncClient, acme: str, vault: Vault, stored_key: ReadKey
) -> None:
    await add(api, acme)
    role_id, secret_id = vault.role("admin")
    login = await VaultApi(vault.addr).call("POST", "auth/approle/login", {"role_id": role_id, "secret_id": secret_id})
    admin = VaultApi(vault.addr, login["auth"]["client_token"])

    with pytest.raises(VaultRefused, match="403"):
        await admin.call("GET", f"llm/data/openai/{acme}")

    assert (await stored_key("openai", acme))["data"]["sealed"]


async def test_refuses_a_second_active_provider_of_the_same_type(api: httpx.AsyncClient, acme: str) -> None:
    await add(api, acme)

    again = await api.post(PROVIDERS, json={"tenant": acme, "provider_type": "openai", "api_key": OTHER_KEY})

    assert again.status_code == 409
    assert again.headers["content-type"] == "application/problem+json"


async def test_brings_a_deactivated_provider_back(api: httpx.AsyncClient, acme: str, config_entry: ReadConfig) -> None:
    added = await add(api, acme, config=CONFIG, is_default=True)

    gone = await api.delete(f"{PROVIDERS}/{added['id']}")
    assert (gone.status_code, gone.content) == (204, b"")
    assert (await api.delete(f"{PROVIDERS}/{added['id']}")).status_code == 204
    inactive = (await api.get(f"{PROVIDERS}/{added['id']}")).json()
    assert (inactive["is_active"], inactive["is_default"]) == (False, False)
    entry = await config_entry(f"provider.{acme}.openai")
    assert entry is not None
    assert entry["is_active"] is False

    back = await add(api, acme, api_key=OTHER_KEY)

    assert back["id"] == added["id"]
    assert (back["is_active"], back["key_version"], back["config"]) == (True, 2, {})
    entry = await config_entry(f"provider.{acme}.openai")
    assert entry is not None
    assert (entry["is_active"], entry["revision"]) == (True, 3)


async def test_a_tenant_has_one_default(api: httpx.AsyncClient, acme: str, config_entry: ReadConfig) -> None:
    first = await add(api, acme, is_default=True)
    second = await add(api, acme, provider_type="anthropic", is_default=True)

    assert second["is_default"] is True
    assert (await api.get(f"{PROVIDERS}/{first['id']}")).json()["is_default"] is False
    entry = await config_entry(f"provider.{acme}.openai")
    assert entry is not None
    assert (entry["is_default"], entry["revision"]) == (False, 2)

    back = await api.put(f"{PROVIDERS}/{first['id']}", json={"is_default": True})

    assert back.json()["is_default"] is True
    assert (await api.get(f"{PROVIDERS}/{second['id']}")).json()["is_default"] is False


@pytest.mark.parametrize("provider", ["mock", "ollama"])
async def test_needs_no_key_for_providers_without_one(
    api: httpx.AsyncClient, acme: str, provider: str, config_entry: ReadConfig
) -> None:
    added = await add(api, acme, provider_type=provider, api_key=None)

    assert (added["key_version"], added["key_fingerprint"]) == (None, None)
    entry = await config_entry(f"provider.{acme}.{provider}")
    assert entry is not None
    assert entry["key_version"] is None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"api_key": None}, "api_key"),
        ({"api_key": ""}, "api_key"),
        ({"api_key": "sk-line\nbreak"}, "api_key"),
        ({"api_key": {"sk-nested": KEY}}, "api_key"),
        ({"provider_type": "auto"}, "provider_type"),
        ({"provider_type": KEY}, "provider_type"),
        ({"key": KEY}, "key"),
        ({KEY: "x"}, "…"),
        ({"config": {"api_key": KEY}}, "config.api_key"),
        ({"config": {"base_url": KEY}}, "config.base_url"),
        ({"config": {"base_url": "http://127.0.0.1:1/v1"}}, "config.base_url"),
        ({"config": {"endpoints": [{"name": "a"}, {"name": "b", "base_url": "http://[::1]/"}]}}, None),
        ({"config": {"endpoints": [{"name": "a", "auth": "entra_id"}]}}, "api_key"),
        ({"api_key": ENTRA_AT_HOME, "config": {"endpoints": [{"name": "a", "auth": "entra_id"}]}}, "api_key"),
        ({"config": {"timeouts": {"total_s": "soon"}}}, "config.timeouts.total_s"),
        ({"tenant": "not a token"}, "tenant"),
        ({"is_default": KEY}, "is_default"),
    ],
)
async def test_refuses_what_is_wrong_and_repeats_none_of_it(
    api: httpx.AsyncClient, acme: str, change: dict[str, Any], field: str | None
) -> None:
    answer = await api.post(PROVIDERS, json={"tenant": acme, "provider_type": "openai", "api_key": OTHER_KEY, **change})

    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert KEY not in answer.text
    assert "sk-" not in answer.text
    problem = answer.json()
    assert problem["errors"]
    assert field is None or field in {error["field"] for error in problem["errors"]}


async def test_allows_private_addresses_of_the_allowed_networks(api: httpx.AsyncClient, acme: str) -> None:
    config = {"base_url": "http://10.1.2.3:11434"}

    assert (await add(api, acme, provider_type="ollama", api_key=None, config=config))["config"] == config


async def test_takes_an_applications_credentials_as_the_key(api: httpx.AsyncClient, acme: str) -> None:
    config = {"endpoints": [{"name": "west", "base_url": "https://west.openai.azure.com", "auth": "entra_id"}]}
    credentials = '{"tenant_id": "t", "client_id": "c", "client_secret": "s-0123456789"}'
    added = await add(api, acme, provider_type="azure", api_key=credentials, config=config)
    rotated = await api.put(f"{PROVIDERS}/{added['id']}", json={"api_key": "sk-an-ordinary-key"})
    assert rotated.status_code == 422
    assert "tenant_id" in rotated.text


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({}, "config.base_url"),
        ({"models": ["gpt-4o"]}, "config.base_url"),
        ({"endpoints": [{"name": "west", "base_url": AZURE}, {"name": "north"}]}, "config.endpoints.1.base_url"),
        ({"endpoints": [{"name": "west", "deployments": {"gpt-4o": "mine"}}]}, "config.endpoints.0.base_url"),
    ],
)
async def test_each_endpoint_of_azure_needs_its_address(
    api: httpx.AsyncClient, acme: str, config: dict[str, Any], field: str
) -> None:
    body = {"tenant": acme, "provider_type": "azure", "api_key": OTHER_KEY, "config": config}
    refused = await api.post(PROVIDERS, json=body)
    added = await add(api, acme, provider_type="azure", config={"base_url": AZURE})
    changed = await api.put(f"{PROVIDERS}/{added['id']}", json={"config": config})

    for answer in (refused, changed):
        assert answer.status_code == 422
        assert [error["field"] for error in answer.json()["errors"]] == [field]
        assert "https://<resource>.openai.azure.com" in answer.json()["detail"]
    assert (await api.get(f"{PROVIDERS}/{added['id']}")).json() == added


async def test_a_change_without_a_config_leaves_an_old_one_of_azure_alone(
    api: httpx.AsyncClient, acme: str, database: Database
) -> None:
    added = await add(api, acme, provider_type="azure", config={"base_url": AZURE})
    async with database.transaction() as connection:
        await connection.execute(update(llm_providers).where(llm_providers.c.id == added["id"]).values(config={}))

    rotated = await api.put(f"{PROVIDERS}/{added['id']}", json={"api_key": OTHER_KEY})

    assert (rotated.status_code, rotated.json()["key_version"]) == (200, 2)


async def test_refuses_an_unknown_tenant(api: httpx.AsyncClient) -> None:
    answer = await api.post(PROVIDERS, json={"tenant": "nobody", "provider_type": "openai", "api_key": KEY})

    assert answer.status_code == 404
    assert "nobody" in answer.json()["detail"]


async def test_a_provider_keeps_its_tenant_and_type(api: httpx.AsyncClient, acme: str) -> None:
    added = await add(api, acme)

    same = await api.put(f"{PROVIDERS}/{added['id']}", json={"tenant": acme, "provider_type": "openai"})
    other = await api.put(f"{PROVIDERS}/{added['id']}", json={"provider_type": "anthropic"})

    assert (same.status_code, other.status_code) == (200, 422)
    assert same.json() == added


async def test_lists_by_tenant_type_and_activity_in_pages(api: httpx.AsyncClient, acme: str, tenant: str) -> None:
    other = f"{tenant}-other"
    await api.post("/api/v1/tenants", json={"slug": other})
    for provider in Provider:
        await add(api, acme, provider_type=provider, config={"base_url": AZURE} if provider == "azure" else None)
    gone = await add(api, other)
    await api.delete(f"{PROVIDERS}/{gone['id']}")

    async def listed(**query: Any) -> list[tuple[str, str]]:
        answer = (await api.get(PROVIDERS, params=query)).json()
        assert answer["next"] is None
        return [(item["tenant"], item["provider_type"]) for item in answer["items"]]

    assert await listed(tenant=acme) == [(acme, provider) for provider in sorted(Provider)]
    assert await listed(type="openai") == [(acme, "openai"), (other, "openai")]
    assert await listed(active="false") == [(other, "openai")]
    assert await listed(tenant="nobody") == []

    pages: list[str] = []
    cursor: str | None = None
    while True:
        query: dict[str, Any] = {"tenant": acme, "limit": 4} | ({"cursor": cursor} if cursor else {})
        page = (await api.get(PROVIDERS, params=query)).json()
        pages.extend(item["provider_type"] for item in page["items"])
        cursor = page["next"]
        if cursor is None:
            break
    assert pages == sorted(Provider)
    for broken in ("x", "bnVsbA", "WyJhIl0"):
        assert (await api.get(PROVIDERS, params={"cursor": broken})).status_code == 422


async def test_unknown_ids_and_broken_ids(api: httpx.AsyncClient) -> None:
    unknown = f"{PROVIDERS}/00000000-0000-4000-8000-000000000000"

    assert (await api.get(unknown)).status_code == 404
    assert (await api.put(unknown, json={})).status_code == 404
    assert (await api.delete(unknown)).status_code == 404
    assert (await api.post(f"{unknown}/test")).status_code == 404
    assert (await api.get(f"{unknown}/usage")).status_code == 404
    broken = await api.get(f"{PROVIDERS}/{KEY}")
    assert broken.status_code == 422
    assert "sk-" not in broken.text


async def test_health_is_asked_of_a_worker(api: httpx.AsyncClient, acme: str, nats_users: NatsWithUsers) -> None:
    added = await add(api, acme)
    nobody = await api.post(f"{PROVIDERS}/{added['id']}/test")
    assert nobody.status_code == 503
    assert "openai" in nobody.json()["detail"]
    answers: list[dict[str, Any]] = [
        {"error": {"code": "no_provider", "message": "not heard of yet", "retryable": False}},
        {"healthy": True, "endpoints": [{"endpoint": "default", "healthy": True, "latency_s": 0.1}]},
        {"error": {"code": "internal", "message": "a bug", "retryable": False}},
    ]

    async with nats_users.connect_as("worker-openai") as worker:

        async def on_ask(message: Any) -> None:
            assert message.subject == f"llm.v1.rpc.openai.health.{acme}"
            await message.respond(json.dumps(answers.pop(0)).encode())

        await worker.subscribe("llm.v1.rpc.openai.*.*", queue="openai", cb=on_ask)
        await worker.flush()

        healthy = await api.post(f"{PROVIDERS}/{added['id']}/test")
        ill = await api.post(f"{PROVIDERS}/{added['id']}/test")

    assert healthy.json() == {
        "healthy": True,
        "endpoints": [{"endpoint": "default", "healthy": True, "latency_s": 0.1}],
    }
    assert ill.status_code == 200
    assert (ill.json()["healthy"], ill.json()["error"]["code"]) == (False, "internal")
    await api.delete(f"{PROVIDERS}/{added['id']}")
    assert (await api.post(f"{PROVIDERS}/{added['id']}/test")).status_code == 409


async def test_a_key_is_nowhere_but_in_vault(
    api: httpx.AsyncClient,
    acme: str,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    answers = [
        await api.post(PROVIDERS, json={"tenant": acme, "provider_type": "openai", "api_key": KEY}),
        await api.post(PROVIDERS, json={"tenant": acme, "provider_type": "openai", "api_key": KEY}),
        await api.post(PROVIDERS, json={"tenant": acme, "provider_type": "openai", "api_key": [KEY]}),
        await api.post(PROVIDERS, content=f'{{"api_key": "{KEY}",', headers={"Content-Type": "application/json"}),
        await api.post(PROVIDERS, content=f"{KEY}", headers={"Content-Type": "text/plain"}),
        await api.get(PROVIDERS),
        await api.get(f"/{KEY}"),
    ]
    added = answers[0].json()
    answers.append(await api.put(f"{PROVIDERS}/{added['id']}", json={"api_key": OTHER_KEY}))
    answers.append(await api.get("/metrics"))

    assert [answer.status_code for answer in answers] == [201, 409, 422, 422, 422, 200, 404, 200, 200]
    async with database.transaction() as connection:
        audit = [
            dict(row) for row in (await connection.execute(select(audit_log).order_by(audit_log.c.seq))).mappings()
        ]
        rows = (await connection.execute(text("SELECT p::text FROM llm_providers p"))).scalars().all()
    records = [record for record in caplog.records if record.name != "httpx"]  # what this test itself asks for
    spoken = [answer.text for answer in answers] + [record.getMessage() + str(vars(record)) for record in records]
    for everything in (*spoken, str(audit), str(rows), *capfd.readouterr()):
        assert "KEEPME" not in everything
    made = [row for row in audit if row["refusal"] is None]
    assert [row["action"] for row in made] == ["tenant.add", "provider.add", "provider.rotate"]
    assert made[-1]["before"]["key_fingerprint"] == fingerprint(KEY)
    assert made[-1]["after"]["key_fingerprint"] == fingerprint(OTHER_KEY)
    assert [row["refusal"]["status"] for row in audit if row["refusal"] is not None] == [409, 422, 422, 422]
