"""From a candidate to the right to call one of its endpoints."""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import pytest

from contracts.errors import DeadlineExceeded, ErrorCode, Overloaded, RateLimited, UnknownModel
from contracts.providers import Endpoint, ProviderConfig, PublishedProvider
from contracts.subjects import Provider
from tests.bucket import Bucket
from tests.driven_clock import DrivenClock
from workers.endpoints.admission import Busy, CallPermit, CandidateTries, EndpointGate, worth_waiting_for
from workers.endpoints.circuit import MAX_FAILURES, OPEN_FIRST_S
from workers.endpoints.circuit_breaker import BreakerToken, CircuitBreaker, OutOfService
from workers.endpoints.concurrency import ConcurrencyLimit, ConcurrencySlot
from workers.endpoints.keys import KeyStore
from workers.endpoints.load_balancing import LoadBalancer
from workers.endpoints.names import Candidate, CircuitId, EndpointId
from workers.intake.waiting_room import WaitingRoom
from workers.interruption import Interrupted, Interruption, Reason

EAST = Endpoint(name="east", base_url="http://east")
WEST = Endpoint(name="west", base_url="http://west", weight=0)
"""Preferred only when the other one cannot be called."""


def test_counts_the_tries_at_each_endpoint() -> None:
    tries = CandidateTries(Candidate("openai", "gpt-4o"), [EAST, WEST])
    tries.go_to(EAST)
    tries.go_to(EAST)
    assert tries.tries == 2

    tries.leave()
    tries.go_to(WEST)
    assert (tries.tries, tries.endpoints) == (1, [WEST])


def test_an_endpoint_that_is_called_again_after_another_one_has_its_tries_still() -> None:
    tries = CandidateTries(Candidate("openai", "gpt-4o"), [EAST, WEST])
    for endpoint in (EAST, EAST, WEST, EAST):
        tries.go_to(endpoint)

    assert tries.tries == 3


def test_may_wait_for_service_again_after_each_call_that_it_made() -> None:
    tries = CandidateTries(Candidate("openai", "gpt-4o"), [EAST], patience_s=30)
    tries.go_to(EAST)

    assert tries.patience_s == 0


def out(name: str, retry_after_s: float, reason: ErrorCode = ErrorCode.OVERLOADED) -> OutOfService:
    return OutOfService(CircuitId(EndpointId("acme", "openai", name), "llama"), reason, retry_after_s)


def test_a_busy_endpoint_is_waited_for_before_one_that_is_out_of_service() -> None:
    assert worth_waiting_for([out("dead", 0.1), Busy(EAST), Busy(WEST)]) == Busy(EAST)


def test_of_endpoints_out_of_service_the_one_that_is_back_soonest_is_waited_for() -> None:
    late, soon = out("late", 20), out("soon", 5)

    assert worth_waiting_for([late, soon]) is soon


def test_an_endpoint_that_has_not_got_the_model_is_not_waited_for_when_another_one_may_come_back() -> None:
    without, dead = out("without", 5, ErrorCode.MODEL_NOT_FOUND), out("dead", 20)

    assert worth_waiting_for([without, dead]) is dead


class Worker:
    """A gate before the two endpoints of a provider that needs no keys, with circuits and slots on one bucket."""

    def __init__(
        self,
        bucket: Bucket,
        clock: DrivenClock,
        *,
        name: str = "one",
        places: int = 2,
        limit: type[ConcurrencyLimit] = ConcurrencyLimit,
    ) -> None:
        rng = random.Random(7)
        self.interruption = Interruption()
        self.clock = clock
        self.breaker = CircuitBreaker(bucket.broker, worker=name, clock=clock)
        self.slots = limit(bucket.broker, worker=name, clock=clock)
        nothing = cast(Any, None)
        self.gate = EndpointGate(
            breaker=self.breaker,
            balance=LoadBalancer(rng),
            slots=self.slots,
            keys=KeyStore(nothing, nothing, clock=clock.monotonic),
            waiting=WaitingRoom(places=places, rng=rng),
            clock=clock,
        )

    async def enter(
        self, tries: CandidateTries | None = None, *, most: int | None = None, time_left_s: float = 60
    ) -> CallPermit:
        configured = PublishedProvider(
            provider_id="p",
            tenant="acme",
            provider_type=Provider.OLLAMA,
            revision=1,
            config=ProviderConfig(endpoints=(EAST, WEST), max_concurrency=most),
        )
        tries = tries or CandidateTries(Candidate("ollama", "llama"))
        return await self.gate.enter(tries, configured, interruption=self.interruption, time_left_s=time_left_s)

    async def break_circuit(self, endpoint: Endpoint) -> None:
        for _ in range(MAX_FAILURES):
            token = await self.allow(endpoint)
            await token.failed(Overloaded("no answer"))

    async def allow(self, endpoint: Endpoint, model: str = "llama") -> BreakerToken:
        return await self.breaker.allow(EndpointId("acme", "ollama", endpoint.name), model, revision=1)


