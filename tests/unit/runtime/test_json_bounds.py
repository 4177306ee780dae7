"""How many values a JSON text may hold."""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
from pydantic import ValidationError

from contracts.requests import MAX_REQUEST_BYTES, CompletionRequest
from contracts.wire import errors_in_one_line
from runtime import json_bounds, lenient_json
from runtime.json_bounds import MOST_VALUES, TooManyValues

BODY: dict[str, Any] = {
    "id": "r1",
    "tenant": "t",
    "agent": "a",
    "model": "mock/echo",
    "messages": [{"role": "user", "content": "Hi"}],
}
MANY = MOST_VALUES * 2


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({f"x{number}": 1 for number in range(MANY)}).encode(),
        json.dumps([1] * MANY).encode(),
        json.dumps([[]] * MANY).encode(),
        json.dumps([""] * MANY).encode(),
        json.dumps({"a\\": ["\\"] * MANY}).encode(),
        json.dumps({f"\\{number}\\": "\\" for number in range(MANY)}).encode(),
        b"[" * MANY,
        b'{"a":' * MANY,
        b'{"a":{},"a":{},' * MANY,
        json.dumps([1] * MANY).encode("utf-16"),
    ],
    ids=["members", "numbers", "lists", "texts", "backslashes", "names", "depth", "objects", "same name", "utf-16"],
)
def test_more_values_than_that_are_refused(text: bytes) -> None:
    with pytest.raises(TooManyValues, match=f"more than {MOST_VALUES} values"):
        json_bounds.check(text)


@pytest.mark.parametrize("end", [b"", b"\\", b'\\"', b"]"])
def test_a_text_that_never_ends_is_read_once(end: bytes) -> None:
    """1 MB of quotes took hours when each was taken for the beginning of another text."""
    begun = time.process_time()
    with suppress(TooManyValues):
        json_bounds.check(b'{"a":[' + b"," * (MOST_VALUES + 1) + b'"' + b'\\"' * 500_000 + end)
    assert time.process_time() - begun < 10


@pytest.mark.parametrize("written", ["1,2,3,", '"', '",', "[{", "\\", '\\",', "\\\\[", "é,", "\n,"])
def test_a_text_may_hold_anything_and_be_as_long_as_a_request(written: str) -> None:
    content = written * (MAX_REQUEST_BYTES // 2 // len(json.dumps(written)))

    json_bounds.check(json.dumps({**BODY, "messages": [{"role": "user", "content": content}]}).encode())


def test_exactly_so_many_values_are_taken() -> None:
    json_bounds.check(json.dumps([1] * MOST_VALUES).encode())


@pytest.mark.parametrize(
    "more",
    [
        {f"x{number}": 1 for number in range(MANY)},
        {"metadata": {"a": [1] * MANY}},
        {"messages": [{"role": "user", "content": ""}] * MANY},
    ],
    ids=["unknown fields", "metadata", "messages"],
)
def test_a_request_of_too_many_values_is_not_valid_and_nothing_is_made_of_it(more: Mapping[str, Any]) -> None:
    data = json.dumps({**BODY, **more}).encode()

    with pytest.raises(ValidationError) as raised:
        lenient_json.parse(CompletionRequest, data)

    assert errors_in_one_line(raised.value) == f"it has more than {MOST_VALUES} values"
    assert lenient_json.told(data, ("id", "agent")) == {"id": "r1", "agent": "a"}, "it can still be answered"
