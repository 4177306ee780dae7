"""Taking over a request that another worker had: what it left to do, and where to go on."""

import logging

import nats.errors

from contracts.errors import StreamInterrupted
from workers.intake.delivery import Ack, Acked, NotNow
from workers.jetstream import stored_events
from workers.jetstream.server_memory import ServerMemory, replies_kept_since
from workers.request import policy, recovery
from workers.request.events import SAID_AGAIN_S
from workers.request.job import Job
from workers.request.services import Services
from workers.request.settlement import Settlement

log = logging.getLogger(__name__)

_NO_ANSWER_S = 1.0
"""Until a request whose past cannot be read is delivered again."""
_WAITS = 5
"""For what other workers say again; the stream of events may be gone for longer."""


class Takeover:
    def __init__(self, pool: str, services: Services, accounts: Settlement) -> None:
        self._pool = pool
        self._use = services
        self._accounts = accounts

    async def settle_the_past(self, job: Job) -> Ack | None:
        """What an earlier delivery left to do: books what is not booked. None: the request goes on here."""
        if not job.may_have_a_past:
            return None
        past, forgotten = await self._past(job)
        if past is None:
            self._leave_out(job, forgotten)
            return None
        if job.runs_once_more:
            job.events.go_on_after(past.last)
            return None
        if recovery.has_moved(past, pool=self._pool):
            return Acked()
        if past.last_started is not None and not past.booked:
            await self._accounts.book_dead(job, past, past.last_started)
        if past.ended:
            return Acked()
        job.attempts += past.vendor_calls
        job.history += past.failed
        job.candidates = recovery.remaining(past, job.candidates)
        job.events.go_on_after(past.last)
        self._leave_out(job, forgotten)
        if past.abandoned:
            log.warning("attempt_abandoned", extra={**job.log_facts(), "attempt": past.last.attempt})
            if past.dead_attempts >= recovery.MAX_DEAD_ATTEMPTS:
                raise recovery.Poisonous(f"{past.dead_attempts} workers died while they worked on this request")
            if past.output_sent and job.request.on_interrupt == "fail":
                raise StreamInterrupted("the worker died after output was sent", provider=self._pool)
        if job.attempts >= policy.MAX_ATTEMPTS:
            raise StreamInterrupted(
                f"the last of the {policy.MAX_ATTEMPTS} calls that a request makes was cut off with its worker",
                provider=self._pool,
            )
        return None

    async def _past(self, job: Job) -> tuple[recovery.Past | None, bool]:
        """What is stored of it, and whether more was said and is forgotten. Raises NotNow when NATS cannot say."""
        try:
            events = await stored_events.events(self._use.broker, job.events.subject)
            past = recovery.read([event for event in events if event.attempt >= job.events.attempt])
            if job.delivery.deliveries == 1 and not job.delivery.may_be_again:
                return past, False
            kept = await replies_kept_since(self._use.broker)
        except (nats.errors.Error, TimeoutError) as exc:
            raise NotNow(_NO_ANSWER_S) from exc
        if kept is not None and kept.begins_at <= job.delivery.queued_at:
            return past, False
        if past is None or not past.ended:
            self._wait_for_others(job, kept)
        return past, True

    def _wait_for_others(self, job: Job, kept: ServerMemory | None) -> None:
        """Raises NotNow as long as other workers may yet say again what they had said."""
        waits = job.delivery.may_be_again and job.delivery.deliveries <= _WAITS
        if waits and (kept is None or kept.age_s < SAID_AGAIN_S):
            raise NotNow(SAID_AGAIN_S)

    def _leave_out(self, job: Job, forgotten: bool) -> None:
        """The numbers that were perhaps used: who has seen them reads nothing more that bears them.

        The server may have forgotten one delivery, too.
        """
        if forgotten:
            job.events.skip_attempts(job.delivery.deliveries)
