"""What a pool is told by the one before it, and what an agent may have written in its place."""

import json
from typing import Any

import pytest

from contracts import subjects
from contracts.control import HANDOVER, MSG_TTL, Handover
from contracts.errors import MalformedRequest, Overloaded
from contracts.events import FailedAttempt
from tests.driven_clock import NOON
from tests.memory import ECHO, Way
from workers.endpoints.names import Candidate
from workers.intake.delivery import Delivery
from workers.request import handover, parsing

ADDRESS = subjects.parse_request("llm.v1.request.mock.interactive.acme")


def delivery(told: object) -> Delivery:
    return Way().delivery(headers={HANDOVER: json.dumps(told)})


def told(**fields: Any) -> dict[str, Any]:
    return {"model": "mock/echo", "queued_at": "2026-11-23T11:59:00Z", **fields}


def test_a_request_of_an_agent_has_none() -> None:
    assert parsing.parse(Way().delivery()).handover is None


def test_what_the_pool_before_told_is_taken_over() -> None:
    assert handover.parse(delivery(told(attempt=3, vendor_calls=2)), ADDRESS) == Handover.model_validate(
        told(attempt=3, vendor_calls=2)
    )


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({}, "is not valid"),
        ([], "is not valid"),
        (told(attempt=0), "is not valid"),
        (told(hops=65), "is not valid"),
        (told(model="openai/gpt-4o"), "names another provider than the subject"),
        (told(model="echo"), "names another provider than the subject"),
    ],
)
def test_what_no_pool_would_tell_is_malformed(header: object, says: str) -> None:
    with pytest.raises(MalformedRequest, match=f"{says}.*; agents do not set it"):
        handover.parse(delivery(header), ADDRESS)


def test_leads_to_no_pool_that_is_not_there() -> None:
    parsed = handover.parse(delivery(told(remaining=["openai/gpt-4o", "nobody/x", "x"])), ADDRESS)

    assert parsed.remaining == ("openai/gpt-4o",)


def test_leads_not_into_the_future() -> None:
    parsed = handover.parse(delivery(told(queued_at="2999-01-01T00:00:00Z")), ADDRESS)

    assert parsed.queued_at == NOON


async def test_what_one_pool_publishes_another_one_reads() -> None:
    way = Way()
    job = way.job(candidates=[Candidate("google", "g")], left_out=["the fallback x was left out"], vendor_calls=2)
    long = Overloaded("x" * 1000).to_wire()
    job.history.append(FailedAttempt(provider="openai", model="m", error=long))

    await way.handovers.publish(job, Candidate("mock", "echo"))

    (message,) = way.publisher.messages
    parsed = handover.parse(way.delivery(headers=dict(message.headers)), ADDRESS)
    assert (parsed.model, parsed.remaining, parsed.attempt, parsed.hops) == ("mock/echo", ("google/g",), 1, 1)
    assert (parsed.left_out, parsed.vendor_calls) == (("the fallback x was left out",), 2)
    assert len(parsed.history[0].error.message) == 300
    assert int(message.headers[MSG_TTL]) == 660, "ten minutes are left, and a minute to say that they are over"


async def test_only_a_worker_can_prove_that_it_handed_a_request_over() -> None:
    way = Way()
    await way.handovers.publish(way.job(), ECHO)
    (message,) = way.publisher.messages
    proven = handover.parse(way.delivery(headers=dict(message.headers)), ADDRESS)

    assert way.handovers.is_proven(way.job(), proven)
    assert not way.handovers.is_proven(way.job(), proven.model_copy(update={"proof": None}))
    assert not way.handovers.is_proven(way.job(), proven.model_copy(update={"proof": "fleet1.0.x"}))
