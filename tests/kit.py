"""A worker on real servers inside the test's own process, and the control plane's part done by hand."""

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL
from base64 import b64encode
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from secrets import token_bytes
from time import monotonic
from typing import Any
from uuid import uuid4

import httpx
import nats
from nats.aio.client import Client as Nats
from pydantic import SecretStr

from contracts import streams, subjects
from contracts.providers import Limits, ProviderConfig, PublishedProvider, PublishedTenant, SealedKey
from contracts.subjects import Provider
from contracts.usage import UsageRecord
from runtime import broker
from runtime.broker import Broker
from runtime.sealing import Keyring
from runtime.settings import BrokerSettings, decode_key
from tests.patience import PATIENCE_S, until
from tests.ports import free_port
from tests.servers import Vault
from workers import app
from workers.app import NORMAL_TIMING, Timing
from workers.settings import WorkerSettings

NO_LIMITS = Limits(requests_per_minute=0, requests_per_day=0)
SEALING_KEY = SecretStr(b64encode(token_bytes(32)).decode())


def worker_settings(nats_url: str, vault: Vault, provider: str = "mock", **changes: Any) -> WorkerSettings:
    role_id, secret_id = vault.role(f"worker-{provider}")
    return WorkerSettings.model_validate(
        {
            "nats_url": nats_url,
            "vault_addr": vault.addr,
            "vault_role_id": role_id,
            "vault_secret_id": secret_id,
            "llm_encryption_key": SEALING_KEY,
            "llm_allowed_private_networks": "127.0.0.0/8",
            **changes,
        }
    )


@asynccontextmanager
async def worker(
    settings: WorkerSettings, *providers: str, concurrency: int = 64, timing: Timing = NORMAL_TIMING
) -> AsyncGenerator[asyncio.Event]:
    """A worker that is ready; yields what stops it."""
    stop, ready = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(
        app.run(settings, providers or ("mock",), stop=stop, concurrency=concurrency, ready=ready, timing=timing),
        name="worker",
    )
    up = asyncio.create_task(ready.wait())
    await asyncio.wait({task, up}, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
    up.cancel()
    if task.done():
        await task
    try:
        yield stop
    finally:
        stop.set()
        await asyncio.wait_for(task, PATIENCE_S)


@dataclass(slots=True)
class Plane:
    """What the admin API does for a tenant, without the admin API."""

    client: Nats
    vault: Vault
    tenant: str
    _revision: int = 0
    provider_ids: dict[str, str] = field(default_factory=dict)

    async def make_streams(self) -> None:
        """As at its start, and after a restart of NATS."""

        async def request(subject: str, payload: bytes) -> bytes:
            return (await self.client.request(subject, payload, timeout=PATIENCE_S)).data

        await until(lambda: self.client.is_connected)
        await streams.ensure(request, streams.Sizes())

    async def put_tenant(self, *, limits: Limits = NO_LIMITS, **fields: Any) -> None:
        self._revision += 1
        value = PublishedTenant(slug=self.tenant, revision=self._revision, limits=limits, **fields)
        await self._put(subjects.config_key_of_tenant(self.tenant), value.to_json())

    async def put_provider(
        self, provider: str, config: dict[str, Any] | None = None, *, key: str | None = None, **fields: Any
    ) -> None:
        self._revision += 1
        version = self._revision if key is not None else None
        if key is not None and version is not None:
            await self.put_key(provider, key, version)
        value = PublishedProvider(
            provider_id=self.provider_ids.setdefault(provider, str(uuid4())),
            tenant=self.tenant,
            provider_type=Provider(provider),
            key_version=version,
            revision=self._revision,
            config=ProviderConfig.model_validate(config or {}),
            **fields,
        )
        await self._put(subjects.config_key_of_provider(self.tenant, provider), value.to_json())

    async def put_key(self, provider: str, key: str, version: int) -> None:
        keyring = Keyring([decode_key(SEALING_KEY)])
        sealed = keyring.seal(SecretStr(key), tenant=self.tenant, provider=provider)
        data = SealedKey(sealed=sealed, key_version=version).model_dump(mode="json")
        await self.vault.root.call("POST", f"llm/data/{provider}/{self.tenant}", {"data": data})

    async def _put(self, key: str, value: bytes) -> None:
        await self.client.jetstream().publish(f"$KV.{subjects.CONFIG_BUCKET}.{key}", value)


@asynccontextmanager
async def plane(nats_url: str, vault: Vault, tenant: str) -> AsyncGenerator[Plane]:
    client = await nats.connect(nats_url)
    try:
        yield Plane(client, vault, tenant)
    finally:
        await client.close()


def connected(nats_url: str) -> AbstractAsyncContextManager[Broker]:
    """A connection as a role has it, to a server without users."""
    settings = BrokerSettings.model_validate({"nats_url": nats_url})
    return broker.connect(settings, name="tester", inbox_prefix="_INBOX_tester")


class Bill:
    """The usage records of a tenant, as they pass by."""

    def __init__(self) -> None:
        self.records: list[UsageRecord] = []

    def of(self, request_id: str) -> list[UsageRecord]:
        return sorted((r for r in self.records if r.request_id == request_id), key=lambda r: r.attempt)

    @classmethod
    @asynccontextmanager
    async def watch(cls, client: Nats, tenant: str) -> AsyncGenerator["Bill"]:
        bill = cls()

        async def note(msg: Any) -> None:
            bill.records.append(UsageRecord.model_validate_json(msg.data))

        subscription = await client.subscribe(f"llm.v1.usage.*.{tenant}", cb=note)
        await client.flush()
        yield bill
        await subscription.unsubscribe()


@asynccontextmanager
async def worker_process(
    nats_url: str, vault: Vault, provider: str = "mock", how: Mapping[str, Any] | None = None, /, **env: str
) -> AsyncGenerator[asyncio.subprocess.Process]:
    """`fleet worker` as a process of its own; killed at the end if it still runs. `how`: as subprocess.Popen's."""
    role_id, secret_id = vault.role(f"worker-{provider}")
    port = free_port()
    started: dict[str, Any] = {"stderr": DEVNULL, **(how or {})}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "fleet",
        "worker",
        "--provider",
        provider,
        env={
            "PATH": os.environ["PATH"],
            "NATS_URL": nats_url,
            "VAULT_ADDR": vault.addr,
            "VAULT_ROLE_ID": role_id,
            "VAULT_SECRET_ID": secret_id,
            "LLM_ENCRYPTION_KEY": SEALING_KEY.get_secret_value(),
            "LLM_ALLOWED_PRIVATE_NETWORKS": "127.0.0.0/8",
            "LLM_HTTP_PORT": str(port),
            "LLM_LOG_FORMAT": "plain",
            **env,
        },
        **started,
    )
    try:
        async with httpx.AsyncClient() as http:
            give_up = monotonic() + PATIENCE_S
            while not await _is_ready(http, port):
                assert process.returncode is None, "the worker ended instead of becoming ready"
                assert monotonic() < give_up, "the worker did not become ready"
                await asyncio.sleep(0.05)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _is_ready(http: httpx.AsyncClient, port: int) -> bool:
    try:
        return (await http.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200
    except httpx.TransportError:
        return False


async def hang_up(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    """What a server says that closes at once whatever connects."""
