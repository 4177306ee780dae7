"""Real servers for the tests.

| fixture | what | where it comes from |
|---|---|---|
| `nats_url` | an empty NATS with JetStream; everybody may do everything | FLEET_TEST_NATS_URL, Docker, wheel |
| `nats` | the same, with `.url`, `.stop()`, `.kill()`, `.start()` (same port, same data) | wheel |
| `database_url` | a migrated database of this test's own | FLEET_TEST_DATABASE_URL (an admin's), Docker, wheel |
| `empty_database_url` | one without any table | as above |
| `postgres` | `.url` of a migrated database, with `.stop()`, `.kill()`, `.start()` | wheel |
| `vault` | `.addr`, `.root_token`, `.role("worker-openai")` → (role_id, secret_id), `.root.call(…)` | \
FLEET_TEST_VAULT_ADDR and FLEET_TEST_VAULT_TOKEN, Docker, wheel |
| `sealable_vault` | the same, with `.seal()`, `.unseal()`, `.stop()`, `.kill()`, `.start()` | wheel |
| `tenant` | a slug that no other test has | |

Servers of the session are shared by its tests, so keys in Vault go below the test's own `tenant`. Nothing outlives
pytest, not even when it is killed.
"""

import asyncio
import gc
import os
import shutil
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from secrets import token_hex
from tempfile import mkdtemp
from typing import TypeVar

import pytest
import pytest_asyncio

from fleet.local.servers import NatsServer, PostgresServer, VaultServer
from tests import servers, temporary_files
from tests.ports import free_port
from tests.servers import StoppableDatabase, Vault

_CONTAINER_START_S = 180

T = TypeVar("T")


def pytest_configure(config: pytest.Config) -> None:
    """In the process that starts the others, which inherit where temporary files go."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        stack = ExitStack()
        stack.enter_context(temporary_files.in_memory())
        config.add_cleanup(stack.close)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collects without the garbage collector, which would look through every imported module again and again.

    Modules stay as long as the process, so later collections need not look at them either.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture
def tenant() -> str:
    return f"t-{token_hex(4)}"


@pytest.fixture(scope="session")
def _folder() -> Iterator[Path]:
    folder = Path(mkdtemp(prefix="fleet-test-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def _docker() -> bool:
    return servers.docker_answers()


# NATS


@pytest_asyncio.fixture
async def nats(_folder: Path) -> AsyncGenerator[NatsServer]:
    folder = _folder / f"nats-{token_hex(4)}"
    async with servers.nats_from_wheels(folder) as server:
        yield server
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def _shared_nats_url(_docker: bool) -> Iterator[str | None]:
    """None: each test gets a server from the wheel, which is quicker than to clean one."""
    with ExitStack() as stack:
        if given := os.environ.get("FLEET_TEST_NATS_URL"):
            yield given
        elif _docker:
            yield stack.enter_context(servers.nats_in_container())
        else:
            yield None


@pytest_asyncio.fixture
async def nats_url(_shared_nats_url: str | None, _folder: Path) -> AsyncGenerator[str]:
    if _shared_nats_url:
        await _retry(lambda: servers.clean_nats(_shared_nats_url))
        yield _shared_nats_url
        return
    folder = _folder / f"nats-{token_hex(4)}"
    async with servers.nats_from_wheels(folder) as server:
        yield server.url
    shutil.rmtree(folder)


# PostgreSQL


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def _own_postgres(_folder: Path) -> AsyncGenerator[PostgresServer]:
    server = PostgresServer(_folder / "postgres", port=free_port(), durable=False)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture(scope="session")
def _admin_url(request: pytest.FixtureRequest, _docker: bool) -> Iterator[str]:
    with ExitStack() as stack:
        if given := os.environ.get("FLEET_TEST_DATABASE_URL"):
            yield given
        elif _docker:
            yield stack.enter_context(servers.postgres_in_container())
        else:
            own: PostgresServer = request.getfixturevalue("_own_postgres")
            yield own.url()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def _template(_admin_url: str) -> AsyncGenerator[str]:
    url = await _retry(lambda: _migrated(_admin_url))
    yield servers.database_of(url)
    await servers.drop_database(_admin_url, url)


@pytest_asyncio.fixture
async def database_url(_admin_url: str, _template: str) -> AsyncGenerator[str]:
    url = await servers.create_database(_admin_url, template=_template)
    yield url
    await servers.drop_database(_admin_url, url)


@pytest_asyncio.fixture
async def empty_database_url(_admin_url: str) -> AsyncGenerator[str]:
    url = await _retry(lambda: servers.create_database(_admin_url))
    yield url
    await servers.drop_database(_admin_url, url)


@pytest_asyncio.fixture
async def postgres(_own_postgres: PostgresServer) -> AsyncGenerator[StoppableDatabase]:
    url = await _migrated(_own_postgres.url())
    yield StoppableDatabase(_own_postgres, url)
    if _own_postgres.process is None or not _own_postgres.process.alive:
        await _own_postgres.start()
    await servers.drop_database(_own_postgres.url(), url)


async def _migrated(admin_url: str) -> str:
    from migrations import upgrade

    url = await servers.create_database(admin_url)
    await asyncio.to_thread(upgrade, url)
    return url


# Vault


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def _own_vault(_folder: Path) -> AsyncGenerator[VaultServer]:
    server = VaultServer(_folder / "vault", providers=servers.PROVIDERS, port=free_port())
    await server.start()
    yield server
    await server.kill()


@pytest.fixture(scope="session")
def _vault_address(request: pytest.FixtureRequest, _docker: bool) -> Iterator[tuple[str, str]]:
    """(address, root token)"""
    with ExitStack() as stack:
        if given := os.environ.get("FLEET_TEST_VAULT_ADDR"):
            yield given, os.environ["FLEET_TEST_VAULT_TOKEN"]
        elif _docker:
            yield stack.enter_context(servers.vault_in_container())
        else:
            own: VaultServer = request.getfixturevalue("_own_vault")
            yield own.addr, own.root_token


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def vault(_vault_address: tuple[str, str]) -> Vault:
    return await _retry(lambda: servers.set_up_vault(*_vault_address))


@pytest_asyncio.fixture
async def sealable_vault(_own_vault: VaultServer) -> AsyncGenerator[VaultServer]:
    yield _own_vault
    if _own_vault.process is None or not _own_vault.process.alive:
        await _own_vault.start()
    await _own_vault.unseal()


async def _retry(attempt: Callable[[], Awaitable[T]]) -> T:
    """Until it works: a container listens before its server does."""
    deadline = time.monotonic() + _CONTAINER_START_S
    while True:
        try:
            return await attempt()
        except Exception:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)
