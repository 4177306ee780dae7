"""A circuit for each endpoint, shared by the fleet: a dead endpoint costs the fleet a few calls, not each request.

Closed: calls go through. After `MAX_FAILURES` in a row, or when the vendor says to wait (429), one worker opens it for
all by an entry in `llm_health`. When its time is over, one worker of the fleet takes the probe by a compare-and-set on
that entry; the probe's first output closes the circuit, its failure opens it for longer.

Asking comes in two steps: `allow` gives a ticket, the ticket is told how the call went. A ticket of an earlier epoch,
from before the circuit opened or closed, says nothing any more (after sony/gobreaker).
"""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import nats.errors
from pydantic import ValidationError

from contracts import subjects
from contracts.control import MSG_TTL
from contracts.error_rules import RULES
from contracts.errors import BY_CODE, ErrorCode, FleetError
from contracts.health import OpenCircuit
from runtime.broker import Broker
from runtime.buckets import BucketWatch
from workers import telemetry
from workers.clock import Clock
from workers.endpoints.names import EndpointId
from workers.jetstream.signal import Signal, wait_for

log = logging.getLogger(__name__)

MAX_FAILURES = 10
"""In a row, seen by one worker."""
OPEN_FIRST_S, OPEN_MAX_S = 5.0, 20.0
"""Less than a request waits for service (`policy.SERVICE_PATIENCE_S`), so that none fails without a probe meanwhile."""
COOL_DOWN_FIRST_S, COOL_DOWN_MAX_S = 1.0, 30.0
"""When the vendor says to wait, but not for how long."""
COOL_DOWN_LONGEST_S = 300.0
"""However long the vendor said: one wrong header must not take an endpoint from the whole fleet for a day, and a call
every five minutes costs little. The agent is told what the vendor said."""
PROBE_S = 15.0
"""A probe that has shown nothing by then leaves its place to another."""
_KEPT_S = 60
"""An entry outlives its time by this much; who comes later finds a closed circuit."""
_ANSWER_S = 1.0
_SOON_S = 0.1
NOTHING_THERE = "wrong last sequence: 0"
EXPECTED_SEQUENCE = "Nats-Expected-Last-Subject-Sequence"


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


@dataclass(slots=True)
class _Circuit:
    failures: int = 0
    """In a row, while closed."""
    epoch: int = 0
    """Rises whenever it opens or closes here."""
    entry: OpenCircuit | None = None
    """None: closed."""
    sequence: int = 0
    """Of the last message about it."""
    claiming: bool = False

    def set(self, entry: OpenCircuit | None) -> None:
        self.entry = entry
        self.epoch += 1
        self.failures = 0


