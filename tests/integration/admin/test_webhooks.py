"""The webhooks endpoints, and that changes are told without secrets."""

import base64
import os
import uuid
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from pydantic import SecretStr
from sqlalchemy import text

from admin_api.app import open_admin_api
from admin_api.database import Database
from admin_api.settings import AdminSettings
from runtime.networks import parse_networks
from tests.integration.admin.conftest import NatsWithUsers, client_of, until
from tests.receivers import WebhookReceiver, webhook_receiver

WEBHOOKS = "/api/v1/webhooks"
VENDOR_KEY = "sk-canary-of-a-vendor"


@pytest.fixture
def settings(settings: AdminSettings) -> AdminSettings:
    return settings.model_copy(update={"llm_allowed_private_networks": parse_networks("127.0.0.0/8")})


@pytest_asyncio.fixture
async def receiver() -> AsyncGenerator[WebhookReceiver]:
    async with webhook_receiver() as receiver:
        yield receiver


async def add(api: httpx.AsyncClient, url: str, **fields: Any) -> dict[str, Any]:
    answer = await api.post(WEBHOOKS, json={"url": url, **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def stored(database: Database, table: str) -> str:
    async with database.transaction() as connection:
        return "\n".join((await connection.execute(text(f"SELECT t::text FROM {table} t"))).scalars())


async def test_a_secret_is_shown_once_and_stored_sealed(database: Database, api: httpx.AsyncClient, acme: str) -> None:
    url = "https://hooks.example/path-of-the-receiver?sig=of-the-receiver"
    added = await add(api, url, tenant=acme, kinds=["key_refused", "daily_cost"])

    secret = added.pop("secret")
    assert secret.startswith("whsec_")
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
    assert added == {
        "id": added["id"],
        "tenant": acme,
        "url": url,
        "kinds": ["daily_cost", "key_refused"],
        "created_at": added["created_at"],
        "last_success_at": None,
        "last_failure_at": None,
        "last_error": None,
    }
    assert (await api.get(WEBHOOKS)).json() == {"items": [added], "next": None}
    for table in ("webhooks", "audit_log", "notices"):
        assert secret not in await stored(database, table)
    for table in ("audit_log", "notices"):
        told = await stored(database, table)
        assert "webhook.add" in told
        assert "of-the-receiver" not in told


async def test_changes_of_the_configuration_are_told_by_name_only(
    api: httpx.AsyncClient, acme: str, receiver: WebhookReceiver, nats_users: NatsWithUsers
) -> None:
    hook = await add(api, receiver.url, tenant=acme)
    provider = {"tenant": acme, "provider_type": "openai", "api_key": VENDOR_KEY}
    added = (await api.post("/api/v1/llm-providers", json=provider)).json()
    await api.put(f"/api/v1/llm-providers/{added['id']}", json={"api_key": f"{VENDOR_KEY}-2"})
    await api.put(f"/api/v1/tenants/{acme}", json={"daily_budget_usd": "7"})
    token = (await api.post("/api/v1/tokens", json={"name": "n", "role": "viewer", "tenant": acme})).json()
    refused = await api.put(f"/api/v1/tenants/{acme}", json={"daily_budget_usd": "-1"})
    assert refused.status_code == 422

    async def told() -> bool:
        return len(receiver.received) == 5

    await until(told)
    events = [received.event for received in receiver.received]
    assert [event["data"]["action"] for event in events] == [
        "webhook.add",
        "provider.add",
        "provider.rotate",
        "tenant.change",
        "token.add",
    ]
    assert {"key_fingerprint", "key_version"} <= set(events[2]["data"]["changed"])
    assert events[3]["data"]["changed"] == ["daily_budget_usd"]
    assert {event["data"]["actor"] for event in events} == {"bootstrap"}
    assert all(received.is_signed_with(hook["secret"]) for received in receiver.received)
    everything = b"".join(received.body for received in receiver.received).decode()
    for secret in (VENDOR_KEY, token["token"], hook["secret"], "of-the-receiver"):
        assert secret not in everything
    subject = f"llm.v1.notice.config.{acme}"
    async with nats_users.connect_as("operator") as client:

        async def published() -> bool:
            info = await client.jetstream().stream_info("LLM_NOTICES", subjects_filter=subject)
            return info.state.subjects == {subject: 6}  # with the tenant's own beginning

        await until(published)


async def test_a_webhook_is_tried_out_and_the_answer_is_told(api: httpx.AsyncClient) -> None:
    async with webhook_receiver(204, 500, 302) as receiver:
        added = await add(api, receiver.url, kinds=["key_refused"])
        answers = [(await api.post(f"{WEBHOOKS}/{added['id']}/test")).json() for _ in range(3)]
    gone = (await api.post(f"{WEBHOOKS}/{added['id']}/test")).json()

    assert answers == [
        {"delivered": True, "status": 204, "error": None},
        {"delivered": False, "status": 500, "error": "answered 500"},
        {"delivered": False, "status": 302, "error": "answered 302; redirects are not followed"},
    ]
    assert (gone["delivered"], gone["status"]) == (False, None)
    assert receiver.url not in str(gone)
    (first, *_) = receiver.received
    assert first.is_signed_with(added["secret"])
    assert first.event["type"] == "llm.v1.webhook.test"


async def test_a_removed_webhook_gets_nothing(database: Database, api: httpx.AsyncClient, acme: str) -> None:
    async with webhook_receiver(500) as receiver:
        added = await add(api, receiver.url, tenant=acme)

        async def tried() -> bool:
            return bool(receiver.received)

        await until(tried)
        assert (await api.delete(f"{WEBHOOKS}/{added['id']}")).status_code == 204

    assert (await api.get(WEBHOOKS)).json()["items"] == []
    assert (await api.delete(f"{WEBHOOKS}/{added['id']}")).status_code == 404
    assert (await api.post(f"{WEBHOOKS}/{added['id']}/test")).status_code == 404
    assert added["id"] not in await stored(database, "notice_deliveries")


async def test_a_newer_sealing_key_seals_every_secret_when_it_starts(
    settings: AdminSettings, sealing_key: str, receiver: WebhookReceiver
) -> None:
    newer = base64.b64encode(os.urandom(32)).decode()
    keys = [
        {"llm_encryption_key": SecretStr(sealing_key)},
        {"llm_encryption_key": SecretStr(newer), "llm_encryption_key_previous": (SecretStr(sealing_key),)},
        {"llm_encryption_key": SecretStr(newer)},
    ]
    secret, hook_id = "", ""
    for change in keys:
        async with open_admin_api(settings.model_copy(update=change)) as admin, client_of(admin.app) as api:
            if not hook_id:
                added = await add(api, receiver.url, kinds=["test"])
                secret, hook_id = added["secret"], added["id"]
            assert (await api.post(f"{WEBHOOKS}/{hook_id}/test")).json()["delivered"]

    assert len(receiver.received) == 3
    assert all(received.is_signed_with(secret) for received in receiver.received)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "url"),
        ({"url": "hooks.example"}, "url"),
        ({"url": "ftp://hooks.example/"}, "url"),
        ({"url": "https://user:password@hooks.example/"}, "url"),
        ({"url": "https://hooks.example/#x"}, "url"),
        ({"url": "https://hooks.example:0/"}, "url"),
        ({"url": "http://169.254.169.254/latest"}, "url"),
        ({"url": "http://10.0.0.1/"}, "url"),
        ({"url": "https://hooks.example/", "kinds": ["everything"]}, "kinds.0"),
        ({"url": "https://hooks.example/", "secret": "mine"}, "secret"),
    ],
)
async def test_refuses_what_makes_no_sense(api: httpx.AsyncClient, fields: dict[str, Any], field: str) -> None:
    answer = await api.post(WEBHOOKS, json=fields)

    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert "password" not in answer.text.replace("must have no user, password", "")


async def test_refuses_a_tenant_that_is_not_there(api: httpx.AsyncClient) -> None:
    answer = await api.post(WEBHOOKS, json={"tenant": f"t-{uuid.uuid4().hex[:8]}", "url": "https://hooks.example/"})

    assert answer.status_code == 404
