"""Taking over a request that another worker had: what it left to do, and where to go on.

Reading is one thing (`Takeover`), deciding another (`take_over`, which is pure).
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

import nats.errors

from contracts.attempts import Begun
from contracts.errors import InternalError, StreamInterrupted
from contracts.events import Event, FailedAttempt, Started, Terminal
from contracts.events import Failed as FailedEvent
from workers.clock import Clock
from workers.endpoints.names import Candidate
from workers.jetstream.server_memory import ServerMemory
from workers.request import policy, recovery
from workers.request.job import Job
from workers.request.journal import Written
from workers.request.live_streams import REPUBLISHED_S
from workers.request.outcome import Buried, DoneBefore, Failed, GivenBack, Known, Refused
from workers.request.recovery import Past
from workers.request.results import of_another
from workers.request.settlement import Settlement

log = logging.getLogger(__name__)

RECENT = timedelta(seconds=15)
"""A call that was begun so lately may be under way although no event of it is stored yet."""
COPY_WAITS_S, COPY_WAITS_MAX_S = 2.0, 30.0
"""A copy of a request that another worker is working on is looked at again after so long, longer each time."""
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
    died: tuple[Begun, ...] = ()
    """Vendor calls of which the journal alone knows, and whose workers died in them, as far as is known."""
    end: Failed | Buried | None = None
    """The outcome, when the past leaves nothing to try."""


def left_to_another(
    job: Job,
    begun: Sequence[Begun],
    last: Event | None,
    memory: ServerMemory | None,
    *,
    now: datetime,
    pool: str,
    republished_s: float,
) -> DoneBefore | Known | GivenBack | None:
    """What to do with a request whose last vendor call was begun for another message: one of the pool that it was
    handed to, or a copy. None: that message is over, and the request's id is used once more.

    `last` is the last event that is stored of it. Events are kept for ten minutes, so whoever works on a request has
    said something that is.
    """
    call = begun[-1]
    if last is not None and last.attempt >= call.attempt and isinstance(last, Terminal):
        return _answer(last) or GivenBack(NO_ANSWER_S)  # its result is about to be stored
    has_said_something = (
        now - call.started_at < RECENT
        or (last is not None and last.attempt >= call.attempt)
        or memory is None
        or (memory.begins_at > call.started_at and memory.age_s < republished_s)
    )
    goes_on = has_said_something and now < call.ends_by + RECENT
    # Handed over or taken over, most often to another pool: that message carries it on, and books it.
    if any(entry.request_seq == job.delivery.stream_seq for entry in begun):
        return DoneBefore()
    if goes_on and (call.provider != pool or job.time_left_s(now) <= 0):
        return DoneBefore()
    return GivenBack(min(COPY_WAITS_MAX_S, COPY_WAITS_S * job.provenance.deliveries)) if goes_on else None


def take_over(
    job: Job,
    past: Past | None,
    begun: Sequence[Begun],
    memory: ServerMemory | None,
    *,
    pool: str,
    republished_s: float,
) -> Fresh | GoOn | DoneBefore | GivenBack:
    """What to do with a request of which the events of `past` are stored, and of which the journal has the vendor calls
    `begun`. No other message with the same request is worked on. It reads `job`, and changes nothing.

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
    said = set(past.called) if past else set[int]()
    own = [entry for entry in begun if entry.request_seq == job.delivery.stream_seq]
    unsaid = [entry for entry in own if entry.attempt not in said]
    if past is None and not unsaid:
        return GoOn(tuple(job.candidates), forgotten_deliveries=skipped) if forgotten else Fresh()
    if provenance.is_replay and not own:
        return GoOn(tuple(job.candidates), after=past.last if past else None)
    if past is not None and recovery.has_moved(past, pool=pool):
        return DoneBefore()
    unbooked = past if past and past.perhaps_unbooked else None
    if past is not None and isinstance(past.last, Terminal) and not _is_overtaken(past.last, own):
        return DoneBefore(unbooked, unstored=past.last)
    # A worker that made another call after one had ended and booked that one; what it said of it is forgotten.
    followed = {entry.id for entry, later in pairwise(own) if entry.worker == later.worker}
    died = [entry for entry in unsaid if entry.id not in followed]
    return GoOn(
        tuple(recovery.remaining(past, unsaid, job.candidates)),
        after=past.last if past else None,
        forgotten_deliveries=skipped,
        vendor_calls=len(said) + len(unsaid),
        failed=past.failed if past else (),
        unbooked=unbooked,
        died=tuple(died),
        end=_end(job, past, died, vendor_calls=len(said) + len(unsaid), pool=pool),
    )


def _is_overtaken(end: Terminal, own: Sequence[Begun]) -> bool:
    """Whether another worker had begun a later attempt when this end was said, by one that was cut off: readers, who
    have heard that attempt begin, drop it."""
    return bool(own) and own[-1].attempt > end.attempt


def _end(job: Job, past: Past | None, died: Sequence[Begun], *, vendor_calls: int, pool: str) -> Failed | Buried | None:
    """What a past that has no end of its own still allows: None when the request may be tried again."""
    dead_attempts = len(died) + (past.dead_attempts if past else 0)
    if (died or (past is not None and past.abandoned)) and dead_attempts >= recovery.MAX_DEAD_ATTEMPTS:
        return Buried(InternalError(f"{dead_attempts} workers died while they worked on this request"))
    if past and past.abandoned and past.output_sent and job.request.on_interrupt == "fail":
        return Failed(StreamInterrupted("the worker died after output was sent", provider=pool))
    if job.vendor_calls + vendor_calls >= policy.MAX_ATTEMPTS:
        return Failed(
            StreamInterrupted(
                f"the last of the {policy.MAX_ATTEMPTS} calls that a request makes was cut off with its worker",
                provider=pool,
            )
        )
    return None