class CircuitBreaker:
    def __init__(self, broker: Broker, *, worker: str, clock: Clock) -> None:
        self._broker = broker
        self._worker = worker
        self._clock = clock
        self._circuits: dict[str, _Circuit] = {}
        self._changed = Signal()
        broker.on_reconnect.append(self._reconnected)
        self.bucket = BucketWatch(
            broker,
            subjects.HEALTH_BUCKET,
            keys="circuit.>",
            take=self._take,
            forget_all_but=self._forget_all_but,
        )

    async def allow(self, endpoint: EndpointId, *, revision: int) -> "BreakerToken":
        """A ticket for one call. Raises OutOfService. `revision` is that of the provider's configuration."""
        circuit = self._circuits.setdefault(str(endpoint), _Circuit())
        entry = circuit.entry
        if entry is None:
            return BreakerToken(self, endpoint, revision=revision, epoch=circuit.epoch)
        left_s = self._left_s(entry)
        if entry.revision < revision or left_s < -_KEPT_S:
            await self._close(endpoint, circuit)
            return BreakerToken(self, endpoint, revision=revision, epoch=circuit.epoch)
        if left_s > 0 or circuit.claiming or not await self._claim(endpoint, circuit, entry):
            raise OutOfService(endpoint, entry.reason, max(left_s, _SOON_S))
        return BreakerToken(self, endpoint, revision=revision, epoch=circuit.epoch, probes=entry.opened_at)

    async def wait(self, endpoints: Sequence[EndpointId], *, at_most_s: float) -> None:
        """Until one of them may be called or probed, or the time is over."""
        give_up = self._clock.monotonic() + at_most_s
        while (left_s := give_up - self._clock.monotonic()) > 0:
            changed = self._changed.next
            due_s = min(self._due_s(endpoint) for endpoint in endpoints)
            if due_s <= 0:
                return
            await wait_for(changed, at_most_s=min(due_s, left_s))

    async def note_success(self, endpoint: EndpointId, *, epoch: int, probes: datetime | None) -> None:
        """A probe that was overtaken by another one is as good an answer, as long as the circuit was not closed."""
        circuit = self._circuits[str(endpoint)]
        if circuit.entry is not None and circuit.entry.opened_at == probes:
            await self._close(endpoint, circuit)
        elif circuit.epoch == epoch:
            circuit.failures = 0

    async def note_failure(self, endpoint: EndpointId, error: FleetError, *, epoch: int, revision: int) -> None:
        circuit = self._circuits[str(endpoint)]
        if circuit.epoch != epoch:
            return
        circuit.failures += 1
        generation = circuit.entry.generation + 1 if circuit.entry else 1
        if error.code is ErrorCode.RATE_LIMITED:
            open_s = cool_down_s(error.retry_after_s, generation)
        elif circuit.entry or circuit.failures >= MAX_FAILURES:
            open_s = growing_s(OPEN_FIRST_S, OPEN_MAX_S, generation)
        else:
            return
        now = self._clock.now()
        entry = OpenCircuit(
            tenant=endpoint.tenant,
            provider=endpoint.provider,
            endpoint=endpoint.endpoint,
            reason=error.code,
            opened_at=circuit.entry.opened_at if circuit.entry else now,
            until=now + timedelta(seconds=open_s),
            generation=generation,
            revision=revision,
            worker=self._worker,
        )
        circuit.set(entry)
        self._changed.notify_all()
        telemetry.CIRCUITS_OPENED.labels(endpoint.provider, error.code).inc()
        log.warning("circuit_opened", extra={"circuit": str(endpoint), "reason": error.code, "open_s": open_s})
        await self._write(endpoint, circuit, entry)

    async def leave_probe(self, endpoint: EndpointId, *, epoch: int) -> None:
        """The probe says nothing, because its request was stopped; another may try at once."""
        circuit = self._circuits[str(endpoint)]
        if circuit.entry is None or circuit.epoch != epoch:
            return
        due = circuit.entry.model_copy(update={"until": self._clock.now()})
        circuit.set(due)
        self._changed.notify_all()
        await self._write(endpoint, circuit, due, expected=circuit.sequence)

    async def _close(self, endpoint: EndpointId, circuit: _Circuit) -> None:
        circuit.set(None)
        self._changed.notify_all()
        log.warning("circuit_closed", extra={"circuit": str(endpoint)})
        headers = {"KV-Operation": "PURGE", "Nats-Rollup": "sub", MSG_TTL: str(_KEPT_S)}
        try:
            await self._broker.client.publish(_subject(endpoint), b"", headers=headers)
        except nats.errors.Error as exc:
            _not_shared(endpoint, type(exc).__name__)

    async def _claim(self, endpoint: EndpointId, circuit: _Circuit, entry: OpenCircuit) -> bool:
        """Whether this worker has the probe; all others see by the entry that it is taken."""
        until = self._clock.now() + timedelta(seconds=PROBE_S)
        taken = entry.model_copy(update={"until": until, "worker": self._worker})
        circuit.claiming = True
        try:
            won = await self._write(endpoint, circuit, taken, expected=circuit.sequence)
        finally:
            circuit.claiming = False
            self._changed.notify_all()
        if circuit.entry is entry:  # else the watch was faster
            soon = entry.model_copy(update={"until": self._clock.now() + timedelta(seconds=_SOON_S)})
            circuit.set(taken if won else soon)
        return won

    async def _write(
        self, endpoint: EndpointId, circuit: _Circuit, entry: OpenCircuit, *, expected: int | None = None
    ) -> bool:
        """Whether it is stored. Without an answer nobody is told, and this worker goes by what it knows itself."""
        headers = {MSG_TTL: str(max(1, math.ceil(self._left_s(entry)) + _KEPT_S))}
        if expected is not None:
            headers[EXPECTED_SEQUENCE] = str(expected)
        try:
            answer = await self._broker.client.request(
                _subject(endpoint), entry.to_json(), timeout=_ANSWER_S, headers=headers
            )
        except nats.errors.Error as exc:
            _not_shared(endpoint, type(exc).__name__)
            return False
        stored = json.loads(answer.data)
        if error := stored.get("error"):
            if error.get("description", "").endswith(NOTHING_THERE):
                circuit.sequence = 0
            return False
        circuit.sequence = max(circuit.sequence, int(stored["seq"]))
        return True

    def _take(self, key: str, value: bytes | None, sequence: int) -> None:
        circuit = self._circuits.setdefault(key, _Circuit())
        if sequence <= circuit.sequence:
            return
        circuit.sequence = sequence
        entry: OpenCircuit | None = None
        if value is not None:
            try:
                entry = OpenCircuit.model_validate_json(value, extra="ignore")
            except ValidationError as exc:
                log.error("circuit_invalid", extra={"circuit": key, "errors": exc.error_count()})
        if entry is not None or circuit.entry is not None:
            circuit.set(entry)
            self._changed.notify_all()

    def _forget_all_but(self, seen: set[str]) -> None:
        """What is not in the bucket any more is closed."""
        for key, circuit in self._circuits.items():
            if key not in seen and circuit.entry is not None:
                circuit.set(None)
        self._changed.notify_all()

    async def _reconnected(self) -> None:
        """A server that was restarted has lost the bucket, and counts from 1 again."""
        for circuit in self._circuits.values():
            circuit.sequence = 0

    def _due_s(self, endpoint: EndpointId) -> float:
        circuit = self._circuits.get(str(endpoint))
        if circuit is None or circuit.entry is None:
            return 0.0
        return _ANSWER_S if circuit.claiming else self._left_s(circuit.entry)

    def _left_s(self, entry: OpenCircuit) -> float:
        return (entry.until - self._clock.now()).total_seconds()


