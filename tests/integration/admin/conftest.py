"""An admin API over real servers, with the rights that it has in production: its NATS user and its AppRole."""

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import nats
import pytest
import pytest_asyncio
from fastapi import FastAPI
from nats.aio.client import Client as Nats
from nats.js.errors import KeyNotFoundError

from admin_api.app import AdminApi, open_admin_api
from admin_api.database import Database
from admin_api.dependencies import part_of
from admin_api.settings import AdminSettings
from contracts.subjects import Provider
from fleet.deploy import nats_config
from fleet.deploy.nats_users import users
from fleet.local.servers import NatsServer
from runtime.broker import Broker
from tests.ports import free_port
from tests.servers import Vault

ADMIN_TOKEN = "bootstrap-token-of-the-tests"
_USERS = users(tenants=[], providers=tuple(Provider))


class NatsWithUsers:
    """A NATS server whose users have their production rights."""

    def __init__(self, server: NatsServer, passwords: dict[str, str]) -> None:
        self.server = server
        self.url = server.url
        self._passwords = passwords

    def password(self, user: str) -> str:
        return self._passwords[user]

    @asynccontextmanager
    async def connect_as(self, name: str) -> AsyncGenerator[Nats]:
        user = next(user for user in _USERS if user.name == name)
        client = await nats.connect(
            self.url, user=name, password=self._passwords[name], inbox_prefix=user.inbox_prefix.encode()
        )
        try:
            yield client
        finally:
            await client.close()


@pytest_asyncio.fixture
async def nats_users(tmp_path: Path) -> AsyncGenerator[NatsWithUsers]:
    passwords = {user.name: secrets.token_hex(8) for user in _USERS}
    login = nats_config.by_password(lambda user: nats_config.quoted(passwords[user.name]))
    server = NatsServer(tmp_path / "nats", port=free_port(), accounts=nats_config.accounts(_USERS, login=login))
    await server.start()
    yield NatsWithUsers(server, passwords)
    await server.kill()


@pytest.fixture
def sealing_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


@pytest.fixture
def settings(nats_users: NatsWithUsers, database_url: str, vault: Vault, sealing_key: str) -> AdminSettings:
    role_id, secret_id = vault.role("admin")
    return AdminSettings.model_validate(
        {
            "nats_url": nats_users.url,
            "nats_user": "admin",
            "nats_password": nats_users.password("admin"),
            "database_url": database_url,
            "vault_addr": vault.addr,
            "vault_role_id": role_id,
            "vault_secret_id": secret_id,
            "llm_encryption_key": sealing_key,
            "llm_admin_token": ADMIN_TOKEN,
            "llm_allowed_private_networks": "10.1.0.0/16",
            "llm_http_port": 0,
        }
    )


@pytest_asyncio.fixture
async def admin(settings: AdminSettings) -> AsyncGenerator[AdminApi]:
    async with open_admin_api(settings) as admin:
        yield admin


@pytest.fixture
def app(admin: AdminApi) -> FastAPI:
    return admin.app


@pytest.fixture
def database(app: FastAPI) -> Database:
    """The one that the admin API uses, with its rights."""
    return part_of(app, Database)


@pytest.fixture
def broker(admin: AdminApi) -> Broker:
    """The one that the admin API uses, with its rights."""
    return admin.broker


@asynccontextmanager
async def client_of(app: FastAPI, token: str | None = ADMIN_TOKEN) -> AsyncGenerator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://admin", headers=headers) as client:
        yield client


@pytest_asyncio.fixture
async def api(app: FastAPI) -> AsyncGenerator[httpx.AsyncClient]:
    """As the bootstrap admin."""
    async with client_of(app) as client:
        yield client


@pytest_asyncio.fixture
async def acme(api: httpx.AsyncClient, tenant: str) -> str:
    """A tenant that exists."""
    assert (await api.post("/api/v1/tenants", json={"slug": tenant})).status_code == 201
    return tenant


ReadKey = Callable[[str, str], Awaitable[dict[str, Any]]]


@pytest.fixture
def stored_key(vault: Vault) -> ReadKey:
    """What lies in Vault for a provider and tenant, as root sees it."""

    async def read(provider: str, tenant: str) -> dict[str, Any]:
        return (await vault.root.call("GET", f"llm/data/{provider}/{tenant}"))["data"]

    return read


ReadConfig = Callable[[str], Awaitable[dict[str, Any] | None]]


@pytest_asyncio.fixture
async def config_entry(nats_users: NatsWithUsers) -> AsyncGenerator[ReadConfig]:
    """An entry of the KV bucket, as a worker of the pool openai reads it; None when there is none."""
    async with nats_users.connect_as("worker-openai") as client:

        async def read(key: str) -> dict[str, Any] | None:
            bucket = await client.jetstream().key_value("llm_config")
            try:
                return json.loads((await bucket.get(key)).value or b"null")
            except KeyNotFoundError:
                return None

        yield read


_DEADLINE_S = 90


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Returns when the condition holds. Raises TimeoutError."""
    async with asyncio.timeout(_DEADLINE_S):
        while not await condition():
            await asyncio.sleep(0.05)
