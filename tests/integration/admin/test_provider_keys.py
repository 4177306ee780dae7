"""Several keys of one provider: where they lie, who may read them, and that no endpoint is left without its own."""

import asyncio
import hashlib
import json
from contextlib import suppress
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from fleet.local.vault_api import VaultApi, VaultRefused
from runtime.sealing import Keyring, UnsealError
from runtime.settings import SealingSettings
from tests.integration.admin.conftest import ReadConfig, ReadKey
from tests.servers import Vault

PROVIDERS = "/api/v1/llm-providers"
FIRST, SECOND, THIRD = (f"sk-test-{number}-0123456789abcdef-KEEPME" for number in (1, 2, 3))
TWO_ENDPOINTS = {"endpoints": [{"name": "a"}, {"name": "b", "key": "spare"}]}


def fingerprint(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:8]


def body(tenant: str, **changes: Any) -> dict[str, Any]:
    return {"tenant": tenant, "provider_type": "openai", "api_key": FIRST, **changes}


async def add(api: httpx.AsyncClient, tenant: str, **changes: Any) -> dict[str, Any]:
    answer = await api.post(PROVIDERS, json=body(tenant, **changes))
    assert answer.status_code == 201, answer.text
    return answer.json()


async def test_seals_each_key_for_its_own_place(
    api: httpx.AsyncClient, acme: str, stored_key: ReadKey, sealing_key: str, config_entry: ReadConfig
) -> None:
    added = await add(api, acme, api_keys={"spare": SECOND}, config=TWO_ENDPOINTS)

    assert added["keys"] == [
        {"name": "default", "fingerprint": fingerprint(FIRST), "version": 1},
        {"name": "spare", "fingerprint": fingerprint(SECOND), "version": 1},
    ]
    held = (await stored_key("openai", f"{acme}/spare"))["data"]["sealed"]
    keyring = Keyring.from_settings(SealingSettings(llm_encryption_key=SecretStr(sealing_key)))
    assert keyring.unseal(held, tenant=acme, provider="openai", name="spare").get_secret_value() == SECOND
    with pytest.raises(UnsealError):
        keyring.unseal(held, tenant=acme, provider="openai")
    entry = await config_entry(f"provider.{acme}.openai")
    assert entry is not None
    assert (entry["key_version"], entry["more_key_versions"]) == (1, {"spare": 1})
    assert SECOND not in json.dumps([added, entry])


async def test_a_removed_key_leaves_vault_and_its_version_never_comes_back(
    api: httpx.AsyncClient, acme: str, stored_key: ReadKey
) -> None:
    added = await add(api, acme, api_keys={"spare": SECOND})
    where = f"{PROVIDERS}/{added['id']}"

    removed = await api.put(where, json={"api_keys": {"spare": None}})
    with pytest.raises(VaultRefused, match="404"):
        await stored_key("openai", f"{acme}/spare")
    back = await api.put(where, json={"api_keys": {"spare": THIRD}})

    assert [key["name"] for key in removed.json()["keys"]] == ["default"]
    first, again = (answer["keys"][-1]["version"] for answer in (added, back.json()))
    assert again > first
    assert (await api.put(where, json={"api_keys": {"never-there": None}})).status_code == 200


