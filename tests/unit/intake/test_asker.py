"""Who asks, read without parsing what is asked."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.intake.asker import who_asks

LONG = [{"role": "user", "content": "x" * 100_000}]
LARGEST = 8 * 1024 * 1024


def asked(data: bytes | dict[str, Any], msg_id: str = "") -> tuple[str, str] | None:
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    return who_asks(body, {"Nats-Msg-Id": msg_id} if msg_id else {}, tenant="acme")


@pytest.mark.parametrize(
    "body",
    [
        {"id": "r1", "tenant": "acme", "agent": "a", "messages": LONG},
        {"stream": True, "temperature": 0.5, "seed": -1, "agent": "a", "id": "r1", "messages": LONG, "tools": []},
        {"messages": LONG, "tenant": "acme", "agent": "a", "id": "r1"},
        {"id": "r1", "messages": LONG, "agent": "a"},
        {"agent": "a", "messages": [{"agent": "evil", "id": "r9"}], "id": "r1"},
        {"messages": [{"content": '], "agent": "evil", "id": "r9"}'}], "agent": "a", "id": "r1"},
    ],
)
def test_the_fields_are_found_before_or_after_what_is_long(body: dict[str, Any]) -> None:
    assert asked(body) == ("a", "r1")
    assert asked(json.dumps(body, indent=2).encode()) == ("a", "r1")


@pytest.mark.parametrize(
    "body",
    [
        {"messages": LONG, "agent": "a", "id": "r1", "tools": [1]},
        {"messages": [{"agent": "evil", "id": "r9"}]},
        {"text": '], "agent": "evil", "id": "r9"'},
        {"text": '","agent": "evil", "id": "r9"}'},
        {"text": '],","agent":"evil","id":"r9'},
        {"agent": "not a token", "id": "r1"},
        {"agent": 7, "id": "r1"},
    ],
)
def test_what_stands_elsewhere_is_not_taken_for_it(body: dict[str, Any]) -> None:
    assert asked(body) is None
    assert asked(json.dumps(body, separators=(",", ":")).encode()) is None


@pytest.mark.parametrize(
    ("msg_id", "who"),
    [
        ("acme.a.r1", ("a", "r1")),
        ("globex.a.r1", None),
        ("r1", None),
        ("acme.a", None),
        ("acme..r1", None),
        ("acme.a.r1.x", None),
        ("acme.a.*", None),
    ],
)
def test_the_message_id_tells_where_the_body_does_not(msg_id: str, who: tuple[str, str] | None) -> None:
    assert asked({"messages": LONG, "agent": "a", "id": "r1", "tools": [1]}, msg_id) == who
    assert asked({"id": "r2", "agent": "b"}, msg_id) == ("b", "r2"), "the body is what will be answered"


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b"nonsense", b'"{}"', b"\xff\xfe{", b'{"agent'])
def test_what_is_no_object_says_nothing(data: bytes) -> None:
    assert asked(data) is None


@pytest.mark.parametrize(
    "unit", [b'{"a":', b"[", b'"', b"\\", b",", b"}", b'},"a":1', b" ", b'"a":1,', b"\x00", b'","']
)
@pytest.mark.parametrize("start", [b"", b'{"a":1,', b'{"'])
def test_the_largest_body_takes_no_time_whatever_it_is(unit: bytes, start: bytes) -> None:
    data = start + unit * (LARGEST // len(unit)) + b"}"
    cpu = time.process_time()
    for _ in range(100):
        asked(data)

    assert time.process_time() - cpu < 1.0, "some milliseconds each, at most"


names = st.text('agent,":]}id\\', max_size=6)
values = st.recursive(
    st.text('",:[]{}\\ agentid', max_size=12) | st.integers(0, 9) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
bodies = st.dictionaries(st.sampled_from(["agent", "id", "m", '"', "],"]), values, max_size=5)


@given(body=bodies, dense=st.booleans())
def test_what_it_finds_is_what_a_parser_finds(body: dict[str, Any], *, dense: bool) -> None:
    found = asked(json.dumps(body, separators=(",", ":") if dense else None).encode())

    assert found is None or found == (body["agent"], body["id"])
