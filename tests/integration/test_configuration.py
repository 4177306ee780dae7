"""What a worker makes of the bucket `llm_config`, also when a later version of the admin API writes it."""

import asyncio
import json
from typing import Any

from contracts import subjects
from runtime import broker
from runtime.settings import BrokerSettings
from tests.contract.test_golden import compact
from workers.config import Configuration


def of_tomorrow(golden: str, *path: str) -> bytes:
    """A stored value with fields that this version does not know, at the top and at `path`."""
    value: dict[str, Any] = json.loads(compact(golden))
    inner = value
    for step in path:
        inner = inner[step]
    inner["added_in_2031"] = True
    value["also_added"] = True
    return json.dumps(value).encode()


async def test_a_worker_reads_what_a_later_admin_api_writes(nats_url: str) -> None:
    settings = BrokerSettings(nats_url=nats_url)
    async with broker.connect(settings, name="test", inbox_prefix="_INBOX_test") as connection:
        await broker.ensure_streams(connection, settings)
        bucket = await connection.client.jetstream().key_value(subjects.CONFIG_BUCKET)
        await bucket.put(subjects.config_key_of_tenant("acme"), of_tomorrow("kv-tenant", "limits"))
        await bucket.put(subjects.config_key_of_provider("acme", "azure"), of_tomorrow("kv-provider", "config"))
        config = Configuration(connection)
        watching = asyncio.create_task(config.bucket.run())
        try:
            await config.bucket.wait_until_loaded()
            tenant, provider = await config.tenant("acme"), await config.provider("acme", "azure")
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    assert tenant is not None
    assert tenant.limits.requests_per_minute == 60
    assert provider is not None
    assert provider.config.default_model == "gpt-4o"
