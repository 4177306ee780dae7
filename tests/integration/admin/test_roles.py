"""Who may do what: every role at every endpoint."""

import uuid
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import select, text

from admin_api.control_plane import ControlPlane
from contracts.control import DEAD_SUBJECT
from contracts.wire import utc_now
from migrations.schema import alerts, api_tokens
from tests.integration.admin.conftest import ADMIN_TOKEN, NatsWithUsers, client_of

TOKENS = "/api/v1/tokens"
ROLES = ("admin", "tenant_admin", "viewer of tenant", "viewer of all", "nobody", "stranger")
OK = "ok"

# method, path, body → what each of ROLES gets. {own} is the tenant of the scoped tokens, {other} another one.
TABLE: list[tuple[str, str, Any, tuple[Any, ...]]] = [
    ("GET", "/healthz", None, (OK, OK, OK, OK, OK, OK)),
    ("GET", "/readyz", None, (OK, OK, OK, OK, OK, OK)),
    ("GET", "/metrics", None, (OK, OK, OK, OK, OK, OK)),
    ("GET", "/openapi.json", None, (OK, OK, OK, OK, OK, OK)),
    ("GET", "/api/v1/tenants", None, (OK, OK, OK, OK, 401, 401)),
    ("GET", "/api/v1/tenants/{own}", None, (OK, OK, OK, OK, 401, 401)),
    ("GET", "/api/v1/tenants/{other}", None, (OK, 403, 403, OK, 401, 401)),
    ("POST", "/api/v1/tenants", {"slug": "new"}, (OK, 403, 403, 403, 401, 401)),
    ("PUT", "/api/v1/tenants/{own}", {}, (OK, OK, 403, 403, 401, 401)),
    ("PUT", "/api/v1/tenants/{other}", {}, (OK, 403, 403, 403, 401, 401)),
    ("GET", "/api/v1/llm-providers", None, (OK, OK, OK, OK, 401, 401)),
    ("GET", "/api/v1/llm-providers?tenant={other}", None, (OK, 403, 403, OK, 401, 401)),
    ("GET", "/api/v1/llm-providers/{own_provider}", None, (OK, OK, OK, OK, 401, 401)),
    ("GET", "/api/v1/llm-providers/{other_provider}", None, (OK, 403, 403, OK, 401, 401)),
    ("PUT", "/api/v1/llm-providers/{own_provider}", {}, (OK, OK, 403, 403, 401, 401)),
    ("PUT", "/api/v1/llm-providers/{other_provider}", {}, (OK, 403, 403, 403, 401, 401)),
    (
        "POST",
        "/api/v1/llm-providers",
        {"tenant": "{own}", "provider_type": "ollama"},
        (OK, OK, 403, 403, 401, 401),
    ),
    (
        "POST",
        "/api/v1/llm-providers",
        {"tenant": "{other}", "provider_type": "ollama"},
        (OK, 403, 403, 403, 401, 401),
    ),
    ("POST", "/api/v1/llm-providers/{own_provider}/test", None, (503, 503, 403, 403, 401, 401)),
    ("POST", "/api/v1/llm-providers/{other_provider}/test", None, (503, 403, 403, 403, 401, 401)),
    ("GET", "/api/v1/llm-providers/{own_provider}/usage", None, (OK, OK, OK, OK, 401, 401)),
    ("GET", "/api/v1/llm-providers/{other_provider}/usage", None, (OK, 403, 403, OK, 401, 401)),
    ("DELETE", "/api/v1/llm-providers/{own_provider}", None, (OK, OK, 403, 403, 401, 401)),
    ("DELETE", "/api/v1/llm-providers/{other_provider}", None, (OK, 403, 403, 403, 401, 401)),
    ("GET", "/api/v1/models", None, (OK, OK, OK, OK, 401, 401)),
    ("GET", "/api/v1/models?tenant={own}", None, (OK, OK, OK, OK, 401, 401)),
    ("GET", "/api/v1/models?tenant={other}", None, (OK, 403, 403, OK, 401, 401)),
    ("GET", "/api/v1/usage", None, (OK, OK, OK, OK, 401, 401)),
    ("GET", "/api/v1/usage?tenant={other}", None, (OK, 403, 403, OK, 401, 401)),
    ("GET", "/api/v1/tokens", None, (OK, OK, 403, 403, 401, 401)),
    ("POST", "/api/v1/tokens", {"name": "n", "role": "admin"}, (OK, 403, 403, 403, 401, 401)),
    ("POST", "/api/v1/tokens", {"name": "n", "role": "viewer"}, (OK, 403, 403, 403, 401, 401)),
    (
        "POST",
        "/api/v1/tokens",
        {"name": "n", "role": "tenant_admin", "tenant": "{own}"},
        (OK, OK, 403, 403, 401, 401),
    ),
    (
        "POST",
        "/api/v1/tokens",
        {"name": "n", "role": "viewer", "tenant": "{other}"},
        (OK, 403, 403, 403, 401, 401),
    ),
    ("DELETE", "/api/v1/tokens/{other_token}", None, (OK, 403, 403, 403, 401, 401)),
    ("GET", "/api/v1/alerts", None, (OK, OK, OK, OK, 401, 401)),
    ("GET", "/api/v1/alerts?tenant={other}", None, (OK, 403, 403, OK, 401, 401)),
    ("POST", "/api/v1/alerts/{own_alert}/acknowledge", None, (OK, OK, 403, 403, 401, 401)),
    ("POST", "/api/v1/alerts/{other_alert}/acknowledge", None, (OK, 403, 403, 403, 401, 401)),
    ("GET", "/api/v1/audit", None, (OK, OK, OK, OK, 401, 401)),
    ("GET", "/api/v1/audit?tenant={other}", None, (OK, 403, 403, OK, 401, 401)),
    ("GET", "/api/v1/audit?tenant={other}&format=jsonl", None, (OK, 403, 403, OK, 401, 401)),
    ("GET", "/api/v1/dead-letters", None, (OK, OK, OK, OK, 401, 401)),
    ("GET", "/api/v1/dead-letters?tenant={other}", None, (OK, 403, 403, OK, 401, 401)),
    ("GET", "/api/v1/dead-letters/{own_letter}", None, (OK, OK, OK, OK, 401, 401)),
    ("GET", "/api/v1/dead-letters/{other_letter}", None, (OK, 403, 403, OK, 401, 401)),
    ("POST", "/api/v1/dead-letters/{own_letter}/replay", None, (OK, OK, 403, 403, 401, 401)),
    ("POST", "/api/v1/dead-letters/{other_letter}/replay", None, (OK, 403, 403, 403, 401, 401)),
    ("DELETE", "/api/v1/dead-letters/{own_letter}", None, (OK, OK, 403, 403, 401, 401)),
    ("DELETE", "/api/v1/dead-letters/{other_letter}", None, (OK, 403, 403, 403, 401, 401)),
    ("GET", "/api/v1/fleet", None, (OK, 403, 403, OK, 401, 401)),
]


