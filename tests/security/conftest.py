"""One fleet for all attacks of a process of the tests; each attack is made by a tenant of its own."""

import os
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path
from tempfile import mkdtemp

import pytest
import pytest_asyncio

from tests import servers
from tests.security.fleet import Fleet, Tenant, running
from tests.security.neighbours import Neighbours
from tests.servers import Vault

_TENANTS = 80


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """They share connections and processes, so they share a loop as well."""
    here = f"{Path(__file__).parent}{os.sep}"
    for item in items:  # of every folder, so it is text that is compared: parents of 11,000 paths take a second
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
            item.add_marker(pytest.mark.slow)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def fleet(vault: Vault, _admin_url: str, _template: str) -> AsyncGenerator[Fleet]:
    folder = Path(mkdtemp(prefix="fleet-attacked-"))
    database_url = await servers.create_database(_admin_url, template=_template)
    try:
        async with running(folder, vault, database_url, tenants=_TENANTS) as fleet:
            yield fleet
    finally:
        await servers.drop_database(_admin_url, database_url)
        shutil.rmtree(folder, ignore_errors=True)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def neighbours(fleet: Fleet) -> Neighbours:
    """A quiet tenant, which is asked for while others attack."""
    return Neighbours(fleet, await fleet.tenant())


@pytest_asyncio.fixture(loop_scope="session")
async def mallory(fleet: Fleet) -> Tenant:
    """Who attacks."""
    return await fleet.tenant()


@pytest_asyncio.fixture(loop_scope="session")
async def other(fleet: Fleet) -> Tenant:
    """Who is attacked."""
    return await fleet.tenant()
