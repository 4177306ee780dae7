"""One request from its delivery to its ack, with a scripted vendor, a JetStream that is a list, and a driven clock."""

import logging
from datetime import timedelta
from typing import Any

import nats.errors
import pytest

from contracts.control import HANDOVER, MSG_ID, Handover
from contracts.errors import (
    AuthenticationFailed,
    BudgetExceeded,
    ContextLengthExceeded,
    Overloaded,
    StreamInterrupted,
)
from contracts.events import Completed, Delta, Failed, Started
from contracts.providers import Limits, PublishedTenant
from runtime.jetstream.publishing import NotStored, TooLarge
from tests.memory import (
    ECHO,
    FINISH,
    NOON,
    USAGE,
    ScriptedAdapter,
    Way,
    a_hold,
    request,
)
from workers import telemetry
from workers.intake.delivery import Acked, GaveBack, NotAcked, Terminated
from workers.providers.base import Chunk
from workers.quotas.rate_limits import Count, Limit, Span, Unit, in_force, window
from workers.request.ending import UNCONFIRMED_S
from workers.request.policy import MAX_ATTEMPTS, MAX_TRIES_PER_ENDPOINT

HELLO = [Chunk(text="Hel"), Chunk(text="lo"), FINISH]


def way(*calls: Any, **fields: Any) -> Way:
    return Way(ScriptedAdapter(*calls or (HELLO,)), **fields)


async def test_a_stream_completes_in_the_order_event_record_ack() -> None:
    one = way()

    assert await one.execution.run(one.delivery(request(stream=True).to_json())) == Acked()

    assert one.publisher.kinds == ["started", "delta", "delta", "completed", "result", "usage"]
    started, *deltas, completed = one.publisher.events()
    assert isinstance(started, Started)
    assert (started.provider, started.endpoint, started.model, started.worker) == ("mock", "default", "echo", "w1")
    assert "".join(delta.text or "" for delta in deltas if isinstance(delta, Delta)) == "Hello"
    assert isinstance(completed, Completed)
    assert (completed.message.content, completed.finish_reason, completed.usage) == ("Hello", "stop", USAGE)
    (record,) = one.publisher.records()
    (entry,) = one.publisher.entries()
    assert (record.id, record.outcome, record.provider_id, record.usage) == (
        entry.id,
        "completed",
        "id-of-mock",
        USAGE,
    )


async def test_what_is_not_streamed_arrives_whole() -> None:
    one = way()

    assert await one.execution.run(one.delivery()) == Acked()

    assert one.publisher.kinds == ["started", "completed", "result", "usage"]


