"""Circuits that the fleet shares: what is dead costs the fleet a few calls, not each request.

There are two for each call: that of the endpoint, which counts what all its models have in common (no connection, a
refused key), and that of the model at this endpoint, which counts the rest. A call needs both.

Closed: calls go through. After `MAX_FAILURES` in a row, or when the vendor says to wait (429), one worker opens it for
all by an entry in `llm_health`. When its time is over, one worker of the fleet takes the probe by a compare-and-set on
that entry; the probe's first output closes the circuit, its failure opens it for longer. What follows from what is
decided in `circuit.py`; here it is carried out.

Asking comes in two steps: `allow` gives a token, the token is told how the call went.
"""

import logging
import math
from collections.abc import Sequence
from datetime import datetime

import nats.errors
from pydantic import ValidationError

from contracts import subjects
from contracts.error_rules import RULES, Scope
from contracts.errors import BY_CODE, ErrorCode, FleetError
from contracts.health import OpenCircuit
from runtime.broker import Broker
from runtime.buckets import BucketWatch
from runtime.jetstream.register import Lost, Register, Unanswered, Won
from workers import telemetry
from workers.clock import Clock
from workers.endpoints.circuit import (
    KEPT_S,
    SOON_S,
    AllowedCall,
    Circuit,
    Claiming,
    Closed,
    Open,
    Outdated,
    ProbeDue,
)
from workers.endpoints.known_circuits import KnownCircuits
from workers.endpoints.names import CircuitId, EndpointId, circuits_of
from workers.jetstream.signal import Signal, wait_for
from workers.providers.base import NotReached

log = logging.getLogger(__name__)

_ANSWER_S = 1.0
_MARKER_S = 10.0
"""How long the bucket keeps that a circuit was closed."""


class OutOfService(Exception):
    """An endpoint, or the model there, is not to be called for now."""

    def __init__(self, circuit: CircuitId, reason: ErrorCode, retry_after_s: float) -> None:
        super().__init__(f"{circuit} is out of service for {retry_after_s:.1f} s: {reason}")
        self.circuit = circuit
        self.reason = reason
        self.retry_after_s = retry_after_s

    def to_error(self) -> FleetError:
        return BY_CODE[self.reason](
            f"{self.circuit} is not called for another {math.ceil(self.retry_after_s)} s, "
            f"because of {self.reason} before",
            retry_after_s=self.retry_after_s,
            provider=self.circuit.endpoint.provider,
        )


