"""Every kind of caller at every endpoint, as the published table says."""

import uuid
from collections.abc import AsyncGenerator, Iterator
from datetime import timedelta
from ipaddress import IPv4Address
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from admin_api.database import Database
from admin_api.dependencies import part_of
from admin_api.notices import webhook
from admin_api.settings import AdminSettings
from contracts.control import DEAD_SUBJECT
from contracts.wire import utc_now
from migrations.schema import alerts, api_tokens, webhooks
from runtime.sealing import Keyring
from tests import issuer as issuers
from tests.integration.admin.conftest import ADMIN_TOKEN, NatsWithUsers
from tests.issuer import AUDIENCE, Issuer
from tests.permissions.http import ENDPOINTS, Endpoint, Kind

TOKENS = "/api/v1/tokens"


@pytest_asyncio.fixture
async def issuer() -> AsyncGenerator[Issuer]:
    async with issuers.running() as issuer:
        yield issuer


@pytest.fixture
def settings(settings: AdminSettings, issuer: Issuer) -> AdminSettings:
    changes = {"llm_oidc_issuer": issuer.url, "llm_oidc_audience": AUDIENCE, "llm_admin_rate_limit_per_minute": 0}
    return settings.model_copy(update=changes)


def addresses() -> Iterator[str]:
    """Another one for each request, so that those who are refused are not slowed down."""
    return (str(IPv4Address("198.18.0.0") + number) for number in range(2**16))


