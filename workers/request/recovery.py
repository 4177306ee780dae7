"""What the stored events of a request say about its past, so that a worker can go on where another one stopped."""

from collections.abc import Sequence
from dataclasses import dataclass

from contracts.attempts import Begun
from contracts.events import Cancelled, Completed, Delta, Event, Failed, FailedAttempt, Retrying, Started
from workers.endpoints.names import Candidate

MAX_DEAD_ATTEMPTS = 3
"""A request whose worker died this often is poison."""


@dataclass(frozen=True, slots=True)
class Past:
    """What happened before this delivery."""

    events: tuple[Event, ...]
    last: Event
    last_started: Started | None
    """The beginning of the last attempt; None when that ended before a vendor was called."""
    failed: tuple[FailedAttempt, ...]
    called: tuple[int, ...]
    """The attempts in which a vendor was called."""
    dead_attempts: int
    """Attempts that started and never ended."""
    output_sent: bool
    """Whether the last attempt sent output."""

    @property
    def vendor_calls(self) -> int:
        """How many vendors were called."""
        return len(self.called)

    @property
    def ended(self) -> bool:
        return isinstance(self.last, Completed | Failed | Cancelled)

    @property
    def perhaps_unbooked(self) -> Started | None:
        """The vendor call that may have no usage record; None when all have one.

        A failed call is booked before `retrying` is published, and a call that ended its request after that end was.
        """
        return None if isinstance(self.last, Retrying) else self.last_started

    @property
    def abandoned(self) -> bool:
        """Whether the last attempt's worker died in it."""
        return self.last_started is not None and isinstance(self.last, Started | Delta)


def read(events: Sequence[Event]) -> Past | None:
    """None when nothing is stored."""
    if not events:
        return None
    ordered = sorted(events, key=lambda e: (e.attempt, e.seq))
    last = ordered[-1]
    started = {e.attempt: e for e in ordered if isinstance(e, Started)}
    ended = {e.attempt: e for e in ordered if isinstance(e, Retrying | Completed | Failed | Cancelled)}
    failed = tuple(
        FailedAttempt(provider=s.provider, model=s.model, error=end.error)
        for number, s in started.items()
        if isinstance(end := ended.get(number), Retrying)
    )
    return Past(
        events=tuple(ordered),
        last=last,
        last_started=started.get(last.attempt),
        failed=failed,
        called=tuple(sorted(started)),
        dead_attempts=sum(1 for number in started if number not in ended),
        output_sent=any(isinstance(e, Delta) and e.attempt == last.attempt for e in ordered),
    )


def has_moved(past: Past, *, pool: str) -> bool:
    """Whether another pool works on it, or has done so: then a message in that pool's queue carries it on."""
    return past.last_started is not None and past.last_started.provider != pool


def remaining(past: Past | None, unsaid: Sequence[Begun], candidates: Sequence[Candidate]) -> list[Candidate]:
    """What is still to be tried, beginning with the one that was being tried, or was said to come next. `unsaid` are
    vendor calls of which the journal alone knows."""
    if unsaid and (past is None or unsaid[-1].attempt > past.last.attempt):
        current = Candidate(unsaid[-1].provider, unsaid[-1].model)
    elif past is not None and isinstance(past.last, Retrying):
        current = Candidate(past.last.next.provider, past.last.next.model)
    elif past is not None and past.last_started is not None:
        current = Candidate(past.last_started.provider, past.last_started.model)
    else:
        return list(candidates)
    return list(candidates[candidates.index(current) :]) if current in candidates else [current, *candidates[1:]]
