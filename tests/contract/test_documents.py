"""The generated documents: current, true to the golden files, and whole."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from admin_api import openapi
from contracts import asyncapi, notices, schemas, subjects
from contracts.examples import EXAMPLES
from contracts.subjects import Priority, RpcMethod
from contracts.wire import StrictWireModel
from tests.contract.test_golden import TYPES, compact

DOCS = Path(__file__).parents[2] / "docs"
SCHEMAS = DOCS / "schemas"
NAMES = {model: name for name, model in schemas.WIRE_TYPES.items()}


# Made for the first test that asks: every process of pytest collects this module, and one of them runs it.
documents = cache(schemas.documents)
asyncapi_document = cache(asyncapi.document)


def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(documents()[name], format_checker=FormatChecker())


def test_the_asyncapi_document_is_current() -> None:
    assert (DOCS / "asyncapi.json").read_text() == schemas.text(asyncapi_document()), "write it anew: make docs"


def test_the_openapi_document_is_current() -> None:
    assert (DOCS / "openapi.json").read_text() == schemas.text(openapi.document()), "write it anew: make docs"


def test_the_openapi_document_has_every_call_of_the_contract() -> None:
    """Those of docs/contract.md, which names each with its method."""
    calls = {(method.upper(), path) for path, methods in openapi.document()["paths"].items() for method in methods}
    promised = set(re.findall(r"(?m)^\| `(GET|POST|PUT|DELETE) (/\S*)`", (DOCS / "contract.md").read_text()))
    assert promised == calls


def test_the_schemas_are_current() -> None:
    kept = {path.stem: path.read_text() for path in SCHEMAS.glob("*.json")}
    assert kept == {name: schemas.text(schema) for name, schema in documents().items()}, "write them anew: make docs"


@pytest.mark.parametrize("name", sorted(path.stem for path in SCHEMAS.glob("*.json")))
def test_a_schema_is_a_schema(name: str) -> None:
    Draft202012Validator.check_schema(documents()[name])


@pytest.mark.parametrize("name", TYPES)
def test_a_golden_file_fits_its_schema(name: str) -> None:
    validator(NAMES[TYPES[name]]).validate(json.loads(compact(name)))
    if name.startswith("event-"):
        validator("event").validate(json.loads(compact(name)))


@pytest.mark.parametrize("name", TYPES)
def test_a_schema_demands_what_is_always_there(name: str) -> None:
    """Of what we write, each field that never vanishes; of what others write, each without a default."""
    model = TYPES[name]
    required = set(documents()[NAMES[model]].get("required", []))
    if issubclass(model, StrictWireModel):
        assert required == {field for field, about in model.model_fields.items() if about.is_required()}
    else:
        assert required == {field for field, about in model.model_fields.items() if about.exclude_if is None}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("request", {"id": "r1", "tenant": "acme", "agent": "a", "model": "m", "messages": [], "streem": True}),
        ("request", {"id": "r1", "tenant": "acme", "agent": "a", "model": "m", "messages": [{"content": "no role"}]}),
        ("request", {"id": "r.1", "tenant": "acme", "agent": "a", "model": "m", "messages": []}),
        ("cancel", {"request_id": ">"}),
        ("resume", {"request_id": "r1", "agent": "a", "after": [1]}),
        ("event", {"request_id": "r1", "attempt": 1, "seq": 0, "text": "no type"}),
        ("usage-record", {"id": "r1"}),
    ],
)
def test_a_schema_refuses_what_the_fleet_refuses(name: str, value: dict[str, Any]) -> None:
    assert not validator(name).is_valid(value)


@pytest.mark.parametrize("model", EXAMPLES, ids=lambda model: model.__name__)
def test_an_example_fits_its_schema(model: Any) -> None:
    validator(NAMES[model]).validate(json.loads(EXAMPLES[model].to_json()))


def test_every_json_message_has_an_example() -> None:
    assert [name for name, m in asyncapi.MESSAGES.items() if m.payload and m.payload not in EXAMPLES] == []


def test_every_message_is_in_a_channel_and_every_channel_in_an_operation() -> None:
    carried = {name for channel in asyncapi.CHANNELS.values() for name in channel.messages}
    assert carried == set(asyncapi.MESSAGES)
    assert {operation.channel for operation in asyncapi.OPERATIONS.values()} == set(asyncapi.CHANNELS) - {"inbox"}


def test_what_one_side_sends_the_other_receives() -> None:
    fleet_sends = {o.channel for o in asyncapi.OPERATIONS.values() if o.role != "agent" and o.action == "send"}
    fleet_receives = {o.channel for o in asyncapi.OPERATIONS.values() if o.role != "agent" and o.action == "receive"}
    for operation in asyncapi.OPERATIONS.values():
        if operation.role == "agent":
            assert operation.channel in (fleet_receives if operation.action == "send" else fleet_sends)


def test_every_reference_leads_somewhere() -> None:
    def check(node: Any) -> None:
        match node:
            case {"$ref": str(ref)}:
                target: Any = asyncapi_document()
                for step in ref.removeprefix("#/").split("/"):
                    target = target[step]
            case dict():
                for child in node.values():  # pyright: ignore[reportUnknownVariableType]
                    check(child)
            case list():
                for child in node:  # pyright: ignore[reportUnknownVariableType]
                    check(child)
            case _:
                pass

    check(asyncapi_document())


@pytest.mark.parametrize(
    ("channel", "built"),
    [
        ("requests", subjects.request("openai", Priority.INTERACTIVE, "acme")),
        ("replies", subjects.reply("acme", "a1", "r1")),
        ("cancel", subjects.cancel("acme")),
        ("resume", subjects.resume("acme")),
        ("countTokens", subjects.rpc("openai", RpcMethod.COUNT_TOKENS, "acme")),
        ("models", subjects.rpc("openai", RpcMethod.MODELS, "acme")),
        ("health", subjects.rpc("openai", RpcMethod.HEALTH, "acme")),
        ("estimateCost", subjects.rpc("openai", RpcMethod.ESTIMATE_COST, "acme")),
        ("usage", subjects.usage("openai", "acme")),
        ("deadLetters", subjects.dead("openai", "acme")),
        ("notices", notices.subject_of("daily_cost", "acme")),
        ("tenants", f"$KV.llm_config.{subjects.config_key_of_tenant('acme')}"),
        ("providers", f"$KV.llm_config.{subjects.config_key_of_provider('acme', 'openai')}"),
    ],
)
def test_an_address_is_the_subject_that_is_built(channel: str, built: str) -> None:
    filled = {
        "provider": "openai",
        "kind": "daily_cost",
        "priority": "interactive",
        "tenant": "acme",
        "agent": "a1",
        "request_id": "r1",
    }
    assert asyncapi_document()["channels"][channel]["address"].format(**filled) == built