class CircuitBreaker:
    """The circuits of all endpoints and models, as this worker knows them."""

    def __init__(self, broker: Broker, *, worker: str, clock: Clock) -> None:
        self._clock = clock
        self._known = KnownCircuits(worker, clock)
        self._changed = Signal()
        self._register = Register(broker, bucket=subjects.HEALTH_BUCKET, answer_within_s=_ANSWER_S)
        self.bucket = BucketWatch(
            broker,
            subjects.HEALTH_BUCKET,
            keys="circuit.>",
            take=self._take,
            forget_all_but=self._forget_all_but,
        )

    async def allow(self, endpoint: EndpointId, model: str, *, revision: int) -> "BreakerToken":
        """A token for one call. Raises OutOfService. `revision` is that of the provider's configuration."""
        all_models, this_model = circuits_of(endpoint, model)
        # Before a probe is taken that could not be made, because the other circuit is open.
        refusals = self._refusal(all_models, revision=revision), self._refusal(this_model, revision=revision)
        if refused := list(filter(None, refusals)):
            raise max(refused, key=lambda refusal: refusal.retry_after_s)
        of_endpoint, of_model = await self._allow(all_models, revision=revision), None
        if self._known.has_room_for(this_model):
            try:
                of_model = await self._allow(this_model, revision=revision)
            except BaseException:
                await self.dropped(of_endpoint)
                raise
        return BreakerToken(self, of_endpoint, of_model)

    def _refusal(self, of: CircuitId, *, revision: int) -> OutOfService | None:
        if (circuit := self._known.find(of)) is None or circuit.entry is None:
            return None
        match circuit.state(self._clock.now(), revision=revision):
            case Open(reason, left_s):
                return OutOfService(of, reason, left_s)
            case Claiming(reason):
                return OutOfService(of, reason, SOON_S)
            case Closed() | Outdated() | ProbeDue():
                return None

    async def _allow(self, of: CircuitId, *, revision: int) -> AllowedCall:
        """Leave for one call by one of its circuits. Raises OutOfService."""
        circuit = self._known.use(of)
        if circuit.entry is None:
            return AllowedCall(of, circuit.epoch, revision, None)
        if refusal := self._refusal(of, revision=revision):
            raise refusal
        probes: datetime | None = None
        match circuit.state(self._clock.now(), revision=revision):
            case Outdated():
                circuit = circuit.on_outdated()
                self._set(circuit)
                await self._share_closed(circuit.id)
            case ProbeDue(due):
                circuit = await self._claim_probe(circuit, due)
                probes = due.opened_at
            case _:
                pass
        return AllowedCall(circuit.id, circuit.epoch, revision, probes)

    async def wait(self, endpoints: Sequence[EndpointId], model: str, *, at_most_s: float) -> None:
        """Until the model may be called or probed at one of them, or the time is over."""
        give_up = self._clock.monotonic() + at_most_s
        while (left_s := give_up - self._clock.monotonic()) > 0:
            changed = self._changed.next
            due_s = min(max(self._due_s(CircuitId(e)), self._due_s(CircuitId(e, model))) for e in endpoints)
            if due_s <= 0:
                return
            await wait_for(changed, at_most_s=min(due_s, left_s))

    def _due_s(self, of: CircuitId) -> float:
        """When it may be called or probed, as far as is known."""
        refusal = self._refusal(of, revision=0)
        return refusal.retry_after_s if refusal else 0.0

    async def succeeded(self, call: AllowedCall) -> None:
        """For `BreakerToken`: the call has shown that what the circuit is about works."""
        if (before := self._known.find(call.circuit)) is None:
            return
        after = before.on_success(call)
        self._set(after)
        if before.entry is not None and after.entry is None:
            await self._share_closed(call.circuit)

    async def failed(self, call: AllowedCall, error: FleetError) -> None:
        """For `BreakerToken`: the call has met an error that counts against what the circuit is about, or a 429."""
        if (before := self._known.find(call.circuit)) is None:
            return
        now = self._clock.now()
        after = before.on_failure(call, error, now=now)
        self._set(after)
        if after.entry is None or after.epoch == before.epoch:
            return
        open_s = (after.entry.until - now).total_seconds()
        telemetry.CIRCUITS_OPENED.labels(call.circuit.endpoint.provider, error.code).inc()
        log.warning("circuit_opened", extra={**_facts(call.circuit), "reason": error.code, "open_s": open_s})
        # Waits for the answer: by its sequence the watch's echo of the entry is known, and begins no new epoch.
        key = call.circuit.key
        outcome = await self._register.overwrite(key, after.entry.to_json(), ttl_s=self._ttl_s(after.entry))
        self._note_unshared(call.circuit, outcome)

    async def dropped(self, call: AllowedCall) -> None:
        """For `BreakerToken`: the call has told nothing."""
        if (before := self._known.find(call.circuit)) is None:
            return
        after = before.on_dropped(call, now=self._clock.now())
        self._set(after)
        if after.entry is None or after.epoch == before.epoch:
            return
        # A claim, and no plain write: if another worker has taken the probe meanwhile, its entry stays.
        key = call.circuit.key
        outcome = await self._register.claim(key, after.entry.to_json(), ttl_s=self._ttl_s(after.entry))
        self._note_unshared(call.circuit, outcome)

    def is_open(self, call: AllowedCall) -> bool:
        """For `BreakerToken`: whether the call's circuit has an entry, which keeps other calls from being made."""
        circuit = self._known.find(call.circuit)
        return circuit is not None and circuit.entry is not None

    async def _claim_probe(self, circuit: Circuit, due: OpenCircuit) -> Circuit:
        """The circuit when this worker has its probe; all others see by the entry that it is taken.

        Raises OutOfService when this worker does not get it.
        """
        taken = circuit.claimed(due, now=self._clock.now())
        self._set(circuit.on_claim())
        outcome: Won | Lost | Unanswered = Lost()
        try:
            outcome = await self._register.claim(circuit.id.key, taken.to_json(), ttl_s=self._ttl_s(taken))
        finally:
            won = taken if isinstance(outcome, Won) else None
            circuit = (self._known.find(circuit.id) or circuit).on_answer(due, won=won, now=self._clock.now())
            self._set(circuit)
        self._note_unshared(circuit.id, outcome)
        if won is None:
            raise OutOfService(circuit.id, due.reason, SOON_S)
        return circuit

    async def _share_closed(self, of: CircuitId) -> None:
        log.warning("circuit_closed", extra=_facts(of))
        try:
            await self._register.purge(of.key, ttl_s=_MARKER_S)
        except nats.errors.Error as exc:
            self._note_unshared(of, Unanswered(type(exc).__name__))

    def _note_unshared(self, of: CircuitId, outcome: Won | Lost | Unanswered) -> None:
        """Without an answer nobody else is told, and this worker goes by what it knows itself."""
        if isinstance(outcome, Unanswered):
            log.warning("circuit_not_shared", extra={**_facts(of), "error": outcome.reason})

    def _take(self, key: str, value: bytes | None, sequence: int) -> None:
        if not self._register.is_news(key, sequence):
            return
        circuit = self._known.find_by_key(key)
        entry: OpenCircuit | None = None
        if value is None:
            self._register.forget([key])
        else:
            try:
                entry = OpenCircuit.model_validate_json(value, extra="ignore")
                circuit = circuit or self._known.new(id_of(entry))
            except ValidationError as exc:
                log.error("circuit_invalid", extra={"circuit": key, "errors": exc.error_count()})
        if circuit is not None:
            self._set(circuit.on_entry(entry))

    def _forget_all_but(self, seen: set[str]) -> None:
        """What is not in the bucket any more is closed."""
        for circuit in list(self._known):
            if circuit.id.key not in seen:
                self._register.forget([circuit.id.key])
                self._set(circuit.on_entry(None))

    def _set(self, circuit: Circuit) -> None:
        before = self._known.find(circuit.id)
        self._known.put(circuit)
        if before is None or circuit.epoch != before.epoch or circuit.claiming != before.claiming:
            self._changed.notify_all()

    def _ttl_s(self, entry: OpenCircuit) -> float:
        return max(0.0, (entry.until - self._clock.now()).total_seconds()) + KEPT_S


