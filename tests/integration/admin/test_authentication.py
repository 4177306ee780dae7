"""What stands between a socket and the routes: the rate of a token, guesses, proxies, headers, bodies."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI

from admin_api.access.failed_logins import FAILURES_PER_MINUTE
from admin_api.app import AdminApi, open_admin_api
from admin_api.audit.log import AuditEntry, AuditFilter, page
from admin_api.database import Database
from admin_api.http.pagination import Paging
from admin_api.settings import AdminSettings
from runtime.networks import parse_networks
from tests.integration.admin.conftest import ADMIN_TOKEN

TENANTS = "/api/v1/tenants"
AS_ADMIN = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
UNKNOWN = {"Authorization": "Bearer fleet_a-guess"}
RATE = 30


@pytest.fixture
def settings(settings: AdminSettings) -> AdminSettings:
    changes = {
        "llm_trusted_proxies": parse_networks("10.9.0.0/16"),
        "llm_admin_rate_limit_per_minute": RATE,
    }
    return settings.model_copy(update=changes)


@pytest_asyncio.fixture
async def admin(settings: AdminSettings) -> AsyncGenerator[AdminApi]:
    """Where no time passes for the limits, however slow the machine is."""
    async with open_admin_api(settings, clock=lambda: 0) as admin:
        yield admin


@asynccontextmanager
async def client_at(app: FastAPI, address: str = "198.51.100.7", **headers: str) -> AsyncGenerator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, client=(address, 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://admin", headers=headers) as client:
        yield client


async def entries(database: Database) -> list[AuditEntry]:
    """The newest first."""
    return (await page(database, AuditFilter(), paging=Paging())).items


async def counts(admin: AdminApi, database: Database) -> Any:
    """What the counter of refusals has written."""
    await admin.refusal_counter.record()
    newest = (await entries(database))[0]
    assert newest.action == "requests.refuse"
    return newest.refusal and newest.refusal["counts"]


async def new_token(client: httpx.AsyncClient, **fields: Any) -> tuple[str, dict[str, str]]:
    """The name of its bearer, and the headers that show it."""
    added = (await client.post("/api/v1/tokens", json={"name": "n", **fields}, headers=AS_ADMIN)).json()
    return f"token:{added['id']}", {"Authorization": f"Bearer {added['token']}"}


async def test_a_token_may_come_so_often_and_not_more(app: FastAPI, admin: AdminApi, database: Database) -> None:
    async with client_at(app) as client:
        viewer, as_viewer = await new_token(client, role="viewer")
        answers = [await client.get(TENANTS, headers=as_viewer) for _ in range(RATE + 1)]
        of_another = await client.get(TENANTS, headers=AS_ADMIN)

    assert [answer.status_code for answer in answers] == [*[200] * RATE, 429]
    assert answers[0].headers["ratelimit-policy"] == f'"token";q={RATE};w=60'
    assert answers[0].headers["ratelimit"] == f'"token";r={RATE - 1};t=2'
    assert answers[-1].headers["ratelimit"] == '"token";r=0;t=60'
    assert answers[-1].headers["retry-after"] == "2"
    assert of_another.status_code == 200
    assert await counts(admin, database) == {"429": {viewer: 1}}


async def test_who_guesses_is_slowed_down_and_locks_nobody_out(
    app: FastAPI, admin: AdminApi, database: Database
) -> None:
    async with client_at(app) as client, client_at(app, "198.51.100.8") as elsewhere:
        _, newcomer = await new_token(client, role="viewer")
        guesses = [await client.get(TENANTS, headers=UNKNOWN) for _ in range(FAILURES_PER_MINUTE + 2)]
        known = await client.get(TENANTS, headers=AS_ADMIN)
        unknown_there = await client.get(TENANTS, headers=newcomer)
        unknown_elsewhere = await elsewhere.get(TENANTS, headers=newcomer)
        unknown_no_more = await client.get(TENANTS, headers=newcomer)

    assert [guess.status_code for guess in guesses] == [*[401] * FAILURES_PER_MINUTE, 429, 429]
    assert guesses[-1].headers["retry-after"] == "6"
    assert "www-authenticate" not in guesses[-1].headers
    assert (known.status_code, unknown_there.status_code) == (200, 429)
    assert (unknown_elsewhere.status_code, unknown_no_more.status_code) == (200, 200)
    assert await counts(admin, database) == {"401": {"198.51.100.7": FAILURES_PER_MINUTE}, "429": {"198.51.100.7": 3}}


async def test_asking_without_a_token_is_no_guess(app: FastAPI) -> None:
    async with client_at(app) as client:
        answers = [await client.get(TENANTS) for _ in range(FAILURES_PER_MINUTE * 2)]

    assert {answer.status_code for answer in answers} == {401}


async def test_a_flood_of_unknown_callers_leaves_one_row(app: FastAPI, admin: AdminApi, database: Database) -> None:
    before = len(await entries(database))
    for number in range(100):
        async with client_at(app, f"198.51.100.{number}") as client:
            await client.put("/api/v1/tenants/x", headers=UNKNOWN, json={})

    found = await counts(admin, database)

    assert len(await entries(database)) == before + 1
    assert (len(found["401"]), found["401"]["others"], sum(found["401"].values())) == (21, 80, 100)
    await admin.refusal_counter.record()
    assert len(await entries(database)) == before + 1


FORWARDED = [
    ("198.51.100.7", "203.0.113.9", "198.51.100.7"),
    ("10.9.0.1", "203.0.113.9", "203.0.113.9"),
    ("10.9.0.1", "1.2.3.4, 203.0.113.9", "203.0.113.9"),
    ("10.9.0.1", "203.0.113.9, 10.9.0.2", "203.0.113.9"),
    ("10.9.0.1", "203.0.113.9:8080", "203.0.113.9"),
    ("10.9.0.1", "2001:DB8::1", "2001:db8::1"),
    ("10.9.0.1", "<script>", "unknown"),
    ("10.9.0.1", "", "10.9.0.1"),
]
"""The peer, its X-Forwarded-For, and where the caller is."""


async def test_only_proxies_that_are_trusted_tell_where_a_caller_is(app: FastAPI, database: Database) -> None:
    for number, (peer, forwarded, _) in enumerate(FORWARDED):
        async with client_at(app, peer) as client:
            headers = AS_ADMIN | {"X-Forwarded-For": forwarded}
            await client.post(TENANTS, json={"slug": f"t{number}"}, headers=headers)

    assert [entry.source for entry in reversed(await entries(database))] == [source for *_, source in FORWARDED]


async def test_says_that_it_wants_tls_behind_tls_only(app: FastAPI) -> None:
    behind_tls = {"X-Forwarded-Proto": "https"}
    async with client_at(app, "10.9.0.1") as proxy, client_at(app) as client:
        answers = [await each.get("/healthz", headers=h) for each in (proxy, client) for h in (behind_tls, {})]

    assert ["strict-transport-security" in answer.headers for answer in answers] == [True, False, False, False]


async def test_every_answer_has_the_headers_of_security(app: FastAPI) -> None:
    async with client_at(app) as client:
        for path in (TENANTS, "/healthz", "/metrics", "/openapi.json", "/nothing", "/api/v1/nothing"):
            for headers in (AS_ADMIN, {}):
                answer = await client.get(path, headers=headers)

                assert answer.headers["cache-control"] == "no-store"
                assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert answer.headers["x-frame-options"] == "DENY"
                assert answer.headers["referrer-policy"] == "no-referrer"


BODIES = {
    "deeply nested list": b"[" * 5000 + b"]" * 5000,
    "deeply nested objects": b'{"a":' * 300 + b"1" + b"}" * 300,
    "unfinished": b'{"slug": "x"',
    "NaN": b'{"daily_budget_usd": NaN}',
    "Infinity": b'{"daily_budget_usd": -Infinity}',
    "NUL": b'{"slug": "a\\u0000b"}',
    "NUL in a name": b'{"a\\u0000b": 1}',
    "lone surrogate": b'{"slug": "\\ud800"}',
    "no UTF-8": b'{"slug": "\xff"}',
    "trailing": b'{"slug": "x"} {}',
    "a long number": b'{"slug": ' + b"9" * 100_000 + b"}",
}


async def test_refuses_what_is_no_sound_json(app: FastAPI) -> None:
    as_json = {"Content-Type": "application/json"}
    async with client_at(app, **AS_ADMIN) as client:
        answers = {name: await client.post(TENANTS, content=body, headers=as_json) for name, body in BODIES.items()}

    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(BODIES, 422)
    assert {answer.headers["content-type"] for answer in answers.values()} == {"application/problem+json"}


async def test_a_body_may_have_what_only_looks_like_nul(app: FastAPI) -> None:
    async with client_at(app, **AS_ADMIN) as client:
        answer = await client.post("/api/v1/tokens", json={"name": "\\u0000", "role": "viewer"})

    assert answer.status_code == 201


async def test_an_unknown_caller_has_no_body_read(app: FastAPI) -> None:
    async with client_at(app) as client:
        answer = await client.post(TENANTS, content=b"{" * 1000, headers={"Content-Type": "application/json"})

    assert answer.status_code == 401


async def test_what_a_known_caller_is_refused_is_on_record(app: FastAPI, database: Database) -> None:
    async with client_at(app) as client:
        for slug in ("acme", "globex"):
            await client.post(TENANTS, json={"slug": slug}, headers=AS_ADMIN)
        admin_of_acme, as_admin_of_acme = await new_token(client, role="tenant_admin", tenant="acme")
        before = len(await entries(database))
        await client.put(f"{TENANTS}/globex", json={}, headers=as_admin_of_acme)
        await client.put(f"{TENANTS}/acme", json={"daily_budget_usd": "a-secret"}, headers=as_admin_of_acme)
        await client.post(TENANTS, json={"slug": "acme"}, headers=AS_ADMIN)
        await client.delete("/api/v1/dead-letters/77", headers=AS_ADMIN)
        await client.get(f"{TENANTS}/globex", headers=as_admin_of_acme)
        await client.put("/api/v1/nothing", headers=AS_ADMIN)

    refused = (await entries(database))[:-before]

    assert [
        (entry.action, entry.object_type, entry.object_id, entry.tenant, entry.actor, entry.refusal["status"])
        for entry in reversed(refused)
        if entry.refusal is not None
    ] == [
        ("tenant.change", "tenant", "globex", "acme", admin_of_acme, 403),
        ("tenant.change", "tenant", "acme", "acme", admin_of_acme, 422),
        ("tenant.add", "tenant", "", None, "bootstrap", 409),
        ("dead_letter.delete", "dead_letter", "77", None, "bootstrap", 404),
    ]
    assert len(refused) == 4
    assert {(entry.source, entry.before, entry.after) for entry in refused} == {("198.51.100.7", None, None)}
    assert "a-secret" not in "".join(entry.model_dump_json() for entry in refused)
