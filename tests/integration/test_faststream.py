"""A service that hears notices with FastStream, as docs/operations.md shows it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from faststream.nats import NatsBroker
from faststream.specification import AsyncAPI

from contracts import streams
from contracts.control import MSG_ID
from contracts.notices import CONTENT_TYPE, AlertNotice, ConfigChange, ConfigNotice, Notice, subject_of
from contracts.wire import utc_now
from runtime import broker
from runtime.settings import BrokerSettings
from tests.documents import OPERATIONS, fenced, section
from tests.patience import PATIENCE_S


def a_notice(tenant: str) -> ConfigNotice:
    change = ConfigChange(
        tenant=tenant, object_type="tenant", object_id=tenant, action="tenant.update", actor="bootstrap"
    )
    return ConfigNotice(id=uuid4(), source="/fleet/admin", subject=tenant, time=utc_now(), tenant=tenant, data=change)


@asynccontextmanager
async def service(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[tuple[NatsBroker, list[tuple[str, ...]]]]:
    """The example, running; and what it prints."""
    monkeypatch.setenv("NATS_URL", nats_url)
    (example,) = fenced(section(OPERATIONS, "Alerts"), "python")
    said: list[tuple[str, ...]] = []

    def say(*words: str) -> None:
        said.append(words)

    names: dict[str, Any] = {"__name__": "example", "print": say}
    exec(compile(example, str(OPERATIONS), "exec", dont_inherit=True), names)
    async with names["broker"] as running:
        await running.start()
        yield running, said


async def test_the_example_hears_the_notices_of_its_tenant_once(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = BrokerSettings(nats_url=nats_url)
    async with broker.connect(settings, name="test", inbox_prefix="_INBOX") as connection:
        await broker.ensure_streams(connection, settings)
        jetstream = connection.client.jetstream()

        async def publish(notice: Notice) -> None:
            headers = {MSG_ID: str(notice.id), "Content-Type": CONTENT_TYPE}
            await jetstream.publish(subject_of(notice.kind, notice.tenant), notice.to_json(), headers=headers)

        await publish(a_notice("acme"))
        async with service(nats_url, monkeypatch) as (_, said), asyncio.timeout(PATIENCE_S):
            await publish(a_notice("globex"))
            await publish(a_notice("acme"))
            while len(said) < 2 or (await jetstream.consumer_info(streams.NOTICES, "acme-on-call")).num_ack_pending:
                await asyncio.sleep(0.02)

    assert said == [("config", "acme")] * 2


async def test_what_faststream_says_of_the_example_has_the_contracts_models(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = BrokerSettings(nats_url=nats_url)
    async with broker.connect(settings, name="test", inbox_prefix="_INBOX") as connection:
        await broker.ensure_streams(connection, settings)
        async with service(nats_url, monkeypatch) as (running, _):
            document = AsyncAPI(running).to_specification().to_jsonable()

    schemas = document["components"]["schemas"]
    for model in (AlertNotice, ConfigNotice):
        assert schemas[model.__name__]["required"] == model.model_json_schema()["required"]