async def test_one_line_tells_that_a_request_ended(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    one = way()
    before = telemetry.REQUESTS.labels("mock", "completed", "")._value.get()  # pyright: ignore[reportPrivateUsage]

    await one.execution.run(one.delivery())

    (line,) = [record for record in caplog.records if record.levelno >= logging.INFO]
    assert line.message == "request_ended"
    assert {"request_id": "r1", "outcome": "completed", "attempts": 1}.items() <= line.__dict__.items()
    assert telemetry.REQUESTS.labels("mock", "completed", "")._value.get() == before + 1  # pyright: ignore[reportPrivateUsage]


async def test_a_failed_call_is_booked_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    one = way([Overloaded("full", retry_after_s=3.0, provider="mock")], HELLO)
    before = telemetry.DECISIONS.labels("RetryHere")._value.get()  # pyright: ignore[reportPrivateUsage]

    assert await one.execution.run(one.delivery()) == Acked()

    assert one.publisher.kinds == ["started", "usage", "retrying", "started", "completed", "result", "usage"]
    assert [(event.attempt, event.seq) for event in one.publisher.events()] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert [(record.attempt, record.outcome) for record in one.publisher.records()] == [(1, "failed"), (2, "completed")]
    assert [record.id for record in one.publisher.records()] == [entry.id for entry in one.publisher.entries()]
    assert one.clock.passed_s >= 3.0
    (line,) = [record for record in caplog.records if record.message == "attempt_failed"]
    assert {"attempt": 1, "code": "overloaded", "then": "RetryHere"}.items() <= line.__dict__.items()
    assert telemetry.DECISIONS.labels("RetryHere")._value.get() == before + 1  # pyright: ignore[reportPrivateUsage]


async def test_fails_with_every_attempt_and_the_sum_of_their_bills_when_the_tries_are_used_up() -> None:
    one = way([Chunk(text="Hel"), StreamInterrupted("cut", provider="mock")])

    assert await one.execution.run(one.delivery()) == Acked()

    failed = one.publisher.events()[-1]
    assert isinstance(failed, Failed)
    assert failed.error.code == "stream_interrupted"
    assert [attempt.error.code for attempt in failed.attempts] == ["stream_interrupted"] * MAX_TRIES_PER_ENDPOINT
    assert failed.usage.output_tokens == sum(record.usage.output_tokens for record in one.publisher.records()) > 0


async def test_an_agent_that_wants_no_second_stream_gets_none_after_output() -> None:
    one = way([Chunk(text="Hel"), StreamInterrupted("cut", provider="mock")])

    await one.execution.run(one.delivery(request(stream=True, on_interrupt="fail").to_json()))

    failed = one.publisher.events()[-1]
    assert isinstance(failed, Failed)
    assert failed.error.message == "the stream broke after output was sent: cut"
    assert len(one.adapter.asked) == 1


async def test_a_fallback_of_another_provider_is_handed_over_after_what_failed_is_booked() -> None:
    one = way([ContextLengthExceeded("too long", provider="mock")], providers=("mock", "openai"))

    ack = await one.execution.run(one.delivery(request(fallbacks=("openai/gpt-4o",)).to_json()))

    assert ack == Acked()
    assert one.publisher.kinds == ["started", "usage", "retrying", "request"]
    moved = one.publisher.messages[-1]
    assert moved.subject == "llm.v1.request.openai.interactive.acme"
    assert "r1" not in moved.headers[MSG_ID], "nobody can take it beforehand"
    assert '"vendor_calls": 1' in moved.headers[HANDOVER]


async def test_the_pool_without_an_adapter_hands_over() -> None:
    one = way(pool="auto")
    auto = one.delivery(subject="llm.v1.request.auto.interactive.acme")

    assert await one.execution.run(auto) == Acked()

    assert one.publisher.kinds == ["request"]


async def test_a_request_that_was_handed_over_again_and_again_fails() -> None:
    one = way(pool="auto")
    told = Handover(model="mock/echo", queued_at=NOON, hops=MAX_ATTEMPTS - 1)
    await one.handovers.publish(one.job(handover=told), ECHO)
    auto = one.delivery(
        subject="llm.v1.request.mock.interactive.acme", headers=dict(one.publisher.messages.pop().headers)
    )

    assert await one.execution.run(auto) == Acked()

    assert one.publisher.kinds == ["failed", "result"]
    (failed,) = one.publisher.events()
    assert isinstance(failed, Failed)
    assert failed.error.message == f"the request was handed over {MAX_ATTEMPTS} times and found no provider"


async def test_the_next_pool_goes_on_with_the_attempts_and_the_bill_of_the_first_and_counts_no_second_request() -> None:
    first = way([Overloaded("full", provider="openai")], pool="openai", providers=("openai", "mock"))
    asked = request(model="openai/gpt-4o", fallbacks=("mock/echo",)).to_json()
    await first.execution.run(first.delivery(asked))
    moved = first.publisher.messages[-1]
    second = way(providers=("mock",))
    second.configuration.tenants["acme"] = PublishedTenant(slug="acme", limits=Limits(requests_per_day=1))

    ack = await second.execution.run(second.delivery(moved.payload, headers=dict(moved.headers)))

    assert ack == Acked()
    assert second.publisher.kinds == ["started", "completed", "result", "usage"], (
        "no counter was asked, and none answers here"
    )
    assert {event.attempt for event in second.publisher.events()} == {MAX_TRIES_PER_ENDPOINT + 1}


async def test_a_cancel_in_mid_stream_ends_and_books_the_call() -> None:
    one = way()
    one.adapter.play([Chunk(text="Hel"), lambda: one.cancellations.cancel("acme", "r1"), *HELLO])

    assert await one.execution.run(one.delivery()) == Acked()

    assert one.publisher.kinds == ["started", "cancelled", "result", "usage"]
    assert [record.outcome for record in one.publisher.records()] == ["cancelled"]


async def test_a_cancel_before_the_first_call_costs_nothing() -> None:
    one = way()
    one.stored_cancels.append("r1")

    assert await one.execution.run(one.delivery()) == Acked()

    assert one.publisher.kinds == ["cancelled", "result"]


async def test_a_cancel_while_it_waits_for_a_retry_makes_no_second_call() -> None:
    one = way([Overloaded("full", provider="mock")])
    one.clock.at_sleep = lambda: one.cancellations.cancel("acme", "r1")

    assert await one.execution.run(one.delivery()) == Acked()

    assert one.publisher.kinds == ["started", "usage", "retrying", "cancelled", "result"]


async def test_what_a_worker_breaks_off_because_it_stops_is_booked_and_given_back() -> None:
    one = way()
    one.adapter.play([Chunk(text="Hel"), one.cancellations.interrupt_all, *HELLO])

    assert await one.execution.run(one.delivery()) == GaveBack()

    assert one.publisher.kinds == ["started", "usage", "retrying"]
    (record,) = one.publisher.records()
    assert (record.outcome, record.error_code) == ("failed", "stream_interrupted")


async def test_no_call_is_made_after_the_deadline() -> None:
    one = way()
    late = one.delivery(request(deadline=NOON - timedelta(seconds=1)).to_json())

    assert await one.execution.run(late) == Acked()

    assert [(type(event), event.error.code) for event in one.publisher.events() if isinstance(event, Failed)] == [
        (Failed, "deadline_exceeded")
    ]
    assert one.adapter.asked == []


async def test_the_deadline_also_ends_a_row_of_retries() -> None:
    one = way([Overloaded("full", retry_after_s=50.0, provider="mock")])
    asked = one.delivery(request(deadline=NOON + timedelta(seconds=90)).to_json())

    await one.execution.run(asked)

    assert len(one.adapter.asked) == 2
    assert one.publisher.kinds[-2:] == ["failed", "result"]


async def test_a_refused_budget_fails_without_a_call() -> None:
    one = way()
    one.budgets.answer = BudgetExceeded("used up")

    assert await one.execution.run(one.delivery()) == Acked()

    assert one.publisher.kinds == ["failed"], "a flood of refusals costs the disk nothing"
    assert one.adapter.asked == []


async def test_what_was_kept_free_is_settled_with_the_record() -> None:
    one = way()
    one.budgets.answer = kept = a_hold()

    await one.execution.run(one.delivery())

    assert (one.budgets.settled, one.budgets.released, one.budgets.owed) == ([kept], [], [])


async def test_what_was_kept_free_is_given_back_when_no_call_is_made() -> None:
    one = way(config={"endpoints": [{"name": "e", "key": "a-key-that-nobody-set"}]})
    one.budgets.answer = a_hold()

    await one.execution.run(one.delivery())

    assert one.adapter.asked == []
    assert one.publisher.kinds[-2:] == ["failed", "result"]
    assert len(one.budgets.released) == MAX_TRIES_PER_ENDPOINT
    assert (one.budgets.settled, one.budgets.owed) == ([], [])


async def test_what_is_still_kept_free_after_a_bug_is_owed() -> None:
    one = way()
    one.budgets.answer = kept = a_hold()
    one.publisher.refuses = {"completed": ZeroDivisionError("a bug")}

    assert await one.execution.run(one.delivery()) == Acked()

    assert one.publisher.kinds == ["started", "failed", "result"]
    assert one.budgets.owed == [kept.hold]


async def test_a_bug_after_the_end_is_the_pullers_to_see() -> None:
    one = way()
    one.publisher.refuses = {"usage": ZeroDivisionError("a bug")}

    with pytest.raises(ZeroDivisionError):
        await one.execution.run(one.delivery())

    assert one.publisher.kinds == ["started", "completed", "result"]


async def test_nats_that_does_not_confirm_a_record_gets_the_request_back_a_while_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    one = way()
    one.publisher.refuses = {"usage": NotStored("usage: not confirmed after 20 tries")}

    assert await one.execution.run(one.delivery()) == GaveBack(UNCONFIRMED_S)

    assert one.publisher.kinds == ["started", "completed", "result"]
    (line,) = [record for record in caplog.records if record.message == "request_given_back"]
    assert line.__dict__["error"] == "usage: not confirmed after 20 tries"


async def test_a_failed_call_whose_record_is_not_confirmed_is_not_called_retrying() -> None:
    one = way([Overloaded("full", provider="mock")])
    one.publisher.refuses = {"usage": NotStored("no")}

    assert await one.execution.run(one.delivery()) == GaveBack(UNCONFIRMED_S)

    assert one.publisher.kinds == ["started"]


async def test_a_tenant_whose_waiting_requests_hold_their_slots_gets_the_next_one_back() -> None:
    one = way([Overloaded("full", retry_after_s=5.0, provider="mock")], places=0)

    match await one.execution.run(one.delivery()):
        case GaveBack(delay_s):
            assert 5.0 <= delay_s <= 10.0
        case other:
            raise AssertionError(f"{other} is not given back")


async def test_a_worker_that_lost_its_lease_begins_no_call() -> None:
    one = way()
    delivery = one.delivery()
    one.leases.lose()

    assert await one.execution.run(delivery) == NotAcked()

    assert one.publisher.messages == []


async def test_a_worker_that_loses_its_lease_in_mid_stream_says_to_its_end_what_it_is_saying() -> None:
    one = way()
    one.adapter.play([Chunk(text="Hello"), one.leases.lose, FINISH])

    assert await one.execution.run(one.delivery()) == NotAcked()

    assert one.publisher.kinds == ["started", "completed", "result", "usage"]


async def test_what_is_no_request_is_kept_and_its_agent_is_told() -> None:
    one = way()

    assert await one.execution.run(one.delivery(b'{"id": "r1", "agent": "a"}')) == Terminated()

    assert one.publisher.kinds == ["dead", "failed"]
    assert one.publisher.messages[0].payload == b'{"id": "r1", "agent": "a"}'


async def test_what_is_no_request_and_names_no_agent_is_kept() -> None:
    one = way()

    assert await one.execution.run(one.delivery(b"x")) == Terminated()

    assert one.publisher.kinds == ["dead"]


async def test_what_is_no_request_comes_again_until_it_is_kept() -> None:
    one = way()
    one.publisher.refuses = {"dead": NotStored("no")}

    assert await one.execution.run(one.delivery(b"x")) == GaveBack(UNCONFIRMED_S)

    assert one.publisher.messages == []


async def test_an_answer_that_no_event_can_hold_is_booked_and_fails() -> None:
    one = way()
    one.publisher.refuses = {"completed": TooLarge("completed")}

    assert await one.execution.run(one.delivery()) == Acked()

    assert one.publisher.kinds == ["started", "usage", "failed", "result"]
    failed = one.publisher.events()[-1]
    assert isinstance(failed, Failed)
    assert (failed.error.code, failed.usage) == ("invalid_request", USAGE)


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_is_broken_off_where_it_becomes_too_large(stream: bool) -> None:
    one = way([Chunk(text="x" * 2000), FINISH])

    await one.execution.run(one.delivery(request(stream=stream).to_json()))

    failed = one.publisher.events()[-1]
    assert isinstance(failed, Failed)
    assert failed.error.code == "invalid_request"


async def test_a_bug_of_an_adapter_fails_the_call_and_is_booked() -> None:
    one = way([Chunk(text="Hel"), ZeroDivisionError("a bug")])

    assert await one.execution.run(one.delivery()) == Acked()

    assert one.publisher.kinds == ["started", "usage", "failed", "result"]
    failed = one.publisher.events()[-1]
    assert isinstance(failed, Failed)
    assert failed.error.code == "internal"


async def test_a_vendor_that_ends_without_its_end_marker_fails_the_call() -> None:
    one = way([Chunk(text="Hel")])

    await one.execution.run(one.delivery())

    assert one.publisher.kinds == ["started", "usage", "failed", "result"]


async def test_a_bug_before_the_end_fails_the_request() -> None:
    one = way()
    one.publisher.refuses = {"started": ZeroDivisionError("a bug")}

    assert await one.execution.run(one.delivery()) == Acked()

    assert one.publisher.kinds == ["failed", "result"]


async def test_a_request_is_looked_for_once_it_was_given_before() -> None:
    one = way()
    one.unanswered = nats.errors.TimeoutError()

    assert await one.execution.run(one.delivery()) == Acked(), "nobody had it"
    assert await one.execution.run(one.delivery(deliveries=2)) == GaveBack(1.0)


async def test_an_unknown_tenant_fails() -> None:
    one = way()
    one.configuration.tenants.clear()

    await one.execution.run(one.delivery())

    failed = one.publisher.events()[-1]
    assert isinstance(failed, Failed)
    assert failed.error.code == "unknown_tenant"


async def test_events_that_a_broken_connection_may_have_lost_are_published_again_before_the_ack() -> None:
    one = way()

    def reconnect() -> None:
        one.reconnects += 1

    one.adapter.play([Chunk(text="Hello"), reconnect, FINISH])
    await one.execution.run(one.delivery())

    assert one.publisher.kinds == ["started", "completed", "result", "usage", "started", "completed"]


async def test_a_refused_key_is_read_anew_once_and_fails_when_it_is_the_same() -> None:
    one = way([AuthenticationFailed("401", provider="mock")])

    await one.execution.run(one.delivery())

    assert len(one.adapter.asked) == 1
    assert one.publisher.kinds[-2:] == ["failed", "result"]


async def test_a_flood_beyond_a_limit_is_refused_unread() -> None:
    one = way()
    tenant = PublishedTenant(slug="acme", limits=Limits(requests_per_day=1, requests_per_minute=1))
    one.configuration.tenants["acme"] = tenant
    minute = in_force(tenant.limits, Limits())[0]
    one.limiter._used_up["acme"] = Count(minute, window(minute.span, one.clock.now()), 2)  # pyright: ignore[reportPrivateUsage]
    not_json = b'{"id": "r9", "agent": "a", "messages": ['

    assert await one.execution.run(one.delivery(not_json)) == Terminated()

    (failed,) = one.publisher.events()
    assert isinstance(failed, Failed)
    assert (failed.request_id, failed.error.code) == ("r9", "tenant_rate_limited")
    assert one.publisher.kinds == ["failed"], "it is not kept either"


async def test_what_was_counted_before_is_read_although_its_tenant_has_used_up_a_limit_since() -> None:
    one = way()
    minute = Limit(Unit.REQUESTS, Span.MINUTE, 1)
    one.limiter._used_up["acme"] = Count(minute, window(minute.span, one.clock.now()), 2)  # pyright: ignore[reportPrivateUsage]

    assert await one.execution.run(one.delivery(deliveries=2)) == Acked()
    lifted = one.delivery(request(id="r2").to_json(), headers={MSG_ID: "r2"}, stream_seq=8)
    one.publisher.journal.clear()
    assert await one.execution.run(lifted) == Acked(), "the limit was lifted"
    assert not one.limiter.has_refused("acme")


async def test_a_request_that_may_not_wait_fails_unread_and_can_be_sent_again() -> None:
    one = way()
    refused = telemetry.REFUSALS.labels("queued_bytes")._value.get()  # pyright: ignore[reportPrivateUsage] - it has no public one

    assert await one.execution.refuse_to_wait(one.delivery()) == Terminated()

    (failed,) = one.publisher.events()
    assert isinstance(failed, Failed)
    assert (failed.request_id, failed.error.code, failed.error.retryable) == ("r1", "queue_full", True)
    assert telemetry.REFUSALS.labels("queued_bytes")._value.get() == refused + 1  # pyright: ignore[reportPrivateUsage]


async def test_what_another_pool_has_handed_over_may_wait_and_what_an_agent_says_so_may_not() -> None:
    one = way()
    await one.handovers.publish(one.job(), ECHO)
    message = one.publisher.messages.pop()
    headers = dict(message.headers)

    assert await one.execution.refuse_to_wait(one.delivery(message.payload, headers=headers)) is None
    assert one.publisher.messages == []
    forged = one.delivery(message.payload + b" ", headers=headers)
    assert await one.execution.refuse_to_wait(forged) == Terminated()
