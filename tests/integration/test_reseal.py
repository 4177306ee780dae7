"""`fleet keys reseal` against a real Vault, whose other keys, of other tests, nobody here can open."""

import asyncio
import sys
from base64 import b64encode
from secrets import token_bytes
from typing import Any

import pytest
from pydantic import SecretStr

from contracts.providers import SealedKey, key_path
from fleet.local.vault_api import VaultApi, VaultRefused
from fleet.operator import reseal
from fleet.operator.reseal import ResealOutcome, ResealSettings
from runtime.sealing import Keyring, UnsealError
from runtime.settings import decode_key
from tests.servers import Vault

OLD, NEW = (b64encode(token_bytes(32)).decode() for _ in range(2))


def ring(*keys: str) -> Keyring:
    return Keyring([decode_key(SecretStr(key)) for key in keys])


class Store:
    """The keys of one tenant, as root sees them."""

    def __init__(self, vault: Vault, tenant: str) -> None:
        self._vault = vault
        self._tenant = tenant

    def path(self, name: str) -> str:
        return key_path(tenant=self._tenant, provider="openai", name=name)

    async def put(self, name: str, key: str, *, version: int = 1, sealed_by: str = OLD) -> None:
        sealed = ring(sealed_by).seal(SecretStr(key), tenant=self._tenant, provider="openai", name=name)
        data = SealedKey(sealed=sealed, key_version=version).model_dump()
        await self._vault.root.call("POST", f"llm/data/{self.path(name)}", {"data": data})

    async def read(self, name: str, *, version: int = 0) -> SealedKey:
        found = await self._vault.root.call("GET", f"llm/data/{self.path(name)}?version={version}")
        return SealedKey.model_validate(found["data"]["data"])

    async def opened(self, name: str, keyring: Keyring) -> tuple[str, int]:
        held = await self.read(name)
        key = keyring.unseal(held.sealed, tenant=self._tenant, provider="openai", name=name)
        return key.get_secret_value(), held.key_version


@pytest.fixture
def store(vault: Vault, tenant: str) -> Store:
    return Store(vault, tenant)


@pytest.fixture
def settings(vault: Vault) -> ResealSettings:
    role_id, secret_id = vault.role("reseal")
    access = {"vault_addr": vault.addr, "vault_role_id": role_id, "vault_secret_id": secret_id}
    return ResealSettings.model_validate({**access, "llm_encryption_key": NEW, "llm_encryption_key_previous": OLD})


async def test_the_newest_key_opens_all_afterwards_and_the_one_before_none(
    store: Store, settings: ResealSettings, tenant: str
) -> None:
    await store.put("default", "sk-before", version=1)
    await store.put("default", "sk-one", version=2)
    await store.put("spare", "sk-two", version=7)

    counts, failed = await reseal.run(settings)

    assert counts[ResealOutcome.RESEALED] >= 2
    assert [key for key in failed if tenant in key.path] == []
    for name, expected in (("default", ("sk-one", 2)), ("spare", ("sk-two", 7))):
        assert await store.opened(name, ring(NEW)) == expected
        with pytest.raises(UnsealError):
            await store.opened(name, ring(OLD))
    for version in (1, 2):
        with pytest.raises(VaultRefused, match="404"):
            await store.read("default", version=version)

    counts, _ = await reseal.run(settings)
    assert (counts[ResealOutcome.RESEALED], counts[ResealOutcome.CURRENT] >= 2) == (0, True)


async def test_runs_at_once_one_broken_off_and_keys_set_meanwhile_do_no_harm(
    store: Store, settings: ResealSettings, tenant: str
) -> None:
    names = [f"key-{number}" for number in range(40)]
    await asyncio.gather(*(store.put(name, f"sk-{name}") for name in names))
    broken_off = asyncio.create_task(reseal.run(settings))
    before = (await store.read(names[0])).sealed
    while (await store.read(names[0])).sealed == before:
        pass
    broken_off.cancel()
    await asyncio.gather(broken_off, return_exceptions=True)

    async def rotate() -> None:
        for name in names[::4]:
            await store.put(name, f"sk-new-{name}", version=2, sealed_by=NEW)

    runs = await asyncio.gather(reseal.run(settings), reseal.run(settings), rotate())

    assert [key for _, failed in runs[:2] for key in failed if tenant in key.path] == []
    expected = {name: (f"sk-{name}", 1) for name in names} | {n: (f"sk-new-{n}", 2) for n in names[::4]}
    assert {name: await store.opened(name, ring(NEW)) for name in names} == expected


async def test_what_no_key_opens_is_told_and_left_alone(
    vault: Vault, store: Store, settings: ResealSettings, tenant: str
) -> None:
    lost = b64encode(token_bytes(32)).decode()
    await store.put("lost", "sk-lost-0123456789", sealed_by=lost)
    await store.put("kept", "sk-kept-0123456789")
    await vault.root.call("POST", f"llm/data/openai/{tenant}/other", {"data": {"note": "no key"}})
    env = {"VAULT_ADDR": vault.addr, "LLM_ENCRYPTION_KEY": NEW, "LLM_ENCRYPTION_KEY_PREVIOUS": OLD}
    env["VAULT_ROLE_ID"], env["VAULT_SECRET_ID"] = vault.role("reseal")

    command = (sys.executable, "-m", "fleet", "keys", "reseal")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, env=env, stdout=pipe, stderr=pipe)
    out, err = (text.decode() for text in await process.communicate())

    assert process.returncode == 1
    assert "sealed anew" in out
    told = {line.partition(": ")[0]: line for line in err.splitlines() if tenant in line}
    assert told.keys() == {f"openai/{tenant}/lost", f"openai/{tenant}/other"}
    assert "LLM_ENCRYPTION_KEY_PREVIOUS" in told[f"openai/{tenant}/lost"]
    assert "0123456789" not in out + err
    assert await store.opened("lost", ring(lost)) == ("sk-lost-0123456789", 1)
    assert await store.opened("kept", ring(NEW)) == ("sk-kept-0123456789", 1)


@pytest.mark.parametrize(
    ("method", "path"), [("DELETE", "llm/metadata/openai/{tenant}"), ("DELETE", "llm/data/openai/{tenant}")]
)
async def test_the_role_deletes_nothing(vault: Vault, store: Store, tenant: str, method: str, path: str) -> None:
    await store.put("default", "sk-one")
    role_id, secret_id = vault.role("reseal")
    credentials: dict[str, Any] = {"role_id": role_id, "secret_id": secret_id}
    login = await VaultApi(vault.addr).call("POST", "auth/approle/login", credentials)

    with pytest.raises(VaultRefused, match="403"):
        await VaultApi(vault.addr, login["auth"]["client_token"]).call(method, path.format(tenant=tenant))
