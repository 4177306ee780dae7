"""Every wire type, read from a file and written back byte for byte: a change of the wire shows here first."""

import importlib
import json
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

import contracts
from contracts import attempts, budget, control, errors, events, health, notices, providers, requests, rpc, usage
from contracts.wire import StrictWireModel, WireModel

GOLDEN = Path(__file__).parent / "golden"

TYPES: dict[str, type[WireModel]] = {
    "request": requests.CompletionRequest,
    "request-with-defaults": requests.CompletionRequest,
    "event-started": events.Started,
    "event-delta-text": events.Delta,
    "event-delta-tool-calls": events.Delta,
    "event-delta-refusal": events.Delta,
    "event-retrying": events.Retrying,
    "event-completed": events.Completed,
    "event-completed-unpriced": events.Completed,
    "event-failed": events.Failed,
    "event-cancelled": events.Cancelled,
    "error": errors.Error,
    "error-without-options": errors.Error,
    "cancel": control.Cancel,
    "resume": control.Resume,
    "resume-from-the-start": control.Resume,
    "handover": control.Handover,
    "attempt-begun": attempts.Begun,
    "attempt-unmade": attempts.Unmade,
    "rpc-count-tokens": rpc.CountTokens,
    "rpc-count-tokens-answer": rpc.TokenCount,
    "rpc-estimate-cost": rpc.EstimateCost,
    "rpc-estimate-cost-answer": rpc.CostEstimate,
    "rpc-models-answer": rpc.Models,
    "rpc-health": rpc.HealthCheck,
    "rpc-health-answer": rpc.Health,
    "rpc-refusal": rpc.Refusal,
    "usage-record": usage.UsageRecord,
    "usage-record-abandoned": usage.UsageRecord,
    "kv-provider": providers.PublishedProvider,
    "kv-provider-single-url": providers.PublishedProvider,
    "kv-tenant": providers.PublishedTenant,
    "kv-worker": providers.WorkerPresence,
    "kv-circuit": health.OpenCircuit,
    "kv-circuit-of-model": health.OpenCircuit,
    "kv-hold": budget.Hold,
    "notice-alert": notices.AlertNotice,
    "notice-alert-resolved": notices.AlertNotice,
    "notice-config": notices.ConfigNotice,
    "notice-test": notices.TrialNotice,
    "sealed-key": providers.SealedKey,
}

EVENTS = [name for name in TYPES if name.startswith("event-")]
ABSTRACT = {WireModel, StrictWireModel, events.EventBase, notices.CloudEvent, providers.TokenPrices, usage.TokenCounts}
NEVER_WRITTEN = {providers.EntraCredentials}
"""It holds a secret; admins write it, we only read it."""


def compact(name: str) -> bytes:
    """The golden file without its line breaks and indentation."""
    value = json.loads((GOLDEN / f"{name}.json").read_text())
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def wire_types() -> set[type[WireModel]]:
    for module in pkgutil.iter_modules(contracts.__path__):
        importlib.import_module(f"contracts.{module.name}")
    return {cls for cls in _subclasses(WireModel) if cls.__module__.startswith("contracts.")} - ABSTRACT - NEVER_WRITTEN


def _subclasses(root: type[WireModel]) -> Iterator[type[WireModel]]:
    for cls in root.__subclasses__():
        yield cls
        yield from _subclasses(cls)


def _models_within(value: object) -> Iterator[BaseModel]:
    match value:
        case BaseModel():
            yield value
            for name in type(value).model_fields:
                yield from _models_within(getattr(value, name))
        case dict():
            for member in value.values():  # pyright: ignore[reportUnknownVariableType]
                yield from _models_within(member)  # pyright: ignore[reportUnknownArgumentType]
        case tuple():
            for item in value:  # pyright: ignore[reportUnknownVariableType]
                yield from _models_within(item)  # pyright: ignore[reportUnknownArgumentType]
        case _:
            pass


@pytest.mark.parametrize("name", TYPES)
def test_is_written_back_byte_for_byte(name: str) -> None:
    assert TYPES[name].model_validate_json(compact(name), strict=True).to_json() == compact(name)


