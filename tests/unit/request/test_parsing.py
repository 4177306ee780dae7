"""What a worker reads of a request, and what it says of one that is not valid."""

import json
from typing import Any

import pytest

from contracts.control import MSG_ID
from contracts.errors import MalformedRequest
from tests.memory import Way
from workers.intake.delivery import Delivery
from workers.request.parsing import parse, reply_address, who_asks


def delivery(data: bytes, *, msg_id: str | None = None) -> Delivery:
    return Way().delivery(data, headers={MSG_ID: msg_id} if msg_id else {})


def refusal(**fields: Any) -> str:
    body = {"id": "r1", "tenant": "acme", "agent": "a", "model": "mock/echo", "messages": [{"role": "user"}], **fields}
    with pytest.raises(MalformedRequest) as caught:
        parse(delivery(json.dumps(body).encode()), Way().handovers)
    return caught.value.message


HI = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("unknown", "says"),
    [
        (1, "the request is not valid: f0: Extra inputs are not permitted"),
        (7, "; f4: Extra inputs are not permitted; and 2 more"),
        (20_000, "the request is not valid: it has 20000 problems, too many to name them"),
        (100_000, "the request is not valid: it has more than 50000 values"),
    ],
)
def test_the_first_problems_are_named_and_the_others_counted(unknown: int, says: str) -> None:
    message = refusal(messages=HI, **{f"f{number}": 0 for number in range(unknown)})

    assert message.endswith(says)
    assert len(message) < 500


@pytest.mark.parametrize("before", [0, 1])
def test_of_a_list_the_first_bad_item_is_told(before: int) -> None:
    message = refusal(messages=[*HI * before, *[{"role": "tool", "content": "x"}] * 10_000, *HI])

    assert message == f"the request is not valid: messages.{before}.tool.tool_call_id: Field required"


def test_a_request_without_messages_is_told_so() -> None:
    assert refusal(messages=[]) == "the request is not valid: messages: there must be at least one"


def test_who_asks_is_known_without_parsing() -> None:
    long = json.dumps({"id": "r1", "agent": "a", "messages": HI * 100_000}).encode()

    assert who_asks(delivery(long)) == ("a", "r1")
    assert who_asks(delivery(b"{", msg_id="acme.a.r1")) == ("a", "r1")
    assert who_asks(delivery(b"{", msg_id="globex.a.r1")) is None


def test_agent_and_id_are_enough() -> None:
    assert reply_address(delivery(b'{"agent": "a", "id": "r1", "nonsense": 1}')) == ("a", "r1")


@pytest.mark.parametrize("bad", ["", "a b", "a.b", "*", ">", "r1\n", "x" * 65, None, 1])
@pytest.mark.parametrize("field", ["agent", "id"])
def test_what_cannot_stand_in_a_subject_is_no_address(field: str, bad: object) -> None:
    body = {"agent": "a", "id": "r1", field: bad}
    assert reply_address(delivery(json.dumps(body).encode())) is None


@pytest.mark.parametrize(
    "data",
    [
        b'{"agent": "a", "id": "r1", "messages": [',
        b'{"id": "r1", "agent": "a",}',
        b"{'agent': 'a', 'id': 'r1'}",
        b'{agent: "a", id: "r1"}',
        b'"{\\"agent\\": \\"a\\", \\"id\\": \\"r1\\"}"',
    ],
)
def test_what_is_no_json_has_an_address_where_it_can_be_read(data: bytes) -> None:
    assert reply_address(delivery(data)) == ("a", "r1")


@pytest.mark.parametrize("data", [b'{"agent": "a"}', b'{"agent": "a", "id": 7}', b'{"agent": "a", "messages": ['])
def test_the_message_id_stands_for_an_id_that_cannot_be_read(data: bytes) -> None:
    assert reply_address(delivery(data, msg_id="r1")) == ("a", "r1")
    assert reply_address(delivery(data, msg_id="replay:7")) is None


@pytest.mark.parametrize("data", [b'{"metadata": {"agent": "b", "id": "r2"}, "messages": [', b'[{"agent": "b"}]', b"x"])
def test_nobody_is_told_whom_only_something_nested_names(data: bytes) -> None:
    assert reply_address(delivery(data, msg_id="r1")) is None
