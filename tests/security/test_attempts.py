"""What a vendor was asked is on disk before it is asked: the bill survives the worker and NATS together."""

import asyncio
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path
from tempfile import mkdtemp

import pytest_asyncio

from contracts.events import Completed, Delta, Event
from fleet.client import Client
from tests.patience import until
from tests.security.fleet import Fleet, running
from tests.security.neighbours import MODEL, Neighbours
from tests.servers import Vault

CALLS = 20


@pytest_asyncio.fixture(loop_scope="session")
async def mortal(vault: Vault, database_url: str) -> AsyncGenerator[Fleet]:
    """A fleet of this test's own, because it kills its servers."""
    folder = Path(mkdtemp(prefix="fleet-killed-"))
    async with running(folder, vault, database_url, tenants=2) as fleet:
        yield fleet
    shutil.rmtree(folder, ignore_errors=True)


async def test_calls_are_booked_whose_worker_dies_together_with_nats(mortal: Fleet) -> None:
    """Whichever of the two dies first."""
    tenant = await mortal.tenant()
    neighbours = Neighbours(mortal, tenant)
    for victims in (("worker-openai", "nats"), ("nats", "worker-openai")):
        before = len(mortal.calls(tenant))
        async with tenant.client() as client:
            events: list[list[Event]] = [[] for _ in range(CALLS)]
            reading = [asyncio.create_task(_read(client, into)) for into in events]
            await until(lambda events=events: all(any(isinstance(e, Delta) for e in seen) for seen in events))
            for victim in victims:
                await mortal.process(victim).kill()
            await mortal.start_nats()
            await mortal.start_role("worker-openai")
            await asyncio.gather(*reading)

        assert all(isinstance(seen[-1], Completed) for seen in events)
        assert len(mortal.calls(tenant)) - before >= 2 * CALLS
        await neighbours.bill_is_right(tenant)


async def _read(client: Client, into: list[Event]) -> None:
    slowly = {"openai": {"simulate": {"chunks": 100, "between_s": 0.05}}}
    async for event in client.stream(MODEL, "Hello", provider_options=slowly, deadline_s=150):
        into.append(event)  # noqa: PERF401 - the test looks into the list meanwhile
