"""The pool of Azure with an application of Entra ID whose tokens are revoked before their time."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

import pytest

from contracts.events import Completed, Delta, Event, Failed, Retrying, Started
from fleet.client import Client
from fleet.simulator import Script, Simulator
from tests.kit import Bill, plane, worker, worker_settings
from tests.patience import until
from tests.servers import Vault

MODEL = "azure/gpt-4o"
AT_ONCE = 15
"""More than the failures in a row that open a circuit."""


class Shop:
    def __init__(self, client: Client, bill: Bill, vendor: Simulator) -> None:
        self.client, self.bill, self.vendor = client, bill, vendor

    async def events(self) -> list[Event]:
        return [event async for event in self.client.stream(MODEL, "Hello", deadline_s=120)]


@pytest.fixture
async def shop(nats_url: str, vault: Vault, tenant: str) -> AsyncGenerator[Shop]:
    """A tenant with an application at a simulated Azure, and one worker."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(worker(worker_settings(nats_url, vault, "azure"), "azure"))
        vendor = await stack.enter_async_context(Simulator())
        control = await stack.enter_async_context(plane(nats_url, vault, tenant))
        application = {"tenant_id": "contoso.example", "client_id": "0a1b", "client_secret": "s-of-the-test"}
        config = {"endpoints": [{"name": "west", "base_url": vendor.url, "auth": "entra_id"}]}
        await control.put_tenant()
        await control.put_provider("azure", config, key=json.dumps({**application, "authority": vendor.url}))
        bill = await stack.enter_async_context(Bill.watch(control.client, tenant))
        client = await stack.enter_async_context(Client(nats_url, tenant=tenant, agent="tester"))
        yield Shop(client, bill, vendor)


async def test_a_revoked_token_costs_one_attempt_which_is_booked(shop: Shop) -> None:
    await shop.events()
    shop.vendor.entra.revoke_all()

    events = await shop.events()

    assert [type(e) for e in events if not isinstance(e, Delta)] == [Started, Retrying, Started, Completed]
    retrying = events[1]
    assert isinstance(retrying, Retrying)
    assert (retrying.error.code, retrying.delay_s) == ("authentication_failed", 0)
    await until(lambda: len(shop.bill.of(events[0].request_id)) == 2)
    refused, completed = shop.bill.of(events[0].request_id)
    assert (refused.outcome, refused.error_code, refused.usage.input_tokens) == ("failed", "authentication_failed", 0)
    assert completed.outcome == "completed"
    assert len(shop.vendor.entra.forms) == 2


async def test_requests_whose_token_was_revoked_do_not_open_the_circuit(shop: Shop) -> None:
    await shop.events()
    shop.vendor.script("gpt-4o", Script(text="Hello.", headers_s=0.1))
    shop.vendor.entra.revoke_all()

    ends = [events[-1] for events in await asyncio.gather(*(shop.events() for _ in range(AT_ONCE)))]

    assert all(isinstance(end, Completed) for end in ends)
    assert all(end.attempt <= 2 for end in ends)
    assert len(shop.vendor.entra.forms) == 2


async def test_an_application_that_is_refused_is_not_called_again(shop: Shop) -> None:
    shop.vendor.entra.expires_in_s = -1

    events = await shop.events()

    assert [type(e) for e in events] == [Started, Failed]
    failed = events[-1]
    assert isinstance(failed, Failed)
    assert failed.error.code == "authentication_failed"
