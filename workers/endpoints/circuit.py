"""A circuit as a value: what one worker knows of it, and what each event makes of it.

A circuit takes one model at an endpoint out of service, or all models of the endpoint.

```
            MAX_FAILURES in a row, or a 429
   Closed ────────────────────────────────▶ Open ──── its time is over ────▶ ProbeDue
     ▲                                       ▲ ▲                               │ a worker asks for the probe
     │                                       │ └─── another worker has it ── Claiming
     │              the probe fails: longer  │                                 │ it has the probe; the entry says
     │                                       └─────────────────────────────────┤ "Open" to all others meanwhile
     └─────────────────────────────────────────────────────────────────────────┘ its first output
```

The fleet shares a circuit as an entry (`contracts.health.OpenCircuit`) that is there while it is not closed. A worker
that has the probe moves the entry's time on by `PROBE_S`, so that for all others the circuit is open, and due again
should the prober die. Every change begins a new epoch, and a call of an earlier epoch says nothing any more (after
sony/gobreaker's generations).

Nothing here knows NATS or a clock; `circuit_breaker.py` carries it out.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from contracts.errors import ErrorCode, FleetError
from contracts.health import OpenCircuit
from workers.endpoints.names import CircuitId

MAX_FAILURES = 10
"""In a row, seen by one worker."""
OPEN_FIRST_S, OPEN_MAX_S = 5.0, 20.0
"""Less than a request waits for service (workers/request/policy.py), so that none fails without a probe meanwhile."""
COOL_DOWN_FIRST_S, COOL_DOWN_MAX_S = 1.0, 30.0
"""When the vendor says to wait, but not for how long."""
COOL_DOWN_LONGEST_S = 300.0
"""However long the vendor said: one wrong header must not take a model from the whole fleet for a day, and a call
every five minutes costs little. The agent is told what the vendor said."""
PROBE_S = 15.0
"""A probe that has shown nothing by then leaves its place to another."""
SOON_S = 0.1
"""When to look again for a probe that another worker has just got or given up."""
KEPT_S = 60.0
"""An entry outlives its time by this much; who comes later finds a closed circuit."""


@dataclass(frozen=True, slots=True)
class Closed:
    """What it is about may be called."""


@dataclass(frozen=True, slots=True)
class Outdated:
    """What it is about may be called, and the entry goes: the provider's configuration has changed since the circuit
    opened, or nobody has called for so long after its time that the entry says nothing any more."""


@dataclass(frozen=True, slots=True)
class Open:
    """What it is about is not to be called yet."""

    reason: ErrorCode
    left_s: float


@dataclass(frozen=True, slots=True)
class ProbeDue:
    """One worker of the fleet may make a call, to see whether it works again: who claims the entry."""

    entry: OpenCircuit


@dataclass(frozen=True, slots=True)
class Claiming:
    """This worker is asking for the probe, and has no answer yet."""

    reason: ErrorCode


State = Closed | Outdated | Open | ProbeDue | Claiming


@dataclass(frozen=True, slots=True)
class AllowedCall:
    """What a call that may be made must remember, so that its end can be counted rightly."""

    circuit: CircuitId
    epoch: int
    revision: int
    """That of the provider's configuration by which it is made."""
    probes: datetime | None = None
    """When the circuit opened that this call is to try; None: it was closed."""


