"""A circuit as a value: what each event makes of it."""

from dataclasses import replace
from datetime import timedelta

import pytest

from contracts.errors import ErrorCode, FleetError, Overloaded, RateLimited
from contracts.health import OpenCircuit
from tests.driven_clock import DrivenClock
from workers.endpoints.circuit import (
    COOL_DOWN_FIRST_S,
    COOL_DOWN_LONGEST_S,
    COOL_DOWN_MAX_S,
    KEPT_S,
    MAX_FAILURES,
    OPEN_FIRST_S,
    OPEN_MAX_S,
    PROBE_S,
    SOON_S,
    AllowedCall,
    Circuit,
    Claiming,
    Closed,
    Open,
    Outdated,
    ProbeDue,
    cool_down_s,
)
from workers.endpoints.names import CircuitId, EndpointId

ENDPOINT = EndpointId("acme", "openai", "default")
DEAD = Overloaded("no answer")


class Worker:
    """Drives one circuit as one worker's breaker would."""

    def __init__(self, clock: DrivenClock, name: str = "one", *, model: str | None = None) -> None:
        self.clock = clock
        self.circuit = Circuit(CircuitId(ENDPOINT, model), name)

    @property
    def entry(self) -> OpenCircuit:
        assert self.circuit.entry is not None
        return self.circuit.entry

    def state(self, *, revision: int = 1) -> object:
        return self.circuit.state(self.clock.now(), revision=revision)

    def call(self, *, revision: int = 1) -> AllowedCall:
        return AllowedCall(self.circuit.id, self.circuit.epoch, revision)

    def fail(self, *errors: FleetError, call: AllowedCall | None = None) -> None:
        for error in errors:
            self.circuit = self.circuit.on_failure(call or self.call(), error, now=self.clock.now())

    def open(self) -> None:
        self.fail(*[DEAD] * MAX_FAILURES)

    def take_probe(self) -> AllowedCall:
        """Claims the probe that is due, and gets it."""
        due = self.entry
        taken = self.circuit.claimed(due, now=self.clock.now())
        self.circuit = self.circuit.on_claim().on_answer(due, won=taken, now=self.clock.now())
        return AllowedCall(self.circuit.id, self.circuit.epoch, 1, probes=due.opened_at)


@pytest.fixture
def clock() -> DrivenClock:
    return DrivenClock()


@pytest.fixture
def worker(clock: DrivenClock) -> Worker:
    return Worker(clock)


def test_is_closed_until_calls_have_failed_in_a_row(worker: Worker) -> None:
    worker.fail(*[DEAD] * (MAX_FAILURES - 1))
    assert worker.state() == Closed()

    worker.fail(DEAD)

    assert worker.state() == Open(ErrorCode.OVERLOADED, OPEN_FIRST_S)


def test_a_success_begins_the_row_anew(worker: Worker) -> None:
    worker.fail(*[DEAD] * (MAX_FAILURES - 1))
    worker.circuit = worker.circuit.on_success(worker.call())
    worker.fail(*[DEAD] * (MAX_FAILURES - 1))

    assert worker.state() == Closed()


def test_a_success_of_a_circuit_that_is_closed_changes_nothing(worker: Worker) -> None:
    assert worker.circuit.on_success(worker.call()) is worker.circuit


@pytest.mark.parametrize(
    ("named_s", "open_s"),
    [(40.0, 40.0), (0.0, SOON_S), (COOL_DOWN_LONGEST_S + 1, COOL_DOWN_LONGEST_S), (None, COOL_DOWN_FIRST_S)],
)
def test_a_429_opens_it_at_once_for_as_long_as_the_vendor_says(
    worker: Worker, named_s: float | None, open_s: float
) -> None:
    worker.fail(RateLimited("slow down", retry_after_s=named_s))

    assert worker.state() == Open(ErrorCode.RATE_LIMITED, open_s)


def test_a_vendor_that_names_no_time_is_left_alone_for_longer_each_time() -> None:
    assert [cool_down_s(None, generation) for generation in (1, 2, 3, 99)] == [1, 2, 4, COOL_DOWN_MAX_S]


def test_a_probe_is_due_when_the_time_is_over(worker: Worker, clock: DrivenClock) -> None:
    worker.open()
    clock.pass_by(OPEN_FIRST_S - 1)
    assert worker.state() == Open(ErrorCode.OVERLOADED, 1.0)

    clock.pass_by(1)

    assert worker.state() == ProbeDue(worker.entry)


def test_while_a_worker_asks_for_the_probe_none_of_its_other_requests_does(worker: Worker, clock: DrivenClock) -> None:
    worker.open()
    clock.pass_by(OPEN_FIRST_S)

    worker.circuit = worker.circuit.on_claim()

    assert worker.state() == Claiming(ErrorCode.OVERLOADED)


def test_a_probe_that_is_taken_keeps_the_circuit_open_for_all_others(worker: Worker, clock: DrivenClock) -> None:
    other = Worker(clock, "other")
    worker.open()
    clock.pass_by(OPEN_FIRST_S)
    worker.take_probe()

    other.circuit = other.circuit.on_entry(worker.entry)

    for each in (worker, other):
        assert each.state() == Open(ErrorCode.OVERLOADED, PROBE_S)
        assert each.entry.worker == "one"


def test_a_probe_that_another_worker_got_is_looked_for_again_soon(worker: Worker, clock: DrivenClock) -> None:
    worker.open()
    clock.pass_by(OPEN_FIRST_S)

    worker.circuit = worker.circuit.on_claim().on_answer(worker.entry, won=None, now=clock.now())

    assert worker.state() == Open(ErrorCode.OVERLOADED, SOON_S)