class BreakerToken:
    """For one call; told once how it went."""

    def __init__(self, breaker: CircuitBreaker, of_endpoint: AllowedCall, of_model: AllowedCall | None = None) -> None:
        """`of_model`: None for one model too many of a tenant (known_circuits.py), which goes without a circuit."""
        self._breaker = breaker
        self._of_endpoint = of_endpoint
        self._of_model = of_model
        self._told = False

    async def succeeded(self) -> None:
        """The first output is enough."""
        if not self._told:
            self._told = True
            for call in self._calls:
                await self._breaker.succeeded(call)

    async def failed(self, error: FleetError) -> None:
        """Who answers with a status has been reached, and has a model that works unless the error says otherwise.

        An error without a status that counts against nobody may have been found here, before anybody was asked.
        """
        against = Scope.ENDPOINT if isinstance(error, NotReached) else RULES[error.code].counts_against
        if against is None:
            await (self.dropped() if error.status is None else self.succeeded())
        elif not self._told:
            self._told = True
            if against is Scope.ENDPOINT:
                await self._breaker.failed(self._of_endpoint, error)
            else:
                await self._breaker.succeeded(self._of_endpoint)
            await self._model_failed(error)

    async def _model_failed(self, error: FleetError) -> None:
        """Also when only the endpoint is blamed: who refuses a key or a connection for one model, and serves the others
        meanwhile, never fails often enough in a row. Not when the endpoint is out of service by it."""
        if self._of_model is None:
            return
        if self._breaker.is_open(self._of_endpoint):
            await self._breaker.dropped(self._of_model)
        else:
            await self._breaker.failed(self._of_model, error)

    async def dropped(self) -> None:
        """The call was stopped before it could tell anything."""
        if not self._told:
            self._told = True
            for call in self._calls:
                await self._breaker.dropped(call)

    @property
    def _calls(self) -> tuple[AllowedCall, ...]:
        return (self._of_endpoint,) if self._of_model is None else (self._of_endpoint, self._of_model)


def id_of(entry: OpenCircuit) -> CircuitId:
    return CircuitId(EndpointId(entry.tenant, entry.provider, entry.endpoint), entry.model)


def _facts(of: CircuitId) -> dict[str, str]:
    return {"circuit": of.key, **({} if of.model is None else {"model": of.model})}
