"""What an import finds in a source, and what it decides to do with a key."""

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from contracts.providers import Endpoint, ProviderConfig
from contracts.subjects import Provider
from fleet.operator.key_import.plan import Add, Join, Keep, Refuse, Wish, plan
from fleet.operator.key_import.rows import FoundKey, Reading, Unreadable, Unusable, columns_of, fernet_of, of_rows
from fleet.operator.key_import.sources import of_variables, read
from runtime.sealing import fingerprint

KEY = "sk-imported-0123456789"
MARK = fingerprint(SecretStr(KEY))
NAME = f"imported-{MARK}"
TODAY, BEFORE = Fernet.generate_key(), Fernet.generate_key()


def told(found: Any) -> tuple[Any, ...]:
    assert isinstance(found, FoundKey), found
    return found.provider, found.secret.get_secret_value(), found.tenant, found.endpoint.base_url


# Sources


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"OPENAI_API_KEY": "a"}, [(Provider.OPENAI, "a", None, None)]),
        ({"OPENAI_API_KEY": "a", "OPENAI_BASE_URL": "https://e.com/v1"}, [("openai", "a", None, "https://e.com/v1")]),
        (
            {"ANTHROPIC_API_KEY": "a", "GEMINI_API_KEY": "b"},
            [("anthropic", "a", None, None), ("google", "b", None, None)],
        ),
        ({"GOOGLE_API_KEY": "a", "GEMINI_API_KEY": "b"}, [("google", "a", None, None)]),
        (
            {"AZURE_OPENAI_API_KEY": "a", "AZURE_OPENAI_ENDPOINT": "https://r.openai.azure.com"},
            [("azure", "a", None, "https://r.openai.azure.com")],
        ),
        ({"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_CLIENT_SECRET": "s"}, []),
        ({"OPENAI_API_KEY": "", "PATH": "/bin"}, []),
    ],
)
def test_variables_are_read_as_the_vendors_tools_do(variables: dict[str, str], expected: list[Any]) -> None:
    assert [told(found) for found in of_variables(variables, Reading())] == expected


def test_an_application_of_entra_id_is_one_key() -> None:
    names = {"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_CLIENT_SECRET": "s"}
    (found,) = of_variables({**names, "AZURE_OPENAI_ENDPOINT": "https://r.openai.azure.com"}, Reading())
    assert isinstance(found, FoundKey)
    assert found.endpoint.auth == "entra_id"
    assert json.loads(found.secret.get_secret_value()) == {"tenant_id": "t", "client_id": "c", "client_secret": "s"}


async def test_files_say_the_same_in_every_format(tmp_path: Path) -> None:
    (tmp_path / "keys.csv").write_text("\ufefftenant,vendor,api_key\nacme,OpenAI,sk-1\nglobex,claude,sk-2\n")
    rows = [
        {"tenant": "acme", "provider": "openai", "key": "sk-1"},
        {"tenant": "globex", "provider": "anthropic", "key": "sk-2"},
    ]
    (tmp_path / "keys.json").write_text(json.dumps({"keys": rows}))
    with sqlite3.connect(tmp_path / "old.db") as database:
        database.execute('CREATE TABLE "llm keys" (tenant_id TEXT, provider_type TEXT, encrypted_key BLOB)')
        database.executemany(
            'INSERT INTO "llm keys" VALUES (?, ?, ?)', [("acme", "openai", b"sk-1"), ("globex", "anthropic", b"sk-2")]
        )
    database.close()
    expected = [("openai", "sk-1", "acme", None), ("anthropic", "sk-2", "globex", None)]
    for source in (tmp_path / "keys.csv", tmp_path / "keys.json", f"sqlite:///{tmp_path}/old.db#llm keys"):
        assert [told(found) for found in await read(str(source), Reading())] == expected
    (tmp_path / ".env").write_text("export OPENAI_API_KEY='sk-$1'\n# a comment\nANTHROPIC_API_KEY=sk-2\n")
    assert [told(found)[:2] for found in await read(str(tmp_path / ".env"), Reading())] == [
        ("openai", "sk-$1"),
        ("anthropic", "sk-2"),
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [("keys.json", "{"), ("keys.json", '[1, "a"]'), ("keys.txt", ""), ("missing.csv", None), ("missing.env", None)],
)
async def test_what_cannot_be_read_is_told(tmp_path: Path, name: str, content: str | None) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(Unreadable, match=name):
        await read(str(tmp_path / name), Reading())


@pytest.mark.parametrize("sealed_with", [TODAY, BEFORE], ids=["today", "before"])
def test_a_key_sealed_with_any_of_the_fernet_keys_is_opened(sealed_with: bytes) -> None:
    row = {"provider": "openai", "encrypted_api_key": Fernet(sealed_with).encrypt(KEY.encode())}
    reading = Reading(fernet=fernet_of(SecretStr(f"{TODAY.decode()},{BEFORE.decode()}")))
    assert told(of_rows([row], reading, name="old")[0])[1] == KEY


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"provider": "openai"}, "no key"),
        ({"provider": "openai", "key": KEY, "is_active": False}, "inactive"),
        ({"provider": "cohere", "key": KEY}, "no provider"),
        ({"provider": "openai", "key": KEY, "base_url": "ftp://x"}, "base_url"),
        ({"provider": "openai", "key": Fernet(TODAY).encrypt(KEY.encode()).decode()}, "--fernet-key-env"),
    ],
)
def test_a_row_without_a_usable_key_says_why_and_not_the_key(row: Mapping[str, Any], why: str) -> None:
    (found,) = of_rows([row], Reading(), name="keys.csv")
    assert isinstance(found, Unusable)
    assert found.origin == "keys.csv 1"
    assert why in found.why
    assert KEY not in found.why