def filled(template: Any, values: dict[str, str]) -> Any:
    if isinstance(template, dict):
        return {name: filled(value, values) for name, value in template.items()}
    return template.format(**values) if isinstance(template, str) else template


async def new_token(api: httpx.AsyncClient, **fields: Any) -> str:
    answer = await api.post(TOKENS, json={"name": "of a test", **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()["token"]


async def test_every_role_at_every_endpoint(
    plane: ControlPlane, api: httpx.AsyncClient, nats_users: NatsWithUsers, tenant: str
) -> None:
    own, other = tenant, f"{tenant}-other"
    for slug in (own, other):
        await api.post("/api/v1/tenants", json={"slug": slug})
    tokens = {
        "admin": await new_token(api, role="admin"),
        "tenant_admin": await new_token(api, role="tenant_admin", tenant=own),
        "viewer of tenant": await new_token(api, role="viewer", tenant=own),
        "viewer of all": await new_token(api, role="viewer"),
        "nobody": None,
        "stranger": "fleet_this-token-was-never-given-to-anybody",
    }
    wrong: list[str] = []
    values = {"own": own, "other": other, **await _fresh_objects(plane, api, nats_users, own, other)}
    for method, path, body, expected in TABLE:
        for role, status in zip(ROLES, expected, strict=True):
            if method in ("POST", "DELETE"):
                values |= await _fresh_objects(plane, api, nats_users, own, other)
            authorization = {"Authorization": f"Bearer {tokens[role]}" if tokens[role] else ""}
            answer = await api.request(method, filled(path, values), json=filled(body, values), headers=authorization)
            if answer.status_code not in ((200, 201, 204) if status == OK else (status,)):
                wrong.append(f"{role}: {method} {path} {body} → {answer.status_code}, not {status}")
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == "application/problem+json"
                assert answer.json()["status"] == answer.status_code
            if answer.status_code == 401:
                assert answer.headers["www-authenticate"].startswith("Bearer")
    assert wrong == []


async def _fresh_objects(
    plane: ControlPlane, api: httpx.AsyncClient, nats_users: NatsWithUsers, own: str, other: str
) -> dict[str, str]:
    """A mock provider, an alert and a dead letter of each tenant, no ollama, no tenant `new`, and a token of the other
    tenant."""
    alerted = {"own_alert": uuid.uuid4(), "other_alert": uuid.uuid4()}
    async with plane.database.transaction() as connection:
        await connection.execute(text("DELETE FROM llm_providers"))
        await connection.execute(text("DELETE FROM alerts"))
        for id_, slug in zip(alerted.values(), (own, other), strict=True):
            await connection.execute(
                alerts.insert().values(id=id_, tenant=slug, kind="daily_cost", day=utc_now().date(), message="m")
            )
        await connection.execute(text("DELETE FROM tenants WHERE slug = 'new'"))
    found = {name: str(id_) for name, id_ in alerted.items()}
    for name, slug in (("own_provider", own), ("other_provider", other)):
        added = await api.post("/api/v1/llm-providers", json={"tenant": slug, "provider_type": "mock"})
        found[name] = added.json()["id"]
    async with nats_users.connect_as("worker-mock") as pool:
        for name, slug in (("own_letter", own), ("other_letter", other)):
            headers = {DEAD_SUBJECT: f"llm.v1.request.mock.interactive.{slug}"}
            ack = await pool.jetstream().publish(f"llm.v1.dead.mock.{slug}", b"{}", headers=headers)
            found[name] = str(ack.seq)
    token = await api.post(TOKENS, json={"name": "victim", "role": "viewer", "tenant": other})
    return found | {"other_token": token.json()["id"]}


async def test_scoped_callers_see_their_tenant_only(plane: ControlPlane, api: httpx.AsyncClient, acme: str) -> None:
    await api.post("/api/v1/tenants", json={"slug": f"{acme}-other"})
    for slug in (acme, f"{acme}-other"):
        await api.post("/api/v1/llm-providers", json={"tenant": slug, "provider_type": "mock"})
        await new_token(api, role="viewer", tenant=slug)
    token = await new_token(api, role="tenant_admin", tenant=acme)

    async with client_of(plane, token) as client:
        tenants = (await client.get("/api/v1/tenants")).json()["items"]
        providers = (await client.get("/api/v1/llm-providers")).json()["items"]
        tokens = (await client.get(TOKENS)).json()["items"]

    assert [item["slug"] for item in tenants] == [acme]
    assert {item["tenant"] for item in providers} == {acme}
    assert {item["tenant"] for item in tokens} == {acme}
    assert len(tokens) == 2


async def test_a_token_is_shown_once_and_stored_as_a_hash(plane: ControlPlane, api: httpx.AsyncClient) -> None:
    added = await api.post(TOKENS, json={"name": "ci", "role": "viewer"})
    token = added.json()["token"]

    listed = await api.get(TOKENS)

    assert token not in listed.text
    assert set(listed.json()["items"][0]) == {
        "id",
        "name",
        "role",
        "tenant",
        "expires_at",
        "created_at",
        "last_used_at",
    }
    async with plane.database.transaction() as connection:
        stored = (await connection.execute(text("SELECT t::text FROM api_tokens t"))).scalars().all()
        audit = (await connection.execute(text("SELECT a::text FROM audit_log a"))).scalars().all()
    assert not any(token in row for row in (*stored, *audit))


async def test_a_revoked_or_expired_token_is_refused(plane: ControlPlane, api: httpx.AsyncClient) -> None:
    revoked = (await api.post(TOKENS, json={"name": "a", "role": "viewer"})).json()
    later = (utc_now() + timedelta(hours=1)).isoformat()
    expired = (await api.post(TOKENS, json={"name": "b", "role": "viewer", "expires_at": later})).json()
    for token in (revoked, expired):
        async with client_of(plane, token["token"]) as client:
            assert (await client.get("/api/v1/tenants")).status_code == 200

    assert (await api.delete(f"{TOKENS}/{revoked['id']}")).status_code == 204
    async with plane.database.transaction() as connection:
        await connection.execute(
            api_tokens.update()
            .where(api_tokens.c.id == uuid.UUID(expired["id"]))
            .values(expires_at=utc_now() - timedelta(seconds=1))
        )

    for token in (revoked, expired):
        async with client_of(plane, token["token"]) as client:
            assert (await client.get("/api/v1/tenants")).status_code == 401
    assert (await api.get(TOKENS)).json()["items"] == []
    assert (await api.delete(f"{TOKENS}/{revoked['id']}")).status_code == 404


async def test_last_use_of_a_token_is_remembered(plane: ControlPlane, api: httpx.AsyncClient) -> None:
    token = await new_token(api, role="viewer")

    async with client_of(plane, token) as client:
        await client.get("/api/v1/tenants")

    async with plane.database.transaction() as connection:
        assert await connection.scalar(select(api_tokens.c.last_used_at)) is not None


@pytest.mark.parametrize(
    "fields",
    [
        {"role": "admin", "tenant": "acme"},
        {"role": "tenant_admin"},
        {"role": "root"},
        {"name": "", "role": "viewer"},
        {"role": "viewer", "expires_at": "2020-01-01T00:00:00Z"},
        {"role": "viewer", "expires_at": "2999-01-01T00:00:00"},
    ],
)
async def test_refuses_tokens_that_make_no_sense(api: httpx.AsyncClient, fields: dict[str, Any]) -> None:
    assert (await api.post(TOKENS, json={"name": "x", **fields})).status_code == 422


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", f"Basic {ADMIN_TOKEN}", ADMIN_TOKEN, f"Bearer {ADMIN_TOKEN}x", "Bearer ä\0"]
)
async def test_refuses_whatever_is_no_known_bearer_token(plane: ControlPlane, header: str) -> None:
    async with client_of(plane, None) as client:
        answer = await client.get("/api/v1/tenants", headers={b"Authorization": header.encode()})

    assert answer.status_code == 401
    assert ADMIN_TOKEN not in answer.text
