"""What agents and strangers may send, and how it is refused: by a ValidationError that names the place."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from contracts import events
from contracts.control import Cancel, Resume
from contracts.events import Delta, Failed
from contracts.providers import ProviderConfig
from contracts.requests import CompletionRequest
from contracts.rpc import CountTokens
from contracts.usage import Cost, Money, Usage, UsageRecord, plain_decimal
from contracts.wire import WireModel
from tests.contract.test_golden import compact

BASE: dict[str, Any] = {
    "id": "r1",
    "tenant": "acme",
    "agent": "a",
    "model": "openai/gpt-4o-mini",
    "messages": [{"role": "user", "content": "Hello"}],
}


def refusal(cls: type[WireModel], data: str | bytes) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        cls.model_validate_json(data, strict=True)
    return caught.value


def places(error: ValidationError) -> set[str]:
    return {".".join(str(part) for part in e["loc"]) for e in error.errors()}


def raw(field: str, json_text: str) -> str:
    """The base request with one field as JSON text, which json.dumps could not write."""
    return json.dumps({k: v for k, v in BASE.items() if k != field})[:-1] + f', "{field}": {json_text}}}'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"hello",
        b"{",
        b'{"id": "r1"',
        b"{'id': 'r1'}",
        b"\xff\xfe",
        b"\x00",
        b'{"id": "\xff"}',
        b'{"id": "\\ud800"}',
        b'{"id": "r1"} trailing',
        b"[" * 100_000,
        b'{"metadata":' + b'{"a":' * 1_000 + b"1" + b"}" * 1_001,
        b'{"seed": ' + b"9" * 5_000 + b"}",
    ],
)
@pytest.mark.parametrize("cls", [CompletionRequest, Cancel, Resume, CountTokens, UsageRecord])
def test_what_is_no_json_is_refused_as_such(cls: type[WireModel], data: bytes) -> None:
    assert {e["type"] for e in refusal(cls, data).errors()} == {"json_invalid"}


@pytest.mark.parametrize("data", ["null", "[]", '"r1"', "1", "true", "[{}]"])
@pytest.mark.parametrize("cls", [CompletionRequest, Cancel, Resume, CountTokens, UsageRecord])
def test_json_that_is_no_object_is_refused(cls: type[WireModel], data: str) -> None:
    assert {e["type"] for e in refusal(cls, data).errors()} == {"model_type"}


def test_missing_fields_are_named() -> None:
    assert places(refusal(CompletionRequest, "{}")) == {"id", "tenant", "agent", "model", "messages"}


def test_unknown_fields_are_named() -> None:
    wrong = {**BASE, "max_token": 5, "streem": True}
    assert places(refusal(CompletionRequest, json.dumps(wrong))) == {"max_token", "streem"}


WRONG_TYPES: list[tuple[str, Any]] = [
    ("id", 1),
    ("id", None),
    ("model", ["openai/gpt-4o"]),
    ("messages", {"role": "user", "content": "x"}),
    ("messages", "Hello"),
    ("stream", "true"),
    ("stream", 1),
    ("stream", None),
    ("max_tokens", "512"),
    ("max_tokens", 512.0),
    ("max_tokens", True),
    ("temperature", "0.2"),
    ("seed", 1.5),
    ("stop", 5),
    ("stop", {"a": "b"}),
    ("fallbacks", "anthropic/claude-sonnet-4-5"),
    ("fallbacks", None),
    ("deadline", 1_795_435_200),
    ("deadline", "tomorrow"),
    ("deadline", "2026-11-23T12:00:00"),
    ("deadline", "0001-01-01T00:00:00+14:00"),
    ("deadline", "9999-12-31T23:59:59-14:00"),
    ("metadata", [["run", "42"]]),
    ("metadata", None),
    ("provider_options", {"anthropic": 1}),
    ("parallel_tool_calls", "yes"),
]


@pytest.mark.parametrize(("field", "value"), WRONG_TYPES)
def test_a_wrong_type_is_refused_and_never_guessed(field: str, value: Any) -> None:
    assert {p.split(".")[0] for p in places(refusal(CompletionRequest, json.dumps({**BASE, field: value})))} == {field}


OUT_OF_RANGE: list[tuple[str, str]] = [
    ("max_tokens", "0"),
    ("max_tokens", "-1"),
    ("max_tokens", "10000001"),
    ("max_tokens", "1" + "0" * 40),
    ("max_tokens", "1e400"),
    ("temperature", "2.01"),
    ("temperature", "-0.1"),
    ("temperature", "NaN"),
    ("temperature", "Infinity"),
    ("temperature", "1e999"),
    ("top_p", "0"),
    ("top_p", "1.1"),
    ("seed", str(2**63)),
    ("seed", "-" + "9" * 100),
    ("metadata", '{"a": NaN}'),
    ("metadata", '{"a": [{"b": -Infinity}]}'),
    ("metadata", '{"a": 1e999}'),
    ("provider_options", '{"openai": {"logit_bias": {"5": NaN}}}'),
    ("tools", '[{"type": "function", "function": {"name": "f", "parameters": {"minimum": NaN}}}]'),
    ("response_format", '{"type": "json_schema", "json_schema": {"minimum": Infinity}}'),
    ("stop", json.dumps(["x"] * 17)),
    ("fallbacks", json.dumps(["openai/x"] * 17)),
    ("reasoning_effort", '"extreme"'),
    ("on_interrupt", '"retry"'),
    ("keep_s", "-1"),
    ("keep_s", "604801"),
    ("keep_s", "0.5"),
    ("keep_s", '"60"'),
    ("tool_choice", '"maybe"'),
    ("response_format", '{"type": "json_schema"}'),
    ("response_format", '{"type": "text", "json_schema": {}}'),
]


@pytest.mark.parametrize(("field", "text"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused(field: str, text: str) -> None:
    assert {p.split(".")[0] for p in places(refusal(CompletionRequest, raw(field, text)))} == {field}


BAD_TOKENS = [
    "",
    " ",
    "a b",
    "a.b",
    "*",
    ">",
    "a*",
    "acme\n",
    "\nacme",
    "ä",
    "a/b",
    "a\x00",
    "x" * 65,
    "$JS",
    "a\u200b",
]


@pytest.mark.parametrize("value", BAD_TOKENS)
@pytest.mark.parametrize("field", ["id", "tenant", "agent"])
def test_what_cannot_stand_in_a_subject_is_no_id_tenant_or_agent(field: str, value: str) -> None:
    assert places(refusal(CompletionRequest, json.dumps({**BASE, field: value}))) == {field}


@pytest.mark.parametrize("value", ["", " ", "openai/gpt 4", "openai/\n", "x\x7f", "m" * 257])
def test_a_model_name_has_no_blanks_and_an_end(value: str) -> None:
    assert places(refusal(CompletionRequest, json.dumps({**BASE, "model": value}))) == {"model"}


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"content": "x"},
        {"role": "robot", "content": "x"},
        {"role": None, "content": "x"},
        {"role": "user"},
        {"role": "user", "content": None},
        {"role": "user", "content": 5},
        {"role": "user", "content": [{"type": "text"}]},
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": "https://example.org/a.png"}]},
        {"role": "system", "content": [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]},
        {"role": "assistant", "content": [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]},
        {
            "role": "assistant",
            "tool_calls": [{"id": "", "type": "function", "function": {"name": "f", "arguments": ""}}],
        },
        {
            "role": "assistant",
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": {}}}],
        },
        {
            "role": "assistant",
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "", "arguments": ""}}],
        },
        {"role": "tool", "content": "x"},
    ],
)
def test_a_bad_message_is_refused_by_its_index(message: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": "x"}, message]
    found = places(refusal(CompletionRequest, json.dumps({**BASE, "messages": messages})))
    assert found
    assert all(place.startswith("messages.1") for place in found)


@pytest.mark.parametrize(("characters", "refused"), [(5000, False), (65536, False), (65537, True)])
def test_an_id_of_a_tool_call_has_room_for_what_a_gateway_keeps_in_it(characters: int, refused: bool) -> None:
    call = {"id": "i" * characters, "type": "function", "function": {"name": "f", "arguments": "{}"}}
    asking = {"role": "assistant", "tool_calls": [call]}
    answering = {"role": "tool", "tool_call_id": call["id"], "content": "x"}
    if refused:
        hello = {"role": "user", "content": "x"}
        for message, place in ((asking, "assistant.tool_calls.0.id"), (answering, "tool.tool_call_id")):
            request = json.dumps({**BASE, "messages": [hello, message]})
            assert places(refusal(CompletionRequest, request)) == {f"messages.1.{place}"}
    else:
        request = json.dumps({**BASE, "messages": [asking, answering]})
        assert CompletionRequest.model_validate_json(request).messages


def test_a_request_without_messages_is_refused() -> None:
    assert places(refusal(CompletionRequest, json.dumps({**BASE, "messages": []}))) == {"messages"}


@pytest.mark.parametrize(
    ("cls", "value", "place"),
    [
        (Cancel, {}, "request_id"),
        (Cancel, {"request_id": "a.b"}, "request_id"),
        (Cancel, {"request_id": ">"}, "request_id"),
        (Resume, {"request_id": "r1"}, "agent"),
        (Resume, {"request_id": "r1", "agent": "*"}, "agent"),
        (Resume, {"request_id": "r1", "agent": "a", "after": [1]}, "after"),
        (Resume, {"request_id": "r1", "agent": "a", "after": [1, 2, 3]}, "after"),
        (Resume, {"request_id": "r1", "agent": "a", "after": [-1, 0]}, "after"),
        (Resume, {"request_id": "r1", "agent": "a", "after": [1, -2]}, "after"),
        (Resume, {"request_id": "r1", "agent": "a", "after": ["1", 2]}, "after"),
        (Resume, {"request_id": "r1", "agent": "a", "after": None}, "after"),
        (CountTokens, {"model": "openai/gpt-4o"}, "messages"),
    ],
)
def test_a_bad_question_is_refused(cls: type[WireModel], value: dict[str, Any], place: str) -> None:
    assert {p.split(".")[0] for p in places(refusal(cls, json.dumps(value)))} == {place}


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b'{"type": "delta"}',
        b'{"type": "exploded", "request_id": "r1", "attempt": 1, "seq": 0}',
        b'{"type": "delta", "request_id": "r1", "attempt": 0, "seq": 0}',
        b'{"type": "delta", "request_id": "r1", "attempt": 1, "seq": -1}',
        b'{"type": "delta", "request_id": "a.b", "attempt": 1, "seq": 0}',
        b'{"type": "failed", "request_id": "r1", "attempt": 1, "seq": 0, "error": {"code": "new_code"}}',
    ],
)
def test_what_is_no_event_is_refused(data: bytes) -> None:
    with pytest.raises(ValidationError):
        events.parse(data)


def test_an_event_may_be_newer_than_its_reader_in_every_part() -> None:
    failed = json.loads(compact("event-failed"))
    failed["error"]["hint"] = failed["usage"]["audio_tokens"] = failed["cost"]["vat"] = "1"
    failed["attempts"][0]["region"] = "eu"
    assert events.parse(json.dumps(failed).encode()) == Failed.model_validate_json(compact("event-failed"))


@pytest.mark.parametrize(
    "amount", ["NaN", "Infinity", "-0.1", "1e999999999", "1e-999999999", "10000000000", "free", ""]
)
def test_money_is_a_bounded_amount(amount: str) -> None:
    assert places(refusal(Cost, json.dumps({"amount": amount}))) == {"amount"}


@given(st.decimals(min_value=0, max_value=Decimal(9999999999), places=18))
def test_money_crosses_the_wire_exactly_and_without_an_exponent(amount: Money) -> None:
    text = json.loads(Cost(amount=amount).to_json())["amount"]
    assert set(text) <= set("0123456789.")
    assert Decimal(text) == amount
    assert Cost.model_validate_json(json.dumps({"amount": text})).amount == amount


@pytest.mark.parametrize(
    ("amount", "text"), [("1E-7", "0.0000001"), ("1E+2", "100"), ("0E-20", "0"), ("0.10", "0.1"), ("100", "100")]
)
def test_decimals_are_written_plainly(amount: str, text: str) -> None:
    assert plain_decimal(Decimal(amount)) == text


@pytest.mark.parametrize("tokens", ["-1", "1.0", '"1"', "1e400", str(2**63), "true", "null"])
def test_token_counts_are_whole_and_bounded(tokens: str) -> None:
    assert places(refusal(Usage, f'{{"input_tokens": {tokens}}}')) == {"input_tokens"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", ""),
        ("id", "r1/1"),
        ("id", "a.b:1"),
        ("id", "r1:1\n"),
        ("tenant", "a.b"),
        ("outcome", "lost"),
        ("error_code", "new_code"),
        ("duration_s", -1),
        ("started_at", "2026-11-23T12:00:00"),
        ("cost", "-1"),
        ("price_source", "guess"),
    ],
)
def test_a_bad_usage_record_is_refused(field: str, value: Any) -> None:
    record = {**json.loads(compact("usage-record")), field: value}
    assert places(refusal(UsageRecord, json.dumps(record))) == {field}


@pytest.mark.parametrize(
    "config",
    [
        {"base_url": "ftp://example.org"},
        {"base_url": "https://"},
        {"base_url": "https://user:secret@example.org"},
        {"base_url": "https://example.org/?key=1"},
        {"base_url": "https://example.org/#a"},
        {"base_url": "https://exa mple.org"},
        {"base_url": "https://example.org:99999"},
        {"base_url": "https://example.org:0"},
        {"base_url": "https://999.1.1.1"},
        {"base_url": "https://example.org/\n"},
        {"base_url": "https://example.org", "endpoints": [{"name": "a"}]},
        {"endpoints": [{"name": "a"}, {"name": "a"}]},
        {"endpoints": [{"name": "a", "api_key": "sk-1"}]},
        {"endpoints": [{"name": "a", "weight": -1}]},
        {"endpoints": [{"name": "a", "auth": "none"}]},
        {"timeouts": {"idle_s": 0}},
        {"timeouts": {"total_s": 1e999}},
        {"max_concurrency": 0},
        {"models": ["a b"]},
        {"api_key": "sk-1"},
    ],
)
def test_a_bad_provider_config_is_refused(config: dict[str, Any]) -> None:
    refusal(ProviderConfig, json.dumps(config))


def test_an_event_cannot_be_changed() -> None:
    delta = Delta(request_id="r1", attempt=1, seq=0, text="a")
    with pytest.raises(ValidationError, match="frozen"):
        delta.text = "b"  # pyright: ignore[reportAttributeAccessIssue]
