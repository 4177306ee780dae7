"""That each vendor call is in the journal before it is made, and only then."""

import asyncio
from datetime import timedelta

from contracts.attempts import Begun, Unmade
from contracts.errors import InvalidRequest
from contracts.events import Cancelled, Failed
from runtime.jetstream.publishing import NotStored, Outrun
from tests.memory import ECHO, NOON, Message, ScriptedAdapter, Way, a_hold, begun
from workers.intake.delivery import Acked, GaveBack
from workers.providers.base import Call, Finish, Take
from workers.request.ending import UNCONFIRMED_S


class RefusesBeforeItSends(ScriptedAdapter):
    """Finds something wrong with the request before it asks the vendor, or does something else."""

    async def stream_completion(self, call: Call, take: Take) -> Finish:
        self.asked.append(call)
        self.before()
        await asyncio.sleep(0)
        raise InvalidRequest("it cannot be written down", provider=self.name)

    def before(self) -> None:
        return


async def test_a_call_is_written_down_before_its_agent_and_its_vendor_hear_of_it() -> None:
    way = Way()
    seen: list[tuple[int, int]] = []
    way.publisher.before_each = lambda message: seen.append((len(way.publisher.journal), len(way.adapter.asked)))

    assert await way.execution.run(way.delivery()) == Acked()

    (entry,) = way.publisher.entries()
    assert isinstance(entry, Begun)
    assert (entry.request_id, entry.attempt, entry.tenant, entry.agent) == ("r1", 1, "acme", "a")
    assert (entry.provider, entry.model, entry.endpoint, entry.worker) == ("mock", "echo", "default", "w1")
    assert (entry.request_seq, entry.started_at, entry.ends_by) == (7, NOON, NOON + timedelta(seconds=600))
    assert entry.input_tokens > 0
    assert way.publisher.kinds == ["started", "completed", "result", "usage"]
    assert [written for written, _ in seen] == [0, 1, 1, 1, 1], "the journal, and then what is said"


async def test_a_call_that_cannot_be_written_down_is_not_made() -> None:
    way = Way()
    way.publisher.refuses = {"attempt": NotStored("no")}

    assert await way.execution.run(way.delivery()) == GaveBack(UNCONFIRMED_S)

    assert way.publisher.kinds == []


async def test_of_two_workers_with_the_same_request_one_is_stopped_before_its_call() -> None:
    way = Way()
    way.publisher.journal = [Message("llm.v1.attempt.acme.a.r1", begun(1, seq=8).to_json())]

    assert await way.execution.run(way.delivery()) == GaveBack()

    assert way.publisher.kinds == []
    assert len(way.publisher.entries()) == 1, "the other one's"


async def test_what_was_stored_although_the_answer_was_lost_is_known_as_ones_own() -> None:
    way = Way()

    def store_it(message: Message) -> None:
        if message.kind == "attempt" and not way.publisher.journal:
            way.publisher.journal.append(message)
            way.publisher.before_each = lambda _: None
            raise Outrun("the second try")

    way.publisher.before_each = store_it

    assert await way.execution.run(way.delivery()) == Acked()

    assert way.publisher.kinds == ["started", "completed", "result", "usage"]


async def test_what_was_not_sent_is_no_attempt_and_has_no_cost() -> None:
    way = Way(RefusesBeforeItSends())

    assert await way.execution.run(way.delivery()) == Acked()

    assert way.publisher.kinds == ["failed", "result"]
    (failed,) = way.publisher.events()
    assert isinstance(failed, Failed)
    assert (failed.error.code, failed.usage.input_tokens) == ("invalid_request", 0)
    entry, unmade = way.publisher.entries()
    assert unmade == Unmade(id=entry.id)


async def test_a_cancel_that_comes_before_the_call_was_sent_costs_nothing() -> None:
    adapter = RefusesBeforeItSends()
    way = Way(adapter)
    adapter.before = lambda: way.cancellations.cancel("acme", "r1")

    await way.execution.run(way.delivery())

    assert way.publisher.kinds == ["cancelled", "result"]
    (cancelled,) = way.publisher.events()
    assert isinstance(cancelled, Cancelled)
    assert cancelled.usage.input_tokens == 0
    assert way.publisher.records() == []


async def test_a_deadline_that_passes_while_a_request_waits_for_its_budget_costs_nothing() -> None:
    way = Way()

    async def slowly(*_: object, **__: object) -> None:
        way.clock.passed_s += 700

    way.budgets.reserve = slowly  # pyright: ignore[reportAttributeAccessIssue] - as slow as it may be

    assert await way.execution.run(way.delivery()) == Acked()

    assert way.publisher.kinds == ["failed", "result"]
    (failed,) = way.publisher.events()
    assert isinstance(failed, Failed)
    assert failed.error.code == "deadline_exceeded"
    assert (way.publisher.records(), way.publisher.entries()) == ([], [])


async def test_a_request_that_was_handed_over_goes_on_in_the_journal_where_the_pool_before_stopped() -> None:
    way = Way()
    way.publisher.journal = [Message("llm.v1.attempt.acme.a.r1", begun(1, seq=3, provider="openai").to_json())]
    job = way.job(journal_seq=1)
    job.events.continue_after(1)
    await way.handovers.publish(job, ECHO)
    message = way.publisher.messages.pop()

    assert await way.execution.run(way.delivery(message.payload, headers=dict(message.headers))) == Acked()

    assert way.publisher.kinds == ["started", "completed", "result", "usage"]
    assert [entry.attempt for entry in way.publisher.entries() if isinstance(entry, Begun)] == [1, 2]


async def test_what_was_kept_free_for_a_call_that_was_not_sent_is_given_back() -> None:
    way = Way(RefusesBeforeItSends())
    way.budgets.answer = a_hold()

    await way.execution.run(way.delivery())

    assert way.budgets.released == [a_hold().hold]
    assert way.budgets.owed == []


async def test_a_deadline_that_passes_while_a_call_is_written_down_makes_it_none() -> None:
    way = Way()

    def slowly(message: Message) -> None:
        if message.kind == "attempt":
            way.clock.passed_s += 700

    way.publisher.before_each = slowly

    assert await way.execution.run(way.delivery()) == Acked()

    assert way.publisher.kinds == ["failed", "result"]
    assert way.publisher.records() == []
    assert [entry.type for entry in way.publisher.entries()] == ["begun", "unmade"]
