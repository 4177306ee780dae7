"""What a vendor said before a call came to its end reaches the bill, through a real worker and over HTTP."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from decimal import Decimal

import pytest

from contracts.events import Cancelled, Completed, Delta
from contracts.usage import Outcome, UsageRecord, UsageSource
from fleet.client import Client
from fleet.simulator import Script, ScriptedUsage, Simulator
from tests.kit import Bill, plane, worker, worker_settings
from tests.patience import until
from tests.servers import Vault

MODEL = "claude-haiku-4-5"
USAGE = ScriptedUsage(input_tokens=1000, output_tokens=500, cache_read_tokens=600)


@dataclass
class Desk:
    client: Client
    bill: Bill
    vendor: Simulator

    async def booked(self, request_id: str, attempts: int) -> list[UsageRecord]:
        await until(lambda: len(self.bill.of(request_id)) == attempts)
        return self.bill.of(request_id)


@pytest.fixture
async def desk(nats_url: str, vault: Vault, tenant: str) -> AsyncGenerator[Desk]:
    async with AsyncExitStack() as stack:
        vendor = await stack.enter_async_context(Simulator())
        await stack.enter_async_context(worker(worker_settings(nats_url, vault, "anthropic"), "anthropic"))
        control = await stack.enter_async_context(plane(nats_url, vault, tenant))
        await control.put_tenant()
        await control.put_provider("anthropic", {"base_url": vendor.base_url("anthropic")}, key="sk-of-the-test")
        bill = await stack.enter_async_context(Bill.watch(control.client, tenant))
        client = await stack.enter_async_context(Client(nats_url, tenant=tenant, agent="tester"))
        yield Desk(client, bill, vendor)


async def test_a_stream_that_broke_is_booked_with_the_vendors_input_and_tier(desk: Desk) -> None:
    broken = Script(text="x" * 400, chunks=4, usage=USAGE, service_tier="batch", cut_after_chunks=4)
    desk.vendor.script(MODEL, broken, Script(text="Now.", usage=USAGE))

    events = [event async for event in desk.client.stream(f"anthropic/{MODEL}", "Hello", deadline_s=120)]

    failed, completed = await desk.booked(events[0].request_id, 2)
    assert (failed.outcome, failed.usage.source, failed.service_tier) == (
        Outcome.FAILED,
        UsageSource.ESTIMATED,
        "batch",
    )
    assert (failed.usage.input_tokens, failed.usage.output_tokens, failed.usage.cache_read_tokens) == (1000, 100, 600)
    # claude-haiku-4-5, batch: 0.50 in, 0.05 read, 2.50 out; and 1, 0.10 and 5 at the standard tier
    assert failed.cost == (400 * Decimal("0.5") + 600 * Decimal("0.05") + 100 * Decimal("2.5")) / 1_000_000
    assert (completed.usage.source, completed.service_tier) == (UsageSource.VENDOR, None)
    assert completed.cost == (400 * Decimal(1) + 600 * Decimal("0.1") + 500 * Decimal(5)) / 1_000_000
    assert completed.price is not None
    assert completed.price.input_mtok == 1
    ended = events[-1]
    assert isinstance(ended, Completed)
    assert ended.cost is not None
    assert ended.cost.amount == completed.cost


async def test_what_was_cancelled_is_booked_as_far_as_it_was_streamed(desk: Desk) -> None:
    desk.vendor.script(MODEL, Script(text="x" * 100_000, chunks=1000, between_s=0.02, usage=USAGE))
    said, ended, cancelled = 0, None, False

    async for event in desk.client.stream(f"anthropic/{MODEL}", "Hello", deadline_s=120):
        if isinstance(event, Delta):
            said += len(event.text or "")
            if not cancelled:
                await desk.client.cancel(event.request_id)
                cancelled = True
        ended = event

    assert isinstance(ended, Cancelled)
    (record,) = await desk.booked(ended.request_id, 1)
    assert (record.outcome, record.usage.source) == (Outcome.CANCELLED, UsageSource.ESTIMATED)
    assert (record.usage.input_tokens, record.usage.cache_read_tokens) == (1000, 600)
    assert record.usage.output_tokens == said // 4 < 25_000
    assert ended.cost is not None
    assert ended.cost.amount == record.cost
