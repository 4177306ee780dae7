"""A circuit for each endpoint, shared by the fleet: a dead endpoint costs the fleet a few calls, not each request.

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
from typing import assert_never

import nats.errors
from pydantic import ValidationError

from contracts import subjects
from contracts.error_rules import RULES
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
from workers.endpoints.names import EndpointId
from workers.jetstream.signal import Signal, wait_for

log = logging.getLogger(__name__)

_ANSWER_S = 1.0


class OutOfService(Exception):
    """The endpoint is not to be called for now."""

    def __init__(self, endpoint: EndpointId, reason: ErrorCode, retry_after_s: float) -> None:
        super().__init__(f"{endpoint} is out of service for {retry_after_s:.1f} s: {reason}")
        self.endpoint = endpoint
        self.reason = reason
        self.retry_after_s = retry_after_s

    def to_error(self) -> FleetError:
        return BY_CODE[self.reason](
            f"the endpoint {self.endpoint.endpoint} of {self.endpoint.provider} is not called for another "
            f"{math.ceil(self.retry_after_s)} s, because of {self.reason} before",
            retry_after_s=self.retry_after_s,
            provider=self.endpoint.provider,
        )


class CircuitBreaker:
    """The circuits of all endpoints, as this worker knows them."""

    def __init__(self, broker: Broker, *, worker: str, clock: Clock) -> None:
        self._worker = worker
        self._clock = clock
        self._circuits: dict[EndpointId, Circuit] = {}
        self._changed = Signal()
        self._register = Register(broker, bucket=subjects.HEALTH_BUCKET, answer_within_s=_ANSWER_S)
        self.bucket = BucketWatch(
            broker,
            subjects.HEALTH_BUCKET,
            keys="circuit.>",
            take=self._take,
            forget_all_but=self._forget_all_but,
        )

    async def allow(self, endpoint: EndpointId, *, revision: int) -> "BreakerToken":
        """A token for one call. Raises OutOfService. `revision` is that of the provider's configuration."""
        probes: datetime | None = None
        state = self._circuit(endpoint).state(self._clock.now(), revision=revision)
        match state:
            case Closed():
                pass
            case Outdated():
                self._set(self._circuit(endpoint).on_outdated())
                await self._share_closed(endpoint)
            case Open(reason, left_s):
                raise OutOfService(endpoint, reason, left_s)
            case Claiming(reason):
                raise OutOfService(endpoint, reason, SOON_S)
            case ProbeDue(due):
                if not await self._claim_probe(endpoint, due):
                    raise OutOfService(endpoint, due.reason, SOON_S)
                probes = due.opened_at
            case _:
                assert_never(state)
        return BreakerToken(self, endpoint, AllowedCall(self._circuit(endpoint).epoch, revision, probes))

    async def wait(self, endpoints: Sequence[EndpointId], *, at_most_s: float) -> None:
        """Until one of them may be called or probed, or the time is over."""
        give_up = self._clock.monotonic() + at_most_s
        while (left_s := give_up - self._clock.monotonic()) > 0:
            changed = self._changed.next
            due_s = min(self._due_s(endpoint) for endpoint in endpoints)
            if due_s <= 0:
                return
            await wait_for(changed, at_most_s=min(due_s, left_s))

    def _due_s(self, endpoint: EndpointId) -> float:
        """When the endpoint may be called or probed, as far as is known."""
        state = self._circuit(endpoint).state(self._clock.now())
        match state:
            case Closed() | Outdated() | ProbeDue():
                return 0.0
            case Open(_, left_s):
                return left_s
            case Claiming():
                return _ANSWER_S
            case _:
                assert_never(state)

    async def succeeded(self, endpoint: EndpointId, call: AllowedCall) -> None:
        """For `BreakerToken`: the call has had its first output."""
        before = self._circuit(endpoint)
        after = before.on_success(call)
        self._set(after)
        if before.entry is not None and after.entry is None:
            await self._share_closed(endpoint)

    async def failed(self, endpoint: EndpointId, call: AllowedCall, error: FleetError) -> None:
        """For `BreakerToken`: the call has met an error that counts against the endpoint, or a 429."""
        now = self._clock.now()
        circuit = self._circuit(endpoint)
        after = circuit.on_failure(call, error, now=now)
        self._set(after)
        if after.entry is None or after.epoch == circuit.epoch:
            return
        open_s = (after.entry.until - now).total_seconds()
        telemetry.CIRCUITS_OPENED.labels(endpoint.provider, error.code).inc()
        log.warning("circuit_opened", extra={"circuit": str(endpoint), "reason": error.code, "open_s": open_s})
        # Waits for the answer: by its sequence the watch's echo of the entry is known, and begins no new epoch.
        outcome = await self._register.overwrite(str(endpoint), after.entry.to_json(), ttl_s=self._ttl_s(after.entry))
        self._note_unshared(endpoint, outcome)

    async def dropped(self, endpoint: EndpointId, call: AllowedCall) -> None:
        """For `BreakerToken`: the call was stopped before it could tell anything."""
        circuit = self._circuit(endpoint)
        after = circuit.on_dropped(call, now=self._clock.now())
        self._set(after)
        if after.entry is None or after.epoch == circuit.epoch:
            return
        # A claim, and no plain write: if another worker has taken the probe meanwhile, its entry stays.
        outcome = await self._register.claim(str(endpoint), after.entry.to_json(), ttl_s=self._ttl_s(after.entry))
        self._note_unshared(endpoint, outcome)

    async def _claim_probe(self, endpoint: EndpointId, due: OpenCircuit) -> bool:
        """Whether this worker has the probe; all others see by the entry that it is taken."""
        taken = self._circuit(endpoint).claimed(due, now=self._clock.now())
        self._set(self._circuit(endpoint).on_claim())
        outcome: Won | Lost | Unanswered = Lost()
        try:
            outcome = await self._register.claim(str(endpoint), taken.to_json(), ttl_s=self._ttl_s(taken))
        finally:
            won = taken if isinstance(outcome, Won) else None
            self._set(self._circuit(endpoint).on_answer(due, won=won, now=self._clock.now()))
        self._note_unshared(endpoint, outcome)
        return won is not None

    async def _share_closed(self, endpoint: EndpointId) -> None:
        log.warning("circuit_closed", extra={"circuit": str(endpoint)})
        try:
            await self._register.purge(str(endpoint), ttl_s=KEPT_S)
        except nats.errors.Error as exc:
            self._note_unshared(endpoint, Unanswered(type(exc).__name__))

    def _note_unshared(self, endpoint: EndpointId, outcome: Won | Lost | Unanswered) -> None:
        """Without an answer nobody else is told, and this worker goes by what it knows itself."""
        if isinstance(outcome, Unanswered):
            log.warning("circuit_not_shared", extra={"circuit": str(endpoint), "error": outcome.reason})

    def _take(self, key: str, value: bytes | None, sequence: int) -> None:
        if not self._register.is_news(key, sequence):
            return
        entry: OpenCircuit | None = None
        if value is not None:
            try:
                entry = OpenCircuit.model_validate_json(value, extra="ignore")
            except ValidationError as exc:
                log.error("circuit_invalid", extra={"circuit": key, "errors": exc.error_count()})
        self._set(self._circuit(EndpointId.of_circuit(key)).on_entry(entry))

    def _forget_all_but(self, seen: set[str]) -> None:
        """What is not in the bucket any more is closed."""
        for circuit in list(self._circuits.values()):
            if str(circuit.endpoint) not in seen:
                self._set(circuit.on_entry(None))

    def _circuit(self, endpoint: EndpointId) -> Circuit:
        return self._circuits.get(endpoint) or Circuit(endpoint, self._worker)

    def _set(self, circuit: Circuit) -> None:
        before = self._circuit(circuit.endpoint)
        self._circuits[circuit.endpoint] = circuit
        if circuit.epoch != before.epoch or circuit.claiming != before.claiming:
            self._changed.notify_all()

    def _ttl_s(self, entry: OpenCircuit) -> float:
        return max(0.0, (entry.until - self._clock.now()).total_seconds()) + KEPT_S


class BreakerToken:
    """For one call; told once how it went."""

    def __init__(self, breaker: CircuitBreaker, endpoint: EndpointId, call: AllowedCall) -> None:
        self._breaker = breaker
        self._endpoint = endpoint
        self._call = call
        self._told = False

    async def succeeded(self) -> None:
        """The first output is enough."""
        if not self._told:
            self._told = True
            await self._breaker.succeeded(self._endpoint, self._call)

    async def failed(self, error: FleetError) -> None:
        """An error that is not the endpoint's fault shows that the endpoint works."""
        if not (RULES[error.code].breaks_circuit or error.code is ErrorCode.RATE_LIMITED):
            await self.succeeded()
        elif not self._told:
            self._told = True
            await self._breaker.failed(self._endpoint, self._call, error)

    async def dropped(self) -> None:
        """The call was stopped before it could tell anything."""
        if not self._told:
            self._told = True
            await self._breaker.dropped(self._endpoint, self._call)
