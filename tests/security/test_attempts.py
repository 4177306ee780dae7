"""What a vendor was asked is on disk before it is asked: the bill survives the worker and NATS together."""

import asyncio
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path
from tempfile import mkdtemp

import pytest
import pytest_asyncio

from contracts.events import Completed, Delta, Event
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


@pytest.mark.parametrize("first", ["worker-openai", "nats"])
async def test_calls_are_booked_whose_worker_dies_together_with_nats(mortal: Fleet, first: str) -> None:
    tenant = await mortal.tenant()
    events: list[list[Event]] = [[] for _ in range(CALLS)]
    slowly = {"openai": {"simulate": {"chunks": 200, "between_s": 0.05}}}

    async def read(n: int) -> None:
        async for event in client.stream(MODEL, "Hello", provider_options=slowly, deadline_s=150):
            events[n].append(event)

    async with tenant.client() as client:
        reading = [asyncio.create_task(read(n)) for n in range(CALLS)]
        await until(lambda: all(any(isinstance(e, Delta) for e in seen) for seen in events))
        for victim in (first, *({"worker-openai", "nats"} - {first})):
            await mortal.process(victim).kill()
        await mortal.start_nats()
        await mortal.start_role("worker-openai")
        await asyncio.gather(*reading)

    assert all(isinstance(seen[-1], Completed) for seen in events)
    assert len(mortal.calls(tenant)) >= 2 * CALLS
    await Neighbours(mortal, tenant).bill_is_right(tenant)