def test_a_fernet_key_that_is_none_or_another_is_told() -> None:
    with pytest.raises(Unreadable, match="base64"):
        fernet_of(SecretStr("not-a-key"))
    row = {"provider": "openai", "key": Fernet(TODAY).encrypt(KEY.encode())}
    (found,) = of_rows([row], Reading(fernet=fernet_of(SecretStr(BEFORE.decode()))), name="old")
    assert isinstance(found, Unusable)


def test_columns_may_be_named() -> None:
    row = {"vendor": "not it", "kind": "openai", "blob": KEY}
    reading = Reading(columns=columns_of(["provider=kind", "key=blob"]))
    assert told(of_rows([row], reading, name="old")[0])[:2] == ("openai", KEY)
    with pytest.raises(Unreadable, match="--column"):
        columns_of(["colour=blue"])


# Plans

ENDPOINTS = {
    "endpoints": [{"name": "eu", "base_url": "https://eu.example.com", "weight": 3}, {"name": "us", "weight": 1}]
}


def found(**fields: Any) -> FoundKey:
    return FoundKey("here", Provider.OPENAI, SecretStr(KEY), "acme", Endpoint.model_validate(fields))


def provider(config: Mapping[str, Any] | None = None, **keys: str) -> dict[str, Any]:
    shown = [{"name": name, "fingerprint": mark, "version": 1} for name, mark in ({"default": "0" * 8} | keys).items()]
    return {"id": "p", "config": config or {}, "keys": shown}


def weights(config: Mapping[str, Any]) -> dict[str, int]:
    return {endpoint.name: endpoint.weight for endpoint in ProviderConfig.model_validate(config).all_endpoints()}


@pytest.mark.parametrize(
    ("fields", "config"),
    [
        ({}, {}),
        ({"base_url": "https://e.com"}, {"base_url": "https://e.com"}),
        (
            {"base_url": "https://e.com", "api_version": "1"},
            {"endpoints": [{"base_url": "https://e.com", "api_version": "1"}]},
        ),
    ],
)
def test_a_tenant_without_the_provider_gets_it(fields: dict[str, str], config: dict[str, Any]) -> None:
    assert plan(found(**fields), None, Wish()) == Add(config)


@pytest.mark.parametrize("wish", [Wish(), Wish(share=10), Wish(replaces=True)])
def test_the_default_key_stays_what_it_is(wish: Wish) -> None:
    assert isinstance(plan(found(), provider(default=MARK), wish), Keep)


def test_beside_another_key_it_must_be_told_what_is_wanted() -> None:
    decided = plan(found(), provider(), Wish())
    assert isinstance(decided, Refuse)
    assert "--weight" in decided.why


@pytest.mark.parametrize(
    ("before", "share", "after"),
    [
        ({}, 10, {"default": 90, NAME: 10}),
        (ENDPOINTS, 20, {"eu": 60, "us": 20, NAME: 20}),
        (ENDPOINTS, 100, {"eu": 0, "us": 0, NAME: 100}),
        ({"endpoints": [{"name": "a"}, {"name": "b", "weight": 0}]}, 10, {"a": 90, "b": 0, NAME: 10}),
    ],
)
def test_a_share_is_taken_from_all_and_only_after_a_trial_without_traffic(
    before: dict[str, Any], share: int, after: dict[str, int]
) -> None:
    decided = plan(found(), provider(before), Wish(share=share))

    assert isinstance(decided, Join)
    assert decided.trial is not None
    assert decided.trial["api_keys"] == {NAME: KEY}
    assert weights(decided.trial["config"]) == weights(before) | {NAME: 0}
    assert decided.endpoint == NAME
    assert decided.undo == {"api_keys": {NAME: None}, "config": before}
    assert weights(decided.then["config"]) == after
    again = plan(found(), provider(decided.then["config"], **{NAME: MARK}), Wish(share=share))
    assert isinstance(again, Keep)


def test_a_share_is_raised_without_setting_the_key_again_and_may_come_back() -> None:
    config: Any = {}
    decided: Any = None
    for share, expected in ((10, 90), (50, 50), (100, 0), (50, 50)):
        keys = {NAME: MARK} if decided else {}
        decided = plan(found(), provider(config, **keys), Wish(share=share))
        assert isinstance(decided, Join)
        config = decided.then["config"]
        assert weights(config) == {"default": expected, NAME: share}
    assert decided.trial is None


def test_a_key_that_takes_the_others_place_is_tried_beside_it_first() -> None:
    decided = plan(found(), provider(ENDPOINTS), Wish(replaces=True))

    assert isinstance(decided, Join)
    assert decided.trial is not None
    assert weights(decided.trial["config"])[NAME] == 0
    assert decided.then == {"api_key": KEY, "api_keys": {NAME: None}, "config": ENDPOINTS}


def test_after_a_share_of_the_traffic_its_endpoint_goes_with_the_replacement() -> None:
    shared = plan(found(), provider(ENDPOINTS), Wish(share=100))
    assert isinstance(shared, Join)

    decided = plan(found(), provider(shared.then["config"], **{NAME: MARK}), Wish(replaces=True))

    assert isinstance(decided, Join)
    assert decided.trial is None
    assert weights(decided.then["config"]) == {"eu": 50, "us": 50}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({}, "https://eu.example.com"), ({"base_url": "https://other.example.com"}, "https://other.example.com")],
)
def test_a_key_is_used_where_its_source_says_or_where_the_others_are(fields: dict[str, str], expected: str) -> None:
    decided = plan(found(**fields), provider(ENDPOINTS), Wish(share=10))
    assert isinstance(decided, Join)
    assert decided.then["config"]["endpoints"][-1]["base_url"] == expected
