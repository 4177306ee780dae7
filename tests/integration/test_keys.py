"""The keys that a pool holds: from a real Vault, over hours of a clock that the test drives."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr

from contracts.errors import KeyUnavailable
from contracts.providers import PublishedProvider, SealedKey, key_path
from contracts.subjects import Provider
from fleet.local.servers import VaultServer
from fleet.local.vault_api import VaultApi
from runtime.sealing import Keyring
from runtime.settings import VaultSettings, decode_key
from runtime.vault import VaultSession
from tests.kit import SEALING_KEY
from tests.patience import until
from tests.servers import Vault
from workers.endpoints.keys import FRESH_S, USABLE_S, KeyStore

RING = Keyring([decode_key(SEALING_KEY)])


class Shelf:
    """One tenant's keys of OpenAI: put by root, read by the pool's own role."""

    def __init__(self, root: VaultApi, session: VaultSession, tenant: str) -> None:
        self.now = 1_000.0
        self.session = session
        self.store = KeyStore(session, RING, clock=lambda: self.now)
        self._root = root
        self._tenant = tenant

    def path(self, name: str) -> str:
        return key_path(tenant=self._tenant, provider="openai", name=name)

    async def put(self, key: str, *, version: int = 1, name: str = "default", sealed_for: str | None = None) -> None:
        sealed = RING.seal(SecretStr(key), tenant=self._tenant, provider="openai", name=sealed_for or name)
        data = SealedKey(sealed=sealed, key_version=version).model_dump()
        await self._root.call("POST", f"llm/data/{self.path(name)}", {"data": data})

    async def remove(self, name: str = "default") -> None:
        await self._root.call("DELETE", f"llm/metadata/{self.path(name)}")

    async def get(self, *, version: int = 1, name: str = "default") -> str:
        held = await self.store.get(tenant=self._tenant, provider="openai", key_version=version, name=name)
        return held.secret.get_secret_value()

    async def until_it_is(self, key: str, *, version: int = 1) -> None:
        async with asyncio.timeout(60):
            while await self.get(version=version) != key:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def shelf_in(vault: Vault | VaultServer, tenant: str) -> AsyncGenerator[Shelf]:
    role_id, secret_id = vault.role("worker-openai")
    settings = VaultSettings(vault_addr=vault.addr, vault_role_id=role_id, vault_secret_id=SecretStr(secret_id))
    session = VaultSession(settings)
    await session.start()
    try:
        yield Shelf(VaultApi(vault.addr, vault.root_token), session, tenant)
    finally:
        await session.close()


@pytest.fixture
async def shelf(vault: Vault, tenant: str) -> AsyncGenerator[Shelf]:
    async with shelf_in(vault, tenant) as shelf:
        yield shelf


async def test_keys_have_names_and_open_in_their_own_place_only(shelf: Shelf) -> None:
    await shelf.put("sk-default")
    await shelf.put("sk-spare", name="spare")
    await shelf.put("sk-default", name="stolen", sealed_for="default")

    assert (await shelf.get(), await shelf.get(name="spare")) == ("sk-default", "sk-spare")
    with pytest.raises(KeyUnavailable, match="altered or belongs elsewhere"):
        await shelf.get(name="stolen")
    with pytest.raises(KeyUnavailable, match="/api/v1/llm-providers"):
        await shelf.get(name="missing")


async def test_a_newer_version_is_read_at_once_and_an_old_key_behind_the_requests(shelf: Shelf) -> None:
    await shelf.put("sk-one")
    assert await shelf.get() == "sk-one"
    await shelf.put("sk-two", version=2)
    assert await shelf.get(version=1) == "sk-one"

    assert await shelf.get(version=2) == "sk-two"

    await shelf.put("sk-put-by-hand", version=2)
    shelf.now += FRESH_S
    assert await shelf.get(version=2) == "sk-two"
    await shelf.until_it_is("sk-put-by-hand", version=2)


async def test_a_key_that_was_deleted_is_used_no_longer(shelf: Shelf) -> None:
    await shelf.put("sk-one")
    await shelf.get()
    await shelf.remove()

    shelf.now += FRESH_S
    await shelf.get()
    with pytest.raises(KeyUnavailable):
        await shelf.until_it_is("another")


async def test_a_sealed_vault_leaves_known_keys_an_hour(sealable_vault: VaultServer, tenant: str) -> None:
    async with shelf_in(sealable_vault, tenant) as shelf:
        await shelf.put("sk-known")
        await shelf.put("sk-unknown", name="unknown")
        await shelf.get()
        await sealable_vault.seal()

        with pytest.raises(KeyUnavailable, match="cannot be read"):
            await shelf.get(name="unknown")
        assert not shelf.session.usable
        shelf.now += USABLE_S - 1
        assert await shelf.get() == "sk-known"
        shelf.now += 1
        with pytest.raises(KeyUnavailable, match="cannot be read"):
            await shelf.get()

        await sealable_vault.unseal()
        assert (await shelf.get(), await shelf.get(name="unknown")) == ("sk-known", "sk-unknown")
        assert shelf.session.usable


async def test_a_vault_that_refuses_the_role_leaves_known_keys_too(vault: Vault, shelf: Shelf) -> None:
    await shelf.put("sk-known")
    await shelf.get()
    policy = (await vault.root.call("GET", "sys/policies/acl/worker-openai"))["data"]["policy"]
    await vault.root.call("DELETE", "sys/policies/acl/worker-openai")
    try:
        shelf.now += FRESH_S
        assert await shelf.get() == "sk-known"
        with pytest.raises(KeyUnavailable, match="refused this role"):
            await shelf.get(name="unknown")
        watching = asyncio.create_task(shelf.session.watch())
        await until(lambda: not shelf.session.usable)
    finally:
        await vault.root.call("PUT", "sys/policies/acl/worker-openai", {"policy": policy})
    await until(lambda: shelf.session.usable)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert await shelf.get() == "sk-known"


@pytest.mark.parametrize(("provider", "name", "why"), [("openai", "default", "has no key"), ("mock", "b", "no key b")])
async def test_an_endpoint_without_its_key_is_told(shelf: Shelf, provider: str, name: str, why: str) -> None:
    configured = PublishedProvider(provider_id="p-1", tenant="acme", provider_type=Provider(provider), revision=1)
    with pytest.raises(KeyUnavailable, match=why):
        await shelf.store.of(configured, name)
    keyless = configured.model_copy(update={"provider_type": Provider.MOCK})
    assert await shelf.store.of(keyless, "default") is None
