"""The bucket becomes like the database again, whatever was missed."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from nats.js.kv import KeyValue
from sqlalchemy import update

from admin_api.app import open_admin_api
from admin_api.database import Database
from admin_api.dependencies import part_of
from admin_api.publishing import worker_config
from admin_api.publishing.config_publisher import ConfigPublisher
from admin_api.settings import AdminSettings
from contracts.providers import PublishedTenant
from migrations.schema import llm_providers, tenants
from runtime.broker import Broker
from tests.integration.admin.conftest import NatsWithUsers, ReadConfig, client_of, until


@pytest.fixture
def publisher(app: FastAPI) -> ConfigPublisher:
    return part_of(app, ConfigPublisher)


async def eventually(read: ReadConfig, key: str, expected: Any) -> None:
    """Waits until the entry has these fields; None: until it is gone."""

    async def is_there() -> bool:
        entry = await read(key)
        return entry is None if expected is None else entry is not None and entry | expected == entry

    await until(is_there)


async def bucket_of(broker: Broker) -> KeyValue:
    return await broker.client.jetstream().key_value("llm_config")


async def commit_without_publishing(database: Database, slug: str) -> None:
    """What a crash between commit and publishing leaves."""
    async with database.transaction() as connection:
        await connection.execute(
            update(tenants).where(tenants.c.slug == slug).values(requests_per_day=77, revision=tenants.c.revision + 1)
        )


async def test_a_crash_between_commit_and_publishing_heals_at_the_next_start(
    settings: AdminSettings, config_entry: ReadConfig, tenant: str
) -> None:
    async with open_admin_api(settings) as admin, client_of(admin.app) as api:
        await api.post("/api/v1/tenants", json={"slug": tenant})
        await api.post("/api/v1/llm-providers", json={"tenant": tenant, "provider_type": "mock"})
        database = part_of(admin.app, Database)
        await part_of(admin.app, ConfigPublisher).reconcile()
        await commit_without_publishing(database, tenant)
        async with database.transaction() as connection:
            await connection.execute(
                update(llm_providers).values(is_active=False, revision=llm_providers.c.revision + 1)
            )

    async with open_admin_api(settings):
        await eventually(config_entry, f"tenant.{tenant}", {"revision": 2})
        await eventually(config_entry, f"provider.{tenant}.mock", {"revision": 2, "is_active": False})


async def test_reconciles_from_time_to_time(
    database: Database, broker: Broker, api: httpx.AsyncClient, acme: str, config_entry: ReadConfig
) -> None:
    often = asyncio.create_task(ConfigPublisher(database, broker, every_s=0.05).keep_reconciled())
    await commit_without_publishing(database, acme)

    await eventually(config_entry, f"tenant.{acme}", {"revision": 2})

    while not often.done():
        often.cancel()
        await asyncio.wait([often], timeout=0.1)


async def test_deletes_what_the_database_does_not_have(
    broker: Broker, publisher: ConfigPublisher, api: httpx.AsyncClient, acme: str, config_entry: ReadConfig
) -> None:
    bucket = await bucket_of(broker)
    await bucket.put("tenant.ghost", PublishedTenant(slug="ghost", revision=9).to_json())
    await bucket.put("provider.ghost.openai", b"garbage")

    await publisher.reconcile()

    assert await config_entry("tenant.ghost") is None
    assert await config_entry("provider.ghost.openai") is None
    assert await config_entry(f"tenant.{acme}") is not None
    assert await publisher.reconcile() == 0

    assert (await api.post("/api/v1/tenants", json={"slug": "ghost"})).status_code == 201
    assert await config_entry("tenant.ghost") is not None


async def test_repairs_what_was_altered(
    broker: Broker, publisher: ConfigPublisher, acme: str, config_entry: ReadConfig
) -> None:
    before = await config_entry(f"tenant.{acme}")
    bucket = await bucket_of(broker)
    await bucket.put(f"tenant.{acme}", json.dumps({"slug": acme, "revision": 1, "fallbacks": ["evil/model"]}).encode())

    assert await publisher.reconcile() == 1

    assert await config_entry(f"tenant.{acme}") == before


async def test_an_older_revision_never_overwrites_a_newer_one(
    publisher: ConfigPublisher, acme: str, api: httpx.AsyncClient, config_entry: ReadConfig
) -> None:
    await api.put(f"/api/v1/tenants/{acme}", json={"fallbacks": ["openai/new"]})

    await publisher.publish(PublishedTenant(slug=acme, revision=1, fallbacks=("openai/old",)))

    entry = await config_entry(f"tenant.{acme}")
    assert entry is not None
    assert (entry["revision"], entry["fallbacks"]) == (2, ["openai/new"])


async def test_a_database_that_was_set_back_is_published_again(
    broker: Broker, publisher: ConfigPublisher, acme: str, config_entry: ReadConfig
) -> None:
    bucket = await bucket_of(broker)
    lost = PublishedTenant(slug=acme, revision=40, fallbacks=("openai/lost",))
    await bucket.put(worker_config.key(lost), lost.to_json())

    await publisher.reconcile()

    entry = await config_entry(f"tenant.{acme}")
    assert entry is not None
    assert (entry["revision"], entry["fallbacks"]) == (41, [])


async def test_a_row_that_cannot_be_read_stops_nothing_else(
    database: Database, publisher: ConfigPublisher, api: httpx.AsyncClient, acme: str, config_entry: ReadConfig
) -> None:
    await api.post("/api/v1/llm-providers", json={"tenant": acme, "provider_type": "mock"})
    async with database.transaction() as connection:
        await connection.execute(update(llm_providers).values(config={"from": "the future"}, revision=5))
    await commit_without_publishing(database, acme)

    await publisher.reconcile()

    assert (await config_entry(f"provider.{acme}.mock") or {})["revision"] == 1
    assert (await config_entry(f"tenant.{acme}") or {})["revision"] == 2


async def test_what_changed_while_nats_was_away_is_published_when_it_is_back(
    nats_users: NatsWithUsers, broker: Broker, api: httpx.AsyncClient, acme: str
) -> None:
    async def disconnected() -> bool:
        return not broker.connected

    await nats_users.server.stop()
    await until(disconnected)

    changed = await api.put(f"/api/v1/tenants/{acme}", json={"fallbacks": ["openai/later"]})
    assert changed.status_code == 200
    ready = await api.get("/readyz")
    assert (ready.status_code, ready.json()["checks"]) == (
        503,
        {"database": True, "nats": False, "storage": True, "vault": True},
    )
    assert (await api.get("/api/v1/fleet")).status_code == 503
    await nats_users.server.start()

    async with nats_users.connect_as("worker-openai") as client:

        async def read(key: str) -> dict[str, Any] | None:
            bucket = await client.jetstream().key_value("llm_config")
            return json.loads((await bucket.get(key)).value or b"null")

        await eventually(read, f"tenant.{acme}", {"revision": 2, "fallbacks": ["openai/later"]})
    assert (await api.get("/readyz")).status_code == 200

    async def memory_streams_are_back() -> bool:
        return (await api.get("/api/v1/fleet")).status_code == 200

    await until(memory_streams_are_back)
