"""Tokens of our own: what scoped callers see, how tokens end, and what is none."""

import uuid
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import select, text

from admin_api.database import Database
from contracts.wire import utc_now
from migrations.schema import api_tokens
from tests.integration.admin.conftest import ADMIN_TOKEN, client_of

TOKENS = "/api/v1/tokens"


async def new_token(api: httpx.AsyncClient, **fields: Any) -> str:
    answer = await api.post(TOKENS, json={"name": "of a test", **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()["token"]


async def test_scoped_callers_see_their_tenant_only(app: FastAPI, api: httpx.AsyncClient, acme: str) -> None:
    await api.post("/api/v1/tenants", json={"slug": f"{acme}-other"})
    for slug in (acme, f"{acme}-other"):
        await api.post("/api/v1/llm-providers", json={"tenant": slug, "provider_type": "mock"})
        await new_token(api, role="viewer", tenant=slug)
    token = await new_token(api, role="tenant_admin", tenant=acme)

    async with client_of(app, token) as client:
        tenants = (await client.get("/api/v1/tenants")).json()["items"]
        providers = (await client.get("/api/v1/llm-providers")).json()["items"]
        tokens = (await client.get(TOKENS)).json()["items"]

    assert [item["slug"] for item in tenants] == [acme]
    assert {item["tenant"] for item in providers} == {acme}
    assert {item["tenant"] for item in tokens} == {acme}
    assert len(tokens) == 2


async def test_a_token_is_shown_once_and_stored_as_a_hash(database: Database, api: httpx.AsyncClient) -> None:
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
    async with database.transaction() as connection:
        stored = (await connection.execute(text("SELECT t::text FROM api_tokens t"))).scalars().all()
        audit = (await connection.execute(text("SELECT a::text FROM audit_log a"))).scalars().all()
    assert not any(token in row for row in (*stored, *audit))


async def test_a_revoked_or_expired_token_is_refused(app: FastAPI, database: Database, api: httpx.AsyncClient) -> None:
    revoked = (await api.post(TOKENS, json={"name": "a", "role": "viewer"})).json()
    later = (utc_now() + timedelta(hours=1)).isoformat()
    expired = (await api.post(TOKENS, json={"name": "b", "role": "viewer", "expires_at": later})).json()
    for token in (revoked, expired):
        async with client_of(app, token["token"]) as client:
            assert (await client.get("/api/v1/tenants")).status_code == 200

    assert (await api.delete(f"{TOKENS}/{revoked['id']}")).status_code == 204
    async with database.transaction() as connection:
        await connection.execute(
            api_tokens.update()
            .where(api_tokens.c.id == uuid.UUID(expired["id"]))
            .values(expires_at=utc_now() - timedelta(seconds=1))
        )

    for token in (revoked, expired):
        async with client_of(app, token["token"]) as client:
            assert (await client.get("/api/v1/tenants")).status_code == 401
    assert (await api.get(TOKENS)).json()["items"] == []
    assert (await api.delete(f"{TOKENS}/{revoked['id']}")).status_code == 404


async def test_last_use_of_a_token_is_remembered(app: FastAPI, database: Database, api: httpx.AsyncClient) -> None:
    token = await new_token(api, role="viewer")

    async with client_of(app, token) as client:
        await client.get("/api/v1/tenants")

    async with database.transaction() as connection:
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
async def test_refuses_whatever_is_no_known_bearer_token(app: FastAPI, header: str) -> None:
    async with client_of(app, None) as client:
        answer = await client.get("/api/v1/tenants", headers={b"Authorization": header.encode()})

    assert answer.status_code == 401
    assert ADMIN_TOKEN not in answer.text