class AnsweredLate(ConcurrencyLimit):
    """Has no slot at once. NATS answers with one in the moment in which the request is cancelled."""

    cancel: Callable[[], None]

    async def take(self, endpoint: EndpointId, most: int, *, at_most_s: float) -> ConcurrencySlot | None:
        if at_most_s == 0:
            return None
        self.cancel()
        with suppress(asyncio.CancelledError):  # as Python 3.11's wait_for, which returns the answer then
            await asyncio.sleep(0)
        return await super().take(endpoint, most, at_most_s=0)


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture
def worker(bucket: Bucket) -> Worker:
    return Worker(bucket, DrivenClock())


async def test_the_preferred_endpoint_is_called_first(worker: Worker) -> None:
    tries = CandidateTries(Candidate("ollama", "llama"))

    permit = await worker.enter(tries)

    assert permit.endpoint is tries.current
    assert (permit.endpoint.name, tries.tries) == ("east", 1)


async def test_a_model_that_no_endpoint_has_is_unknown(worker: Worker) -> None:
    listed = Endpoint(name="east", base_url="http://east", deployments={"other": "d"})
    configured = PublishedProvider(
        provider_id="p",
        tenant="acme",
        provider_type=Provider.OLLAMA,
        revision=1,
        config=ProviderConfig(endpoints=(listed,)),
    )

    with pytest.raises(UnknownModel):
        await worker.gate.enter(
            CandidateTries(Candidate("ollama", "llama")), configured, interruption=Interruption(), time_left_s=60
        )


async def test_an_endpoint_out_of_service_leaves_its_calls_to_the_other(worker: Worker) -> None:
    await worker.break_circuit(EAST)

    assert (await worker.enter()).endpoint.name == "west"


async def test_an_endpoint_where_one_model_is_out_of_service_keeps_the_calls_of_another(worker: Worker) -> None:
    await worker.break_circuit(EAST)

    permit = await worker.enter(CandidateTries(Candidate("ollama", "qwen")))

    assert permit.endpoint.name == "east"


async def test_a_busy_endpoint_leaves_its_calls_to_the_other(worker: Worker) -> None:
    permits = [await worker.enter(most=1) for _ in range(2)]

    assert [permit.endpoint.name for permit in permits] == ["east", "west"]


async def test_when_all_are_busy_a_call_waits_for_the_first_that_is_in_service(worker: Worker) -> None:
    permits = [await worker.enter(most=1) for _ in range(2)]
    waiting = asyncio.create_task(worker.enter(most=1))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()

    await permits[0].give_back()

    assert (await waiting).endpoint.name == "east"


async def test_who_finds_no_slot_until_the_deadline_is_told_so(worker: Worker) -> None:
    for _ in range(2):
        await worker.enter(most=1)

    with pytest.raises(DeadlineExceeded):
        await worker.enter(most=1, time_left_s=0)


async def test_a_slot_that_comes_with_a_cancellation_is_given_back(bucket: Bucket) -> None:
    worker = Worker(bucket, DrivenClock(), limit=AnsweredLate)
    assert isinstance(worker.slots, AnsweredLate)
    worker.slots.cancel = lambda: worker.interruption.request(Reason.CANCELLED)

    with pytest.raises(Interrupted):
        await worker.enter(most=1)

    assert bucket.value("slot.acme.ollama.east.0") == b""


async def test_a_call_that_was_given_back_leaves_room_for_another_workers(bucket: Bucket, worker: Worker) -> None:
    other = Worker(bucket, worker.clock, name="other")
    permit = await worker.enter(most=1)
    assert (await other.enter(most=1)).endpoint.name == "west"

    worker.clock.pass_by(60)  # too old to be left to the next request of the same worker
    await permit.give_back()
    bucket.forget("slot.acme.ollama.east.0")

    assert (await Worker(bucket, worker.clock, name="third").enter(most=1)).endpoint.name == "east"


async def test_without_an_endpoint_in_service_the_soonest_says_when_to_come_again(worker: Worker) -> None:
    await worker.break_circuit(EAST)
    token = await worker.allow(WEST)
    await token.failed(RateLimited("slow down", retry_after_s=2))

    with pytest.raises(OutOfService) as refused:
        await worker.enter()

    assert (refused.value.circuit.endpoint.endpoint, refused.value.retry_after_s) == ("west", 2)


async def test_who_may_wait_probes_the_endpoint_when_its_time_is_over(worker: Worker) -> None:
    await worker.break_circuit(EAST)
    await worker.break_circuit(WEST)
    tries = CandidateTries(Candidate("ollama", "llama"), patience_s=30)
    waiting = asyncio.create_task(worker.enter(tries))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()

    worker.clock.pass_by(OPEN_FIRST_S)
    token = await worker.allow(WEST)
    await token.succeeded()  # whoever waits looks again when a circuit changes
    permit = await waiting

    assert permit.endpoint.name == "east"
    await permit.completed()
    assert (await worker.enter()).endpoint.name == "east"


async def test_a_probe_that_cannot_be_made_for_want_of_a_slot_is_left_to_others(worker: Worker) -> None:
    busy = await worker.enter(most=1)
    await worker.break_circuit(EAST)
    worker.clock.pass_by(OPEN_FIRST_S)

    assert (await worker.enter(most=1)).endpoint.name == "west"

    await busy.give_back()
    probe = await worker.allow(EAST)
    await probe.succeeded()