def _answer(end: Event) -> Known | None:
    """The answer to a copy of the request that ended so; None when it may run again."""
    return None if isinstance(end, FailedEvent) and end.error.retryable else Known(end.to_json())


class Takeover:
    """Looks for the past of a request and leaves the job where that past ended."""

    def __init__(
        self,
        pool: str,
        *,
        read_events: Callable[[str], Awaitable[Sequence[Event]]],
        read_last: Callable[[str], Awaitable[Event | None]],
        read_journal: Callable[[str], Awaitable[Written]],
        read_memory: Callable[[], Awaitable[ServerMemory | None]],
        settlement: Settlement,
        clock: Clock,
        republished_s: float = REPUBLISHED_S,
    ) -> None:
        """`read_events` gives the stored events of a reply subject, `read_last` the last of them, `read_journal` what
        lies on a request's subject of the journal, `read_memory` the server's memory of replies. All raise
        nats.errors.Error or TimeoutError when the server does not answer."""
        self._pool = pool
        self._read_events = read_events
        self._read_last = read_last
        self._read_journal = read_journal
        self._read_memory = read_memory
        self._settlement = settlement
        self._clock = clock
        self._republished_s = republished_s

    async def look_back(self, job: Job) -> Fresh | GoOn | DoneBefore | Known | Refused | GivenBack | Failed | Buried:
        """For a request that another worker may have had.

        Raises NotStored, when the usage record of a dead worker's call is not confirmed, or it cannot be known whether
        the request has ended.
        """
        try:
            if job.look is not None and (result := await job.look.found()) is not None:
                if result.origin == job.origin:
                    return DoneBefore(await self._ended_call(job, result.event))
                if not job.provenance.is_replay and (known := of_another(result, job.request)) is not None:
                    return known
                job.look, job.result_seq = None, result.sequence
                # What is read below is of this run of the request only: the one before it has ended.
                job.events.continue_after(max(result.event.attempt, job.events.attempt - 1))
            # The journal first: what is in it has been said, or its worker is dead, by the time the events are read.
            written = await self._read_journal(job.journal_subject)
            # The attempts of the pools before this one are known from the handover.
            begun = [entry for entry in written.begun if entry.attempt >= job.events.attempt]
            memory = await self._read_memory() if job.provenance.was_given_before or begun else None
            if begun and begun[-1].request_seq != job.delivery.stream_seq and not job.provenance.is_replay:
                left = left_to_another(
                    job,
                    begun,
                    await self._read_last(job.events.subject),
                    memory,
                    now=self._clock.now(),
                    pool=self._pool,
                    republished_s=self._republished_s,
                )
                if left is not None:
                    return left
            past = await self._read_past(job)
            if past is not None and past.called and past.called[-1] > (begun[-1].attempt if begun else 0):
                again = await self._read_journal(job.journal_subject)
                if again.last_seq != written.last_seq:  # begun in the meantime, by another worker: that goes on
                    return GivenBack(NO_ANSWER_S)
        except (nats.errors.Error, TimeoutError):
            return GivenBack(NO_ANSWER_S)
        if not (begun or job.provenance.was_given_before or job.provenance.is_replay) and past and past.ended:
            # Another message's end, for which no vendor was asked.
            if (known := _answer(past.last)) is not None:
                return known
            job.events.continue_after(past.last.attempt)
            past = None
        job.journal_seq = written.last_seq
        job.begun = {entry.attempt: entry for entry in begun}
        found = take_over(job, past, begun, memory, pool=self._pool, republished_s=self._republished_s)
        if not isinstance(found, GoOn):
            if begun and isinstance(found, Fresh):  # an id that is used once more: its attempts count on
                job.events.continue_after(begun[-1].attempt)
            return found
        await self._book(job, found)
        job.candidates = list(found.remaining)
        job.vendor_calls += found.vendor_calls
        job.history += found.failed
        last = max((*job.begun, found.after.attempt if found.after else 0), default=0)
        if last:
            job.events.continue_after(last)
        job.events.skip_attempts(found.forgotten_deliveries)
        return found.end or found

    async def _read_past(self, job: Job) -> Past | None:
        stored = await self._read_events(job.events.subject)
        return recovery.read([event for event in stored if event.attempt >= job.events.attempt])

    async def _ended_call(self, job: Job, end: Terminal) -> Past | None:
        """The past whose last vendor call brought this end and may have no usage record; None when all have one."""
        if isinstance(end, FailedEvent):  # each failed call was booked before
            return None
        written = await self._read_journal(job.journal_subject)
        begun = next((entry for entry in written.begun if entry.attempt == end.attempt), None)
        if begun is None:
            return None
        job.begun = {begun.attempt: begun}
        past = await self._read_past(job)
        if past is None or past.last != end:  # what was said is lost, and the result has what counts of it
            started = Started(
                request_id=end.request_id,
                attempt=end.attempt,
                seq=0,
                provider=begun.provider,
                endpoint=begun.endpoint,
                model=begun.model,
                worker=begun.worker,
                at=begun.started_at,
            )
            past = recovery.read([started, end])
        return past

    async def _book(self, job: Job, found: GoOn) -> None:
        """Books the calls of dead workers. Raises NotStored."""
        for entry in found.died:
            await self._settlement.book_unsaid(job, entry)
            log.warning("attempt_abandoned", extra={**job.log_facts(), "attempt": entry.attempt})
        if found.unbooked is not None:
            await self._settlement.book_past(job, found.unbooked)
            if found.unbooked.abandoned:
                log.warning("attempt_abandoned", extra={**job.log_facts(), "attempt": found.unbooked.last.attempt})