def test_what_the_watch_told_before_the_answer_came_is_newer(worker: Worker, clock: DrivenClock) -> None:
    worker.open()
    clock.pass_by(OPEN_FIRST_S)
    due = worker.entry
    of_another = due.model_copy(update={"until": clock.now() + timedelta(seconds=PROBE_S), "worker": "other"})

    worker.circuit = worker.circuit.on_claim().on_entry(of_another).on_answer(due, won=None, now=clock.now())

    assert worker.entry == of_another
    assert worker.state() == Open(ErrorCode.OVERLOADED, PROBE_S)


def test_the_probes_first_output_closes_it(worker: Worker, clock: DrivenClock) -> None:
    worker.open()
    clock.pass_by(OPEN_FIRST_S)

    worker.circuit = worker.circuit.on_success(worker.take_probe())

    assert worker.state() == Closed()
    assert worker.circuit.failures == 0


def test_a_probe_that_fails_opens_it_for_longer_each_time_and_not_for_ever(worker: Worker, clock: DrivenClock) -> None:
    worker.open()
    opened_at = worker.entry.opened_at
    lasted_s: list[float] = []
    for _ in range(4):
        clock.pass_by((worker.entry.until - clock.now()).total_seconds())
        worker.fail(DEAD, call=worker.take_probe())
        lasted_s.append((worker.entry.until - clock.now()).total_seconds())

    assert lasted_s == [2 * OPEN_FIRST_S, 4 * OPEN_FIRST_S, OPEN_MAX_S, OPEN_MAX_S]
    assert (worker.entry.generation, worker.entry.opened_at) == (5, opened_at)


def test_a_probe_that_was_stopped_leaves_its_place_at_once(worker: Worker, clock: DrivenClock) -> None:
    worker.open()
    clock.pass_by(OPEN_FIRST_S)
    probe = worker.take_probe()

    worker.circuit = worker.circuit.on_dropped(probe, now=clock.now())

    assert worker.state() == ProbeDue(worker.entry)


def test_another_call_that_was_stopped_says_nothing(worker: Worker, clock: DrivenClock) -> None:
    call = worker.call()
    worker.open()

    assert worker.circuit.on_dropped(call, now=clock.now()) is worker.circuit
    assert worker.circuit.on_dropped(worker.call(), now=clock.now()) is worker.circuit


def test_a_prober_that_died_is_replaced(worker: Worker, clock: DrivenClock) -> None:
    worker.open()
    clock.pass_by(OPEN_FIRST_S)
    worker.take_probe()

    clock.pass_by(PROBE_S)

    assert worker.state() == ProbeDue(worker.entry)


def test_a_probe_that_was_overtaken_is_as_good_an_answer(worker: Worker, clock: DrivenClock) -> None:
    worker.open()
    clock.pass_by(OPEN_FIRST_S)
    slow = worker.take_probe()
    clock.pass_by(PROBE_S)
    worker.take_probe()

    assert worker.circuit.on_success(slow).state(clock.now(), revision=1) == Closed()


def test_calls_from_before_it_opened_say_nothing(worker: Worker) -> None:
    early = worker.call()
    worker.open()
    opened = worker.circuit

    assert opened.on_success(early) is opened
    worker.fail(DEAD, RateLimited("slow down", retry_after_s=99), call=early)
    assert worker.circuit is opened


def test_calls_from_before_it_was_closed_open_nothing(worker: Worker, clock: DrivenClock) -> None:
    worker.open()
    clock.pass_by(OPEN_FIRST_S)
    probe = worker.take_probe()
    worker.circuit = worker.circuit.on_success(probe)

    worker.fail(*[DEAD] * MAX_FAILURES, call=probe)

    assert worker.state() == Closed()


def test_a_changed_configuration_ends_it(worker: Worker) -> None:
    worker.open()

    assert worker.state(revision=2) == Outdated()
    worker.circuit = worker.circuit.on_outdated()
    assert worker.state(revision=2) == Closed()


def test_an_entry_that_nobody_has_tried_for_long_says_nothing_any_more(worker: Worker, clock: DrivenClock) -> None:
    worker.open()
    clock.pass_by(OPEN_FIRST_S + KEPT_S)
    assert worker.state() == ProbeDue(worker.entry)

    clock.pass_by(1)

    assert worker.state() == Outdated()


def test_an_entry_that_is_gone_from_the_bucket_closes_it(worker: Worker) -> None:
    worker.open()
    call = worker.call()

    worker.circuit = worker.circuit.on_entry(None)

    assert worker.state() == Closed()
    worker.fail(*[DEAD] * MAX_FAILURES, call=call)
    assert worker.state() == Closed()


def test_a_closed_circuit_hears_no_news_in_being_closed(worker: Worker) -> None:
    worker.fail(DEAD)

    assert worker.circuit.on_entry(None) is worker.circuit


def test_an_entry_names_what_it_is_about(worker: Worker, clock: DrivenClock) -> None:
    worker.fail(*[DEAD] * MAX_FAILURES, call=replace(worker.call(), revision=7))

    entry = worker.entry
    assert (entry.tenant, entry.provider, entry.endpoint, entry.model) == ("acme", "openai", "default", None)
    assert (entry.reason, entry.revision, entry.worker, entry.generation) == (ErrorCode.OVERLOADED, 7, "one", 1)
    assert entry.opened_at == clock.now()


def test_the_entry_of_a_model_names_the_model(clock: DrivenClock) -> None:
    worker = Worker(clock, model="acme/llama.3:70b")

    worker.open()

    assert (worker.entry.endpoint, worker.entry.model) == ("default", "acme/llama.3:70b")