@dataclass(frozen=True, slots=True)
class Circuit:
    id: CircuitId
    worker: str
    """The worker whose knowledge this is."""
    failures: int = 0
    """In a row, while closed."""
    epoch: int = 0
    """Rises whenever the entry changes."""
    entry: OpenCircuit | None = None
    """What the fleet shares; None while the circuit is closed."""
    claiming: bool = False

    def state(self, now: datetime, *, revision: int = 0) -> State:
        """`revision` is that of the provider's configuration by which a call would be made; 0 when none is at hand."""
        if self.entry is None:
            return Closed()
        left_s = (self.entry.until - now).total_seconds()
        if self.entry.revision < revision or left_s < -KEPT_S:
            return Outdated()
        if left_s > 0:
            return Open(self.entry.reason, max(left_s, SOON_S))
        return Claiming(self.entry.reason) if self.claiming else ProbeDue(self.entry)

    def on_success(self, call: AllowedCall) -> "Circuit":
        """A call has had its first output.

        A probe that was overtaken by another one is as good an answer, as long as the circuit was not closed
        meanwhile: it is known by when the circuit opened.
        """
        if self.entry is not None and self.entry.opened_at == call.probes:
            return self._changed(None)
        return replace(self, failures=0) if self.failures and self.epoch == call.epoch else self

    def on_failure(self, call: AllowedCall, error: FleetError, *, now: datetime) -> "Circuit":
        """A call has met an error that counts against what the circuit is about, or was asked to wait (429)."""
        if self.epoch != call.epoch:
            return self
        failures = self.failures + 1
        generation = self.entry.generation + 1 if self.entry else 1
        if error.code is ErrorCode.RATE_LIMITED:
            open_s = cool_down_s(error.retry_after_s, generation)
        elif self.entry or failures >= MAX_FAILURES:
            open_s = growing_s(OPEN_FIRST_S, OPEN_MAX_S, generation)
        else:
            return replace(self, failures=failures)
        return self._changed(
            OpenCircuit(
                tenant=self.id.endpoint.tenant,
                provider=self.id.endpoint.provider,
                endpoint=self.id.endpoint.endpoint,
                model=self.id.model,
                reason=error.code,
                opened_at=self.entry.opened_at if self.entry else now,
                until=now + timedelta(seconds=open_s),
                generation=generation,
                revision=call.revision,
                worker=self.worker,
            )
        )

    def on_dropped(self, call: AllowedCall, *, now: datetime) -> "Circuit":
        """A call was stopped before it could tell anything. If it was the probe, another one may be made at once."""
        if self.entry is None or call.probes is None or self.epoch != call.epoch:
            return self
        return self._changed(self.entry.model_copy(update={"until": now}))

    def on_outdated(self) -> "Circuit":
        """The entry was found to be `Outdated`."""
        return self._changed(None)

    def on_claim(self) -> "Circuit":
        """This worker asks for the probe."""
        return replace(self, claiming=True)

    def claimed(self, due: OpenCircuit, *, now: datetime) -> OpenCircuit:
        """The entry by which this worker takes the probe that is due."""
        return due.model_copy(update={"until": now + timedelta(seconds=PROBE_S), "worker": self.worker})

    def on_answer(self, due: OpenCircuit, *, won: OpenCircuit | None, now: datetime) -> "Circuit":
        """The claim of the probe that was `due` is answered. `won`: the entry as it is stored now; None: another worker
        was faster, or there was no answer. What the watch has told meanwhile is newer, and stays."""
        answered = replace(self, claiming=False)
        if self.entry != due:
            return answered
        return answered._changed(won or due.model_copy(update={"until": now + timedelta(seconds=SOON_S)}))

    def on_entry(self, entry: OpenCircuit | None) -> "Circuit":
        """Another worker has changed the entry, or it is gone (None)."""
        return self if entry is None and self.entry is None else self._changed(entry)

    def _changed(self, entry: OpenCircuit | None) -> "Circuit":
        return replace(self, entry=entry, epoch=self.epoch + 1, failures=0)


def growing_s(first_s: float, most_s: float, generation: int) -> float:
    """`first_s` seconds for generation 1, doubled with each one that follows, and at most `most_s`."""
    return min(most_s, first_s * 2 ** min(generation - 1, 16))


def cool_down_s(named_s: float | None, generation: int) -> float:
    """Until the time that the vendor named, at most COOL_DOWN_LONGEST_S; else longer each time."""
    if named_s is not None:
        return min(max(named_s, SOON_S), COOL_DOWN_LONGEST_S)
    return growing_s(COOL_DOWN_FIRST_S, COOL_DOWN_MAX_S, generation)
