"""What a worker makes of the bucket `llm_config`, also when a later version of the admin API writes it."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from nats.js.kv import KeyValue

from contracts import subjects
from contracts.providers import PublishedTenant
from runtime import broker
from runtime.settings import BrokerSettings
from runtime.tasks import end
from tests.contract.test_golden import compact
from tests.patience import PATIENCE_S
from workers.endpoints.configuration import Configuration


def of_tomorrow(golden: str, *path: str) -> bytes:
    """A stored value with fields that this version does not know, at the top and at `path`."""
    value: dict[str, Any] = json.loads(compact(golden))
    inner = value
    for step in path:
        inner = inner[step]
    inner["added_in_2031"] = True
    value["also_added"] = True
    return json.dumps(value).encode()


@asynccontextmanager
async def watched(nats_url: str) -> AsyncGenerator[tuple[KeyValue, Configuration]]:
    settings = BrokerSettings(nats_url=nats_url)
    async with broker.connect(settings, name="test", inbox_prefix="_INBOX_test") as connection:
        await broker.ensure_streams(connection, settings)
        bucket = await connection.client.jetstream().key_value(subjects.CONFIG_BUCKET)
        config = Configuration(connection)
        watching = asyncio.create_task(config.bucket.run())
        try:
            yield bucket, config
        finally:
            await end(watching)


async def test_a_worker_reads_what_a_later_admin_api_writes(nats_url: str) -> None:
    async with watched(nats_url) as (bucket, config):
        await bucket.put(subjects.config_key_of_tenant("acme"), of_tomorrow("kv-tenant", "limits"))
        await bucket.put(subjects.config_key_of_provider("acme", "azure"), of_tomorrow("kv-provider", "config"))
        await config.bucket.wait_until_loaded()
        tenant, provider = await config.tenant("acme"), await config.provider("acme", "azure")
    assert tenant is not None
    assert tenant.limits.requests_per_minute == 60
    assert provider is not None
    assert provider.config.default_model == "gpt-4o"


@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        b"\xff\xfe\x00",
        b"null",
        b"[]",
        b'{"slug": "acme"',
        b'{"slug": "other", "revision": 9}',
        b'{"slug": "acme", "revision": -1}',
        b'{"slug": "acme", "revision": 1e999999}',
        b'{"slug": "acme", "revision": ' + b"9" * 5000 + b"}",
        b'{"slug": "\\ud800", "revision": 9}',
        b'{"slug":' * 5000 + b"1" + b"}" * 5000,
        b"[" * 500_000,
        json.dumps({"slug": "acme", "revision": 9, "limits": {"requests_per_minute": "many"}}).encode(),
    ],
    ids=range(13),
)
async def test_what_is_no_configuration_changes_nothing(nats_url: str, hostile: bytes) -> None:
    key = subjects.config_key_of_tenant("acme")
    async with watched(nats_url) as (bucket, config):
        await bucket.put(key, PublishedTenant(slug="acme", revision=7).to_json())
        await config.bucket.wait_until_loaded()
        await bucket.put(key, hostile)
        await bucket.put("nonsense.of.some.kind", hostile)
        await bucket.put(subjects.config_key_of_provider("acme", "mock"), hostile)
        await bucket.put(subjects.config_key_of_tenant("last"), PublishedTenant(slug="last", revision=1).to_json())
        async with asyncio.timeout(PATIENCE_S):
            while await config.tenant("last") is None:
                await asyncio.sleep(0.01)

        tenant, other = await config.tenant("acme"), await config.tenant("other")
        assert tenant is not None
        assert tenant.revision == 7
        assert other is None
        assert await config.provider("acme", "mock") is None
