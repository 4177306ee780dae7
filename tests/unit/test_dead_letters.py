"""Whom to tell about a request that cannot be read."""

import json
import time
from datetime import UTC, datetime

import pytest

from contracts.subjects import Priority
from workers.dead_letters import reply_address
from workers.intake import Delivery
from workers.lease import Leases


def delivery(data: bytes) -> Delivery:
    return Delivery(
        subject="llm.v1.request.mock.interactive.acme",
        data=data,
        headers={},
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