async def ask(
    app: FastAPI, address: str, token: str | None, method: str, path: str, body: Any = None
) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    transport = httpx.ASGITransport(app, client=(address, 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://admin", trust_env=False) as client:
        return await client.request(method, path, json=body, headers=headers)


async def callers(database: Database, api: httpx.AsyncClient, issuer: Issuer, own: str) -> list[tuple[Kind, Any, str]]:
    """Kind, token and name of each."""

    async def added(name: str, **fields: Any) -> dict[str, Any]:
        answer = await api.post(TOKENS, json={"name": name, **fields})
        assert answer.status_code == 201, answer.text
        return answer.json()

    stored = {
        Kind.ADMIN: {"role": "admin"},
        Kind.TENANT_ADMIN: {"role": "tenant_admin", "tenant": own},
        Kind.VIEWER: {"role": "viewer", "tenant": own},
        Kind.VIEWER_OF_ALL: {"role": "viewer"},
    }
    revoked = await added("revoked", role="admin")
    await api.delete(f"{TOKENS}/{revoked['id']}")
    expired = await added("expired", role="admin", expires_at=(utc_now() + timedelta(hours=1)).isoformat())
    async with database.transaction() as connection:
        columns = api_tokens.c
        of_expired = api_tokens.update().where(columns.id == uuid.UUID(expired["id"]))
        await connection.execute(of_expired.values(expires_at=utc_now() - timedelta(seconds=1)))
    return [
        (Kind.ADMIN, ADMIN_TOKEN, "bootstrap"),
        *[(kind, (await added(kind, **fields))["token"], f"token of {kind}") for kind, fields in stored.items()],
        (Kind.ADMIN, issuer.token(roles=["admin"]), "issuer's admin"),
        (Kind.TENANT_ADMIN, issuer.token(roles=["tenant_admin"], tenant=own), "issuer's tenant_admin"),
        (Kind.TENANT_ADMIN, issuer.token(roles=["admin"], tenant=own), "issuer's admin of a tenant"),
        (Kind.VIEWER, issuer.token(roles=["viewer"], tenant=own), "issuer's viewer"),
        (Kind.VIEWER_OF_ALL, issuer.token(roles=["viewer"], tenant="*"), "issuer's viewer of all"),
        (Kind.NOBODY, None, "no token"),
        (Kind.NOBODY, "fleet_this-token-was-never-given-to-anybody", "unknown token"),
        (Kind.NOBODY, revoked["token"], "revoked token"),
        (Kind.NOBODY, expired["token"], "expired token"),
        (Kind.NOBODY, issuer.token(roles=["admin"], exp=timedelta(minutes=-5)), "issuer's expired token"),
    ]


OPERATORS = {"limits": None, "daily_budget_usd": None, "prices": None, "may_lower": True, "max_keep_s": None}
"""What the operator has set for each tenant, before each question."""


async def fresh_objects(
    database: Database, keyring: Keyring, api: httpx.AsyncClient, nats_users: NatsWithUsers, own: str, other: str
) -> dict[str, str]:
    """A mock provider, alert, webhook, token and dead letter of each tenant; no ollama, and no tenant `new`."""
    found: dict[str, str] = {"own": own, "other": other}
    of_tenants = (("own", own), ("other", other))
    async with database.transaction() as connection:
        await connection.execute(text("DELETE FROM llm_providers"))
        await connection.execute(text("DELETE FROM alerts"))
        await connection.execute(text("DELETE FROM tenants WHERE slug = 'new'"))
        for whose, slug in of_tenants:
            alert = {"id": uuid.uuid4(), "tenant": slug, "kind": "daily_cost", "day": utc_now().date(), "message": "m"}
            await connection.execute(alerts.insert().values(alert))
            found[f"{whose}_alert"] = str(alert["id"])
            found[f"{whose}_webhook"] = await _add_webhook(connection, keyring, slug)
    async with nats_users.connect_as("worker-mock") as pool:
        for whose, slug in of_tenants:
            headers = {DEAD_SUBJECT: f"llm.v1.request.mock.interactive.{slug}"}
            ack = await pool.jetstream().publish(f"llm.v1.dead.mock.{slug}", b"{}", headers=headers)
            found[f"{whose}_letter"] = str(ack.seq)
    for whose, slug in of_tenants:
        provider = await api.post("/api/v1/llm-providers", json={"tenant": slug, "provider_type": "mock"})
        token = await api.post(TOKENS, json={"name": "victim", "role": "viewer", "tenant": slug})
        found |= {f"{whose}_provider": provider.json()["id"], f"{whose}_token": token.json()["id"]}
    return found


async def _add_webhook(connection: AsyncConnection, keyring: Keyring, slug: str) -> str:
    """One whose address is refused, so that nobody is called."""
    hook_id = uuid.uuid4()
    secret = webhook.sealed(keyring, webhook.new_secret(), hook_id=hook_id, tenant=slug)
    row = {"id": hook_id, "tenant": slug, "url": "http://127.0.0.1:9/", "kinds": ["test"], "sealed_secret": secret}
    await connection.execute(webhooks.insert().values(row))
    return str(hook_id)


def filled(template: Any, values: dict[str, str]) -> Any:
    if isinstance(template, dict):
        return {name: filled(value, values) for name, value in template.items()}
    return template.format(**values) if isinstance(template, str) else template


def is_as_published(row: Endpoint, kind: Kind, answer: httpx.Response) -> bool:
    if kind not in row.allowed:
        return answer.status_code == (401 if kind is Kind.NOBODY else 403)
    return answer.status_code == row.answers if row.answers else answer.is_success


async def test_every_kind_of_caller_at_every_endpoint(
    app: FastAPI, api: httpx.AsyncClient, nats_users: NatsWithUsers, issuer: Issuer, tenant: str
) -> None:
    database, keyring = part_of(app, Database), part_of(app, Keyring)
    other = f"{tenant}-other"
    for slug in (tenant, other):
        await api.post("/api/v1/tenants", json={"slug": slug, **OPERATORS})
    everybody = await callers(database, api, issuer, tenant)
    address, wrong = addresses(), list[str]()
    values = await fresh_objects(database, keyring, api, nats_users, tenant, other)
    for row in ENDPOINTS:
        for kind, token, name in everybody:
            path, body = filled(row.path, values), filled(row.body, values)
            answer = await ask(app, next(address), token, row.method, path, body)
            if not is_as_published(row, kind, answer):
                wrong.append(f"{name}: {row.method} {row.path} {row.body} → {answer.status_code}")
            if answer.is_error and row.path.startswith("/api/"):
                assert answer.headers["content-type"] == "application/problem+json"
                assert answer.json()["status"] == answer.status_code
            if answer.status_code == 401:
                assert answer.headers["www-authenticate"].startswith("Bearer")
            if answer.is_success and row.method in ("POST", "DELETE"):
                values = await fresh_objects(database, keyring, api, nats_users, tenant, other)
            if answer.is_success and row.method == "PUT":
                # What is already there may be sent by more callers than what would be a change.
                await api.put(f"/api/v1/tenants/{tenant}", json=OPERATORS)
    assert wrong == []


@pytest.mark.parametrize("path", ["/api/v1/nothing", "/api", "/api/v1/tenants/a/b"])
async def test_unknown_callers_do_not_learn_which_routes_there_are(app: FastAPI, path: str) -> None:
    answer = await ask(app, "198.18.0.1", None, "GET", path)

    assert answer.status_code == (401 if path.startswith("/api/") else 404)
