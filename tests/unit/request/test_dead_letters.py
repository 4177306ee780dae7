"""Whom to tell about a request that cannot be read."""

import json
import time
from datetime import UTC, datetime

import pytest

from contracts.control import MSG_ID
from contracts.subjects import Priority
from workers.intake.delivery import Delivery
from workers.intake.lease import Leases
from workers.request.dead_letters import reply_address


def delivery(data: bytes, *, msg_id: str | None = None) -> Delivery:
    return Delivery(
        subject="llm.v1.request.mock.interactive.acme",
        data=data,
        headers={MSG_ID: msg_id} if msg_id else {},
        ack_subject="",
        deliveries=1,
        queued_at=datetime.now(UTC),
        priority=Priority.INTERACTIVE,
        stream_seq=1,
        ids_known=True,
        may_be_again=False,
        lease=Leases(time.monotonic).grant(),
    )


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
