"""A simulator and the adapter of each vendor that it speaks for."""

from collections.abc import AsyncGenerator

import pytest

from fleet.simulator import Simulator
from tests.contract.adapters.vendor import LOCAL, TRAITS, Vendor
from workers.providers import registry


@pytest.fixture
async def simulator() -> AsyncGenerator[Simulator]:
    async with Simulator() as simulator:
        yield simulator


@pytest.fixture(params=TRAITS)
async def vendor(request: pytest.FixtureRequest, simulator: Simulator) -> AsyncGenerator[Vendor]:
    adapter = registry.load(request.param, LOCAL)
    yield Vendor(adapter, simulator)
    await adapter.aclose()
