"""What agents send that is not quite JSON: mended, or at least searched for whose it is."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from contracts.requests import CompletionRequest
from runtime import lenient_json

BODY: dict[str, Any] = {
    "id": "r1",
    "tenant": "t",
    "agent": "a",
    "model": "mock/echo",
    "messages": [{"role": "user", "content": "Hi"}],
}
HALF, MENDED = "cut \ud83d", "cut \ufffd"
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": HALF}}


def written(**changes: Any) -> bytes:
    return json.dumps({**BODY, **changes}).encode()


@pytest.mark.parametrize(
    "change",
    [
        {"messages": [{"role": "user", "content": HALF}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": HALF}]}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [CALL]}]},
        {"messages": [{"role": "tool", "tool_call_id": "c1", "content": HALF}]},
        {"tools": [{"type": "function", "function": {"name": "f", "description": HALF, "parameters": {"d": HALF}}}]},
        {"metadata": {"run": HALF, HALF: [HALF]}},
        {"provider_options": {"mock": {"text": HALF}}},
        {"stop": [HALF]},
        {"fallbacks": ["mock/\ud83d"]},
    ],
)
def test_half_a_character_is_replaced_wherever_it_stands(change: dict[str, Any]) -> None:
    request, body = lenient_json.parse(CompletionRequest, written(**change))

    whole = json.loads(json.dumps(change).replace("\\ud83d", "\\ufffd"))
    assert request == CompletionRequest.model_validate({**BODY, **whole})
    assert json.loads(body) == {**BODY, **whole}
    assert CompletionRequest.model_validate_json(body, strict=True) == request, "the next pool reads it, too"


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        (r"\ud83d", "\ufffd"),
        (r"\uDE00", "\ufffd"),
        (r"\ude00\ud83d", "\ufffd\ufffd"),
        (r"\ud83d\ud83d\ude00", "\ufffd😀"),
        (r"\ud83d and \ud83d\ude00", "\ufffd and 😀"),
        (r"\\ud83d \ud83d", "\\ud83d \ufffd"),
        (r"\u0000\ud83d", "\x00\ufffd"),
    ],
)
def test_pairs_and_what_only_looks_like_a_half_stay(escaped: str, text: str) -> None:
    request, _ = lenient_json.parse(CompletionRequest, written().replace(b"Hi", escaped.encode()))

    assert request.messages[0].content == text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xef\xbb\xbf" + written(), "Hi"),
        (written().decode().encode("utf-16"), "Hi"),
        (written().replace(b"Hi", b"caf\xe9"), "caf\ufffd"),
        (written().replace(b"Hi", "cut 😀".encode()[:-1]), "cut \ufffd"),
    ],
    ids=["a byte order mark", "UTF-16", "Latin-1 in a text", "bytes cut within a character"],
)
def test_bytes_that_mean_something_plain_are_read(data: bytes, text: str) -> None:
    request, body = lenient_json.parse(CompletionRequest, data)

    assert request.messages[0].content == text
    assert CompletionRequest.model_validate_json(body, strict=True) == request


def test_what_strict_readers_take_is_left_as_it_is() -> None:
    data = json.dumps(BODY, indent=2).encode()

    assert lenient_json.parse(CompletionRequest, data)[1] is data


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (written()[:-1], "Invalid JSON"),
        (written()[:-1] + b",}", "Invalid JSON"),
        (written().replace(b"Hi", b"H\ni"), "Invalid JSON"),
        (str(BODY).encode(), "Invalid JSON"),
        (b"[" * 10_000, "Invalid JSON"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"", "Invalid JSON"),
        (written(messages=[{"role": "user", "content": HALF}], temperature=float("nan")), "finite"),
        (written(messages=[{"role": "user", "content": HALF}], shouting=True), "shouting"),
        (written(id=HALF), "id"),
    ],
)
def test_what_is_wrong_beside_that_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        lenient_json.parse(CompletionRequest, data)


MANY = [{}] * 1_000_000


@pytest.mark.parametrize(
    "change",
    [
        {"messages": MANY},
        {"messages": [{"role": "user", "content": MANY}]},
        {"messages": [{"role": "system", "content": MANY}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": MANY}]},
        {"messages": [{"role": "tool", "tool_call_id": "c1", "content": MANY}]},
        {"tools": MANY},
        {"stop": MANY},
        {"fallbacks": MANY},
    ],
    ids=["messages", "parts", "texts", "calls", "results", "tools", "stops", "fallbacks"],
)
def test_a_list_is_refused_for_its_first_bad_item(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        lenient_json.parse(CompletionRequest, written(**change))

    assert caught.value.error_count() <= 2


BOTH = {"id": "r1", "agent": "a"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"id": "r1", "agent": "a", "messages": [{"content": "cut of', BOTH),
        ('{"id": "r1", "agent": "a", "stop": [".",],}', BOTH),
        ('{"id": "r1", "agent": "a", "temperature": NaN, "seed": 0x10}', BOTH),
        ("{'id': 'r1', 'agent': 'a', 'stream': True}", BOTH),
        ('{"messages": [{"content": "say \\"agent\\": \\"b\\""}], "id": "r1", "agent" :\n"a" oops', BOTH),
        ('{"metadata": {"id": "other", "agent": "other"}, "id": "r1", "agent": "a"', BOTH),
        ('{"id": "r1", "agent": "a"} {"id": "r2", "agent": "b"}', BOTH),
        ('{"id": "r0", "id": "r1", "agent": "a",}', BOTH),
        ('\ufeff{"id": "r1", "agent": "a",}', BOTH),
        ('{id: "r1", agent : "a", metadata: {agent: "b"}}', BOTH),
        ('{/* whose: */ "id": "r1", "agent": "a"}', BOTH),
        ('{"id": "r1", "agent": "plan', {"id": "r1"}),
        ('{"id": "r1", "agent": null, "model": "agent"', {"id": "r1"}),
        ('{"agent": {"agent": "b"}, "id": "r1"', {"id": "r1"}),
        ('{"metadata": {"id": "other", "agent": "other"}, "messages": [', {}),
        ('[{"id": "r1", "agent": "a"}', {}),
        ('"id": "r1", "agent": "a"', {}),
        ("", {}),
    ],
)
def test_names_are_found_in_what_is_no_json(text: str, found: dict[str, str]) -> None:
    assert lenient_json.top_level_texts(text.encode(), ("id", "agent")) == found


@pytest.mark.parametrize("piece", [b"[],", b'"",', b"0,", b"a ", "\u00e9,".encode()])
def test_no_more_is_read_for_a_name_than_takes_a_moment(piece: bytes) -> None:
    hostile = b'{"x": [' + piece * 200_000 + b'], "id": "r1"'

    assert lenient_json.top_level_texts(hostile, ("id",)) == {}


@pytest.mark.parametrize("between", [b" ", b",", b":", b"\n", b"\\", b"-"])
def test_what_lies_between_pieces_is_passed_over_however_long_it_is(between: bytes) -> None:
    assert lenient_json.top_level_texts(b"{" + between * 2**20 + b'"id": "r1"', ("id",)) == {"id": "r1"}


@pytest.mark.parametrize(
    "text",
    [b"a" * 2**20, b"a " * 2**19, b"a" + b" " * 2**20, b"$" * 2**20],
    ids=["one name", "names", "blanks", "signs"],
)
def test_text_without_quotes_is_read_once(text: bytes) -> None:
    assert lenient_json.top_level_texts(b"{" + text, ("id",)) == {}


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b'{"id": 7, "agent": "a", "model": "m"}', {"id": 7, "agent": "a"}),
        (json.dumps('{"id": "r1", "agent": "a"}').encode(), BOTH),
        (json.dumps('{"id": "r1", "agent": "a",').encode(), {}),
        (b'{"id": "r1", "agent": "a",}', BOTH),
        (b'[{"id": "r1"}]', {}),
        (b"", {}),
    ],
)
def test_what_an_object_says_is_told_as_far_as_it_can_be_read(data: bytes, told: dict[str, Any]) -> None:
    assert lenient_json.told(data, ("id", "agent")) == told