def test_every_file_has_a_type() -> None:
    assert sorted(path.stem for path in GOLDEN.glob("*.json")) == sorted(TYPES)


def test_every_wire_type_is_in_a_file() -> None:
    seen = {
        type(model) for name, cls in TYPES.items() for model in _models_within(cls.model_validate_json(compact(name)))
    }
    assert wire_types() - seen == set()


def test_every_field_of_a_wire_type_has_a_value_in_some_file() -> None:
    """A field that no file fills could change its form unseen."""
    filled = {
        f"{type(model).__name__}.{field}"
        for name, cls in TYPES.items()
        for model in _models_within(cls.model_validate_json(compact(name)))
        for field in type(model).model_fields
        if getattr(model, field) not in (None, (), {})
    }
    fields = {f"{cls.__name__}.{field}" for cls in wire_types() for field in cls.model_fields}
    assert fields - filled == set()


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_is_told_by_its_type(name: str) -> None:
    assert type(events.parse(compact(name))) is TYPES[name]


@pytest.mark.parametrize("name", [name for name in TYPES if not issubclass(TYPES[name], StrictWireModel)])
def test_a_reader_ignores_what_a_later_version_adds(name: str) -> None:
    later = json.dumps({**json.loads(compact(name)), "added_in_2031": {"a": [1]}})
    assert TYPES[name].model_validate_json(later).to_json() == compact(name)


@pytest.mark.parametrize("name", [name for name in TYPES if issubclass(TYPES[name], StrictWireModel)])
def test_what_others_write_for_us_may_hold_no_unknown_field(name: str) -> None:
    wrong = json.dumps({**json.loads(compact(name)), "temprature": 1, "max_token": 2})
    with pytest.raises(ValidationError) as caught:
        TYPES[name].model_validate_json(wrong, strict=True)
    assert {error["loc"] for error in caught.value.errors()} == {("temprature",), ("max_token",)}


def image(url: str) -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": url}}


def test_a_request_needs_five_fields_only() -> None:
    full = json.loads(compact("request-with-defaults"))
    least = {name: full[name] for name in ("id", "tenant", "agent", "model", "messages")}
    read = requests.CompletionRequest.model_validate_json(json.dumps(least), strict=True)
    assert read.to_json() == compact("request-with-defaults")


@pytest.mark.parametrize(
    ("fields", "read"),
    [
        ({"stop": "END"}, {"stop": ["END"]}),
        ({"stop": ["", "END"]}, {"stop": ["END"]}),
        ({"stop": []}, {}),
        ({"stop": ""}, {}),
        ({"deadline": "2026-11-23T13:00:00+01:00"}, {"deadline": "2026-11-23T12:00:00Z"}),
        ({"deadline": None, "seed": None, "stop": None}, {}),
        (
            {
                "messages": [
                    {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
                ]
            },
            {"messages": [{"role": "assistant", "content": "ab"}]},
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}]},
            {"messages": [{"role": "assistant", "content": "No."}]},
        ),
        (
            {"messages": [{"role": "user", "content": [image("DATA:IMAGE/PNG;base64,QQ==")]}]},
            {"messages": [{"role": "user", "content": [image("data:image/png;base64,QQ==")]}]},
        ),
        (
            {"messages": [{"role": "user", "content": [image("HTTPS://Example.org/A.png")]}]},
            {"messages": [{"role": "user", "content": [image("https://Example.org/A.png")]}]},
        ),
        (
            {"messages": [{"role": "user", "content": "x", "cache_control": {"type": "ephemeral"}}]},
            {"messages": [{"role": "user", "content": "x"}]},
        ),
    ],
)
def test_other_spellings_of_openai_are_read(fields: dict[str, object], read: dict[str, object]) -> None:
    least = json.loads(compact("request-with-defaults"))
    request = requests.CompletionRequest.model_validate_json(json.dumps(least | fields), strict=True)
    assert json.loads(request.to_json()) == least | read