async def test_a_provider_that_comes_back_has_the_keys_given_now(
    api: httpx.AsyncClient, acme: str, stored_key: ReadKey
) -> None:
    added = await add(api, acme, api_keys={"old": SECOND, "both": SECOND})
    await api.delete(f"{PROVIDERS}/{added['id']}")

    back = await add(api, acme, api_key=THIRD, api_keys={"both": THIRD})

    assert [(key["name"], key["fingerprint"]) for key in back["keys"]] == [
        ("default", fingerprint(THIRD)),
        ("both", fingerprint(THIRD)),
    ]
    with pytest.raises(VaultRefused, match="404"):
        await stored_key("openai", f"{acme}/old")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"config": {"endpoints": [{"name": "a", "key": "missing"}]}}, "config.endpoints.0.key"),
        ({"config": TWO_ENDPOINTS, "api_keys": {"spare": None}}, "config.endpoints.1.key"),
        ({"api_keys": {"default": SECOND}}, "api_keys"),
        ({"api_keys": {"a b": SECOND}}, None),
        ({"api_keys": {"spare": "two\nlines"}}, "api_keys.spare"),
        ({"api_keys": {f"k{number}": SECOND for number in range(65)}}, "api_keys"),
        (
            {"config": {"endpoints": [{"name": "a", "key": "spare", "auth": "entra_id"}]}, "api_keys": {"spare": "k"}},
            "api_keys.spare",
        ),
    ],
)
async def test_refuses_what_would_leave_an_endpoint_without_its_key(
    api: httpx.AsyncClient, acme: str, change: dict[str, Any], field: str | None
) -> None:
    added = await add(api, acme, api_keys={"spare": SECOND})

    answer = await api.put(f"{PROVIDERS}/{added['id']}", json=change)

    assert answer.status_code == 422, answer.text
    assert field is None or field in {error["field"] for error in answer.json()["errors"]}
    assert "KEEPME" not in answer.text
    assert (await api.get(f"{PROVIDERS}/{added['id']}")).json() == added


async def test_needs_no_default_key_where_no_endpoint_uses_it(api: httpx.AsyncClient, acme: str) -> None:
    config = {"endpoints": [{"name": "a", "key": "one"}, {"name": "b", "key": "two"}]}

    added = await add(api, acme, api_key=None, api_keys={"one": FIRST, "two": SECOND}, config=config)

    assert added["key_version"] is None
    assert [key["name"] for key in added["keys"]] == ["one", "two"]


async def test_a_key_in_the_place_of_a_name_is_not_repeated(api: httpx.AsyncClient, acme: str) -> None:
    answer = await api.post(PROVIDERS, json=body(acme, config={"endpoints": [{"name": "a", "key": SECOND}]}))

    assert answer.status_code == 422
    assert "KEEPME" not in answer.text


async def test_rotations_at_the_same_time_leave_one_of_them_whole(
    api: httpx.AsyncClient, acme: str, vault: Vault, stored_key: ReadKey, sealing_key: str
) -> None:
    """Also while somebody re-seals, which takes no lock of ours."""
    added = await add(api, acme)
    where = f"llm/data/openai/{acme}"

    async def reseal() -> None:
        held = await stored_key("openai", acme)
        options = {"cas": held["metadata"]["version"]}
        with suppress(VaultRefused):
            await vault.root.call("POST", where, {"data": held["data"], "options": options})

    keys = [f"sk-test-{number}" for number in range(6)]
    rotations = [api.put(f"{PROVIDERS}/{added['id']}", json={"api_key": key}) for key in keys]
    answers, _ = await asyncio.gather(asyncio.gather(*rotations), asyncio.gather(*(reseal() for _ in range(6))))

    assert sorted(answer.json()["key_version"] for answer in answers) == [2, 3, 4, 5, 6, 7]
    held = (await stored_key("openai", acme))["data"]
    now = (await api.get(f"{PROVIDERS}/{added['id']}")).json()
    keyring = Keyring.from_settings(SealingSettings(llm_encryption_key=SecretStr(sealing_key)))
    secret = keyring.unseal(held["sealed"], tenant=acme, provider="openai").get_secret_value()
    assert (
        (held["key_version"], fingerprint(secret)) == (7, now["key_fingerprint"]) == (7, now["keys"][0]["fingerprint"])
    )


@pytest.mark.parametrize("path", ["{tenant}", "{tenant}/spare"])
async def test_a_pool_reads_the_keys_of_its_own_provider_only(
    api: httpx.AsyncClient, acme: str, vault: Vault, path: str
) -> None:
    await add(api, acme, api_keys={"spare": SECOND})

    async def read_as(provider: str) -> Any:
        role_id, secret_id = vault.role(f"worker-{provider}")
        credentials = {"role_id": role_id, "secret_id": secret_id}
        login = await VaultApi(vault.addr).call("POST", "auth/approle/login", credentials)
        pool = VaultApi(vault.addr, login["auth"]["client_token"])
        return await pool.call("GET", f"llm/data/openai/{path.format(tenant=acme)}")

    assert (await read_as("openai"))["data"]["data"]["sealed"]
    with pytest.raises(VaultRefused, match="403"):
        await read_as("azure")
