"""What the client makes of arguments that no request can hold: an error of the fleet, never a library's own."""

from typing import Any

import pytest

from contracts.errors import MalformedRequest
from fleet.client import Client

HALF = "cut \ud83d"
CLIENT = Client(tenant="t", agent="a")


def nested(depth: int) -> dict[str, Any]:
    inner: dict[str, Any] = {}
    for _ in range(depth):
        inner = {"a": inner}
    return inner


def looped() -> dict[str, Any]:
    loop: dict[str, Any] = {}
    loop["a"] = loop
    return loop


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": {"a": b"x"}},
        {"metadata": {"a": {1}}},
        {"metadata": {"a": object()}},
        {"metadata": {"a": float("nan")}},
        {"metadata": nested(400)},
        {"metadata": looped()},
        {"messages": 5},
        {"messages": None},
        {"messages": [object()]},
        {"messages": [{"role": "user", "content": b"\xff"}]},
        {"model": None},
        {"id": "a b"},
        {"id": HALF},
        {"shouting": True},
        {"tenant": "another"},
        {"priority": "batch"},
        {"deadline_s": float("inf")},
        {"deadline_s": float("nan")},
        {"deadline_s": "soon"},
    ],
)
def test_what_is_no_request_is_malformed(fields: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"model": "mock/echo", "messages": "Hi", **fields}

    with pytest.raises(MalformedRequest):
        CLIENT.stream(**arguments)


@pytest.mark.parametrize("named", [{"tenant": "a.b"}, {"tenant": ""}, {"tenant": "t", "agent": "*"}, {"tenant": 5}])
def test_a_name_that_cannot_stand_in_a_subject_is_malformed(named: dict[str, Any]) -> None:
    with pytest.raises(MalformedRequest):
        Client(**named)


@pytest.mark.parametrize("option", ["allow_reconnect", "error_cb", "make", "prepare", "reconnected_cb"])
def test_an_option_that_the_client_needs_for_itself_is_malformed(option: str) -> None:
    arguments: dict[str, Any] = {"tenant": "t", option: None}

    with pytest.raises(MalformedRequest, match=option):
        Client(**arguments)


@pytest.mark.parametrize("request_id", ["a.b", HALF, "", 5])
async def test_an_id_that_cannot_stand_in_a_subject_is_malformed(request_id: Any) -> None:
    with pytest.raises(MalformedRequest):
        await CLIENT.cancel(request_id)
    with pytest.raises(MalformedRequest):
        await anext(CLIENT.resume(request_id))


@pytest.mark.parametrize("where", [{"after": ("x", 1)}, {"after": (1, -2)}, {"deadline_s": float("inf")}])
async def test_a_position_that_no_event_can_have_is_malformed(where: dict[str, Any]) -> None:
    with pytest.raises(MalformedRequest):
        await anext(CLIENT.resume("r1", **where))