class BreakerToken:
    """For one call; told once how it went."""

    def __init__(
        self,
        breaker: CircuitBreaker,
        endpoint: EndpointId,
        *,
        revision: int,
        epoch: int,
        probes: datetime | None = None,
    ) -> None:
        """`probes`: when the circuit opened that this call is to try; None when it is closed."""
        self._breaker = breaker
        self._endpoint = endpoint
        self._revision = revision
        self._epoch = epoch
        self._probes = probes
        self._told = False

    async def succeeded(self) -> None:
        """The first output is enough."""
        if not self._told:
            self._told = True
            await self._breaker.note_success(self._endpoint, epoch=self._epoch, probes=self._probes)

    async def failed(self, error: FleetError) -> None:
        if not RULES[error.code].breaks_circuit and error.code is not ErrorCode.RATE_LIMITED:
            await self.succeeded()
        elif not self._told:
            self._told = True
            await self._breaker.note_failure(self._endpoint, error, epoch=self._epoch, revision=self._revision)

    async def dropped(self) -> None:
        """The call was stopped before it could tell anything."""
        if not self._told:
            self._told = True
            if self._probes is not None:
                await self._breaker.leave_probe(self._endpoint, epoch=self._epoch)


def growing_s(first_s: float, most_s: float, generation: int) -> float:
    return min(most_s, first_s * 2 ** min(generation - 1, 16))


def cool_down_s(named_s: float | None, generation: int) -> float:
    """Until the time that the vendor named, at most COOL_DOWN_LONGEST_S; else longer each time."""
    if named_s is not None:
        return min(max(named_s, _SOON_S), COOL_DOWN_LONGEST_S)
    return growing_s(COOL_DOWN_FIRST_S, COOL_DOWN_MAX_S, generation)


def _subject(endpoint: EndpointId) -> str:
    return f"$KV.{subjects.HEALTH_BUCKET}.{endpoint}"


def _not_shared(endpoint: EndpointId, error: str) -> None:
    log.warning("circuit_not_shared", extra={"circuit": str(endpoint), "error": error})
