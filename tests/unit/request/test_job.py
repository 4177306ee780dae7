"""What a worker says of a request that is not valid."""

import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from contracts.errors import MalformedRequest
from contracts.subjects import Priority
from workers.intake.delivery import Delivery
from workers.intake.lease import Leases
from workers.request.job import parse_request


def refusal(**fields: Any) -> str:
    body = {"id": "r1", "tenant": "acme", "agent": "a", "model": "mock/echo", "messages": [{"role": "user"}], **fields}
    delivery = Delivery(
        subject="llm.v1.request.mock.interactive.acme",
        data=json.dumps(body).encode(),
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
    with pytest.raises(MalformedRequest) as caught:
        parse_request(delivery)
    return caught.value.message


HI = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("unknown", "says"),
    [
        (1, "the request is not valid: f0: Extra inputs are not permitted"),
        (7, "; f4: Extra inputs are not permitted; and 2 more"),
        (100_000, "the request is not valid: it has 100000 problems, too many to name them"),
    ],
)
def test_the_first_problems_are_named_and_the_others_counted(unknown: int, says: str) -> None:
    message = refusal(messages=HI, **{f"f{number}": 0 for number in range(unknown)})

    assert message.endswith(says)
    assert len(message) < 500


@pytest.mark.parametrize("before", [0, 1])
def test_of_a_list_the_first_bad_item_is_told(before: int) -> None:
    message = refusal(messages=[*HI * before, *[{"role": "tool", "content": "x"}] * 100_000, *HI])

    assert message == f"the request is not valid: messages.{before}.tool.tool_call_id: Field required"


def test_a_request_without_messages_is_told_so() -> None:
    assert refusal(messages=[]) == "the request is not valid: messages: there must be at least one"
