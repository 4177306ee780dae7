"""Taking over a request that another worker had: what it left to do, and where to go on.

Reading is one thing (`Takeover`), deciding another (`take_over`, which is pure).
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import nats.errors

from contracts.errors import InternalError, StreamInterrupted
from contracts.events import Event, FailedAttempt
from workers.endpoints.names import Candidate
from workers.jetstream.server_memory import ServerMemory
from workers.request import policy, recovery
from workers.request.job import Job
from workers.request.live_streams import REPUBLISHED_S
from workers.request.outcome import Buried, DoneBefore, Failed, GivenBack
from workers.request.provenance import Origin
from workers.request.recovery import Past
from workers.request.settlement import Settlement

log = logging.getLogger(__name__)

NO_ANSWER_S = 1.0
"""A request whose past cannot be read is delivered again after so long."""
MOST_WAITS = 5
"""So many deliveries wait for what other workers publish again; the stream of replies may be gone for longer."""


@dataclass(frozen=True, slots=True)
class Fresh:
    """Nobody has worked on the request: it begins here."""


@dataclass(frozen=True, slots=True)
class GoOn:
    """The request goes on after what earlier deliveries of it did."""

    remaining: tuple[Candidate, ...]
    """The candidates that are still to be tried, the next one first."""
    after: Event | None = None
    """The last event that is known; None when all are forgotten."""
    forgotten_deliveries: int = 0
    """So many deliveries may have used attempt numbers that the server has forgotten."""
    vendor_calls: int = 0
    failed: tuple[FailedAttempt, ...] = ()
    """Those of the vendor calls that failed."""
    unbooked: Past | None = None
    """The past whose last vendor call has no usage record yet; None when all calls have one."""
    end: Failed | Buried | None = None
    """The outcome, when the past leaves nothing to try."""


def take_over(
    job: Job, past: Past | None, memory: ServerMemory | None, *, pool: str, republished_s: float
) -> Fresh | GoOn | DoneBefore | GivenBack:
    """What to do with a request of which `past` is stored. It reads `job`, and changes nothing.

    `memory` is that of the server, for what was given before; None when it keeps no replies at present. Other workers
    have published again what they had said `republished_s` after it began.
    """
    provenance = job.provenance
    forgotten = provenance.was_given_before and (memory is None or memory.begins_at > job.delivery.queued_at)
    skipped = provenance.deliveries if forgotten else 0
    # A worker that has it may not have published its events again yet. Its end, if it is known, is enough to know.
    waits = provenance.perhaps_forgotten and provenance.deliveries <= MOST_WAITS
    all_is_republished = memory is not None and memory.age_s >= republished_s
    if forgotten and waits and not all_is_republished and not (past and past.ended):
        return GivenBack(republished_s)
    if past is None:
        return GoOn(tuple(job.candidates), forgotten_deliveries=skipped) if forgotten else Fresh()
    if provenance.origin is Origin.REPLAYED:
        return GoOn(tuple(job.candidates), after=past.last)
    if recovery.has_moved(past, pool=pool):
        return DoneBefore()
    unbooked = past if past.perhaps_unbooked else None
    if past.ended:
        return DoneBefore(unbooked)
    return GoOn(
        tuple(recovery.remaining(past, job.candidates)),
        after=past.last,
        forgotten_deliveries=skipped,
        vendor_calls=past.vendor_calls,
        failed=past.failed,
        unbooked=unbooked,
        end=_end(job, past, pool=pool),
    )


def _end(job: Job, past: Past, *, pool: str) -> Failed | Buried | None:
    """What a past that has no end of its own still allows: None when the request may be tried again."""
    if past.abandoned and past.dead_attempts >= recovery.MAX_DEAD_ATTEMPTS:
        return Buried(InternalError(f"{past.dead_attempts} workers died while they worked on this request"))
    if past.abandoned and past.output_sent and job.request.on_interrupt == "fail":
        return Failed(StreamInterrupted("the worker died after output was sent", provider=pool))
    if job.vendor_calls + past.vendor_calls >= policy.MAX_ATTEMPTS:
        return Failed(
            StreamInterrupted(
                f"the last of the {policy.MAX_ATTEMPTS} calls that a request makes was cut off with its worker",
                provider=pool,
            )
        )
    return None


class Takeover:
    """Looks for the past of a request and leaves the job where that past ended."""

    def __init__(
        self,
        pool: str,
        *,
        read_events: Callable[[str], Awaitable[Sequence[Event]]],
        read_memory: Callable[[], Awaitable[ServerMemory | None]],
        settlement: Settlement,
        republished_s: float = REPUBLISHED_S,
    ) -> None:
        """`read_events` gives the stored events of a reply subject, `read_memory` the server's memory of replies; both
        raise nats.errors.Error or TimeoutError when the server does not answer."""
        self._pool = pool
        self._read_events = read_events
        self._read_memory = read_memory
        self._settlement = settlement
        self._republished_s = republished_s

    async def look_back(self, job: Job) -> Fresh | GoOn | DoneBefore | GivenBack | Failed | Buried:
        """For a request that another worker may have had.

        Raises NotStored, when the usage record of a dead worker's call is not confirmed.
        """
        try:
            stored = await self._read_events(job.events.subject)
            memory = await self._read_memory() if job.provenance.was_given_before else None
        except (nats.errors.Error, TimeoutError):
            return GivenBack(NO_ANSWER_S)
        # The attempts of the pools before this one are known from the handover.
        past = recovery.read([event for event in stored if event.attempt >= job.events.attempt])
        found = take_over(job, past, memory, pool=self._pool, republished_s=self._republished_s)
        if not isinstance(found, GoOn):
            return found
        if found.unbooked is not None:
            await self._settlement.book_past(job, found.unbooked)
            if found.unbooked.abandoned:
                log.warning("attempt_abandoned", extra={**job.log_facts(), "attempt": found.unbooked.last.attempt})
        job.candidates = list(found.remaining)
        job.vendor_calls += found.vendor_calls
        job.history += found.failed
        if found.after is not None:
            job.events.continue_after(found.after)
        job.events.skip_attempts(found.forgotten_deliveries)
        return found.end or found
