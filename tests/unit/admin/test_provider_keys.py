"""Which keys a provider must have, and how they come into Vault and leave it."""

import json
import logging
import os
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from admin_api.configuration.provider_keys import GivenKeys, ProviderKeys
from admin_api.http.problems import Problem
from admin_api.publishing.key_vault import KeyMoved, KeyVault
from contracts.providers import ProviderConfig, SealedKey
from contracts.subjects import Provider
from runtime.sealing import Keyring
from runtime.vault import VaultUnavailable

KEY = SecretStr("sk-a")
TWO_KEYS = {"endpoints": [{"name": "a"}, {"name": "b", "key": "second"}]}
ENTRA = {"endpoints": [{"name": "a", "base_url": "https://x.openai.azure.com", "auth": "entra_id"}]}


class MemoryVault(KeyVault):
    """Keeps keys with their versions; somebody else writes before the first `races` writes."""

    def __init__(self, *, races: int = 0) -> None:
        self.keys: dict[str, tuple[int, SealedKey | None]] = {}
        self.races = races
        self.calls: list[str] = []
        self.deletes = True

    async def version(self, path: str) -> int:
        self.calls.append("version")
        return self.keys.get(path, (0, None))[0]

    async def write(self, path: str, key: SealedKey, *, over_version: int) -> None:
        self.calls.append("write")
        if self.races:
            self.races -= 1
            self.keys[path] = (over_version + 1, None)
        if self.keys.get(path, (0, None))[0] != over_version:
            raise KeyMoved(path)
        self.keys[path] = (over_version + 1, key)

    async def delete(self, path: str) -> None:
        if not self.deletes:
            raise VaultUnavailable("it is sealed")
        self.keys.pop(path, None)


class Connection:
    def __init__(self, vault: MemoryVault) -> None:
        self.vault = vault

    async def execute(self, _: object) -> None:
        self.vault.calls.append("ask")


def keys(vault: MemoryVault | None = None) -> ProviderKeys:
    return ProviderKeys(vault or MemoryVault(), Keyring([os.urandom(32)]), allowed_networks=())


def row(**columns: Any) -> Any:
    """A provider's row that has a default key and no other."""
    known = {"key_version": 4, "key_fingerprint": "0" * 8, "more_keys": {}, "revision": 9}
    return SimpleNamespace(**{**known, **columns})


def refusal(given: GivenKeys, config: dict[str, Any], *, provider: Provider = Provider.OPENAI, old: Any = None) -> str:
    """The field that is refused, and how; empty: none."""
    try:
        keys().check(given, ProviderConfig.model_validate(config), provider=provider, old=old)
    except Problem as problem:
        return f"{problem.status} {problem.errors[0].field}{' with the key' if 'sk-a' in problem.detail else ''}"
    return ""


NOTHING = GivenKeys(None, {})
SECOND = row(more_keys={"second": {"fingerprint": "1" * 8, "version": 2}})


@pytest.mark.parametrize(
    ("given", "config", "old", "field"),
    [
        (GivenKeys(KEY, {}), {}, None, ""),
        (NOTHING, {}, None, "422 api_key"),
        (NOTHING, {}, row(), ""),
        (GivenKeys(KEY, {}), TWO_KEYS, None, "422 config.endpoints.1.key"),
        (GivenKeys(KEY, {"second": KEY}), TWO_KEYS, None, ""),
        (NOTHING, TWO_KEYS, SECOND, ""),
        (GivenKeys(None, {"second": None}), TWO_KEYS, SECOND, "422 config.endpoints.1.key"),
        (GivenKeys(None, {"second": None}), {}, SECOND, ""),
        (GivenKeys(KEY, {f"k{number}": KEY for number in range(64)}), {}, None, "422 api_keys"),
    ],
)
def test_every_endpoint_has_its_key(given: GivenKeys, config: dict[str, Any], old: Any, field: str) -> None:
    assert refusal(given, config, old=old) == field


def test_what_is_asked_without_a_key_needs_none() -> None:
    assert refusal(NOTHING, {}, provider=Provider.OLLAMA) == ""


@pytest.mark.parametrize(
    ("key", "field"),
    [
        ({"tenant_id": "t", "client_id": "c", "client_secret": "sk-a"}, ""),
        ({"tenant_id": "t", "client_id": "c"}, "422 api_key"),
        ({"tenant_id": "t", "client_id": "c", "client_secret": "s", "authority": "https://10.0.0.1"}, "422 api_key"),
        ("sk-a", "422 api_key"),
    ],
)
def test_credentials_of_entra_id_are_whole_and_of_an_allowed_authority(key: Any, field: str) -> None:
    given = GivenKeys(SecretStr(json.dumps(key)), {})

    assert refusal(given, ENTRA, provider=Provider.AZURE) == field


async def test_the_lock_is_seen_to_hold_between_the_version_and_the_write() -> None:
    vault = MemoryVault()
    connection: Any = Connection(vault)

    columns = await keys(vault).store(
        connection, GivenKeys(KEY, {"second": KEY}), tenant="acme", provider=Provider.OPENAI, old=row()
    )

    assert vault.calls == ["version", "ask", "write"] * 2
    assert (columns["key_version"], columns["more_keys"]["second"]["version"]) == (5, 10)
    assert columns["vault_path"] == "llm/openai/acme"
    assert set(vault.keys) == {"openai/acme", "openai/acme/second"}


async def test_a_key_that_is_resealed_meanwhile_is_written_again() -> None:
    vault = MemoryVault(races=2)
    connection: Any = Connection(vault)

    await keys(vault).store(connection, GivenKeys(KEY, {}), tenant="acme", provider=Provider.OPENAI, old=None)

    version, key = vault.keys["openai/acme"]
    assert (version, key and key.key_version) == (3, 1)


async def test_gives_up_when_somebody_else_keeps_writing() -> None:
    vault = MemoryVault(races=3)
    connection: Any = Connection(vault)

    with pytest.raises(VaultUnavailable):
        await keys(vault).store(connection, GivenKeys(KEY, {}), tenant="acme", provider=Provider.OPENAI, old=None)


async def test_a_removed_key_lies_in_vault_until_it_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    vault = MemoryVault()
    vault.keys["openai/acme/second"] = (1, None)
    connection: Any = Connection(vault)
    given = GivenKeys(None, {"second": None})

    columns = await keys(vault).store(connection, given, tenant="acme", provider=Provider.OPENAI, old=SECOND)
    assert (columns, set(vault.keys)) == ({"more_keys": {}}, {"openai/acme/second"})

    vault.deletes = False
    await keys(vault).forget(given, tenant="acme", provider=Provider.OPENAI)
    assert [(record.levelno, record.message) for record in caplog.records] == [(logging.ERROR, "key_left_in_vault")]

    vault.deletes = True
    await keys(vault).forget(given, tenant="acme", provider=Provider.OPENAI)
    assert vault.keys == {}
