"""What became of each request, on disk for as long as it is kept (stream `LLM_RESULTS`, contracts/results.py).

The end is stored before the usage record and the ack, so whoever gets the request again finds it: the same message
after its worker died, a copy of it an hour later, an agent that was away. One message of an agent has one end: it is
stored only where nothing is that its worker did not know of.

Whether an id has ended before is asked while the rest of a request is prepared, and known before its vendor is. It is
not asked for an id that says it was made a moment ago, because JetStream still knows the message ids of that time and
would have dropped a copy (provenance.py).
"""

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import nats.errors

from contracts import request_ids, results
from contracts.control import MSG_TTL
from contracts.errors import InvalidRequest
from contracts.events import Completed, Failed
from contracts.providers import PublishedTenant
from contracts.requests import MAX_KEEP_S, AssistantMessage, CompletionRequest
from contracts.wire import reason
from runtime.broker import Broker
from runtime.jetstream.answers import Answers
from runtime.jetstream.publishing import NotStored, Outrun, Publisher
from workers.intake.lease import Lost
from workers.jetstream import stored_attempts, stored_results
from workers.jetstream.stored_results import Look, Result
from workers.request.job import Job
from workers.request.outcome import Known, Refused

log = logging.getLogger(__name__)

NOT_KEPT = "the answer was not kept with the end of the request, as it or its tenant's setting says"
_WITHOUT_CONTENT_S = 86_400
"""For how long an end without its content is kept where the fleet keeps none with it."""
_NEW = timedelta(minutes=9)
"""A bit less than JetStream knows message ids for."""
_SKEW = timedelta(seconds=2)
_TRIES = 3
_UNREAD_LOOKS = 8
"""So many results of a tenant are looked for at the same time before its requests are refused unread."""


class EndedBefore(Exception):
    """The id of a request whose vendor was about to be asked has ended already."""


@dataclass(frozen=True, slots=True)
class Keeping:
    """For how long the end of a request is kept, and in which form."""

    seconds: int
    with_content: bool
    warning: str = ""
    """What the agent is told of it; empty: it is as it wished."""


def keeping(request: CompletionRequest, tenant: PublishedTenant, *, usual_s: int) -> Keeping:
    """What the request wishes, within its tenant's bound. An end without its content is kept for `usual_s`."""
    wished = usual_s if request.keep_s is None else request.keep_s
    most = MAX_KEEP_S if tenant.max_keep_s is None else tenant.max_keep_s
    seconds, warning = min(wished, most), ""
    if request.keep_s is not None and seconds < request.keep_s:
        warning = f"the end of this request is kept for {seconds} s, the most that its tenant's setting allows"
    if seconds:
        return Keeping(seconds, with_content=True, warning=warning)
    return Keeping(usual_s or _WITHOUT_CONTENT_S, with_content=False, warning=warning)


def differing_field(result: Result, request: CompletionRequest) -> str | None:
    """A field in which the request is another one than the one that ended; None when it is a copy."""
    digests = results.digests(request)
    names = sorted(digests.keys() | result.digests.keys())
    return next((name for name in names if digests.get(name) != result.digests.get(name)), None)


def runs_again(result: Result) -> bool:
    """Whether the id may be used once more: its request failed, and may do better another time."""
    return isinstance(result.event, Failed) and result.event.error.retryable


def of_another(result: Result, request: CompletionRequest) -> Known | Refused | None:
    """What to do with a request whose id has ended by another message; None when it may run once more."""
    if (name := differing_field(result, request)) is not None:
        return Refused(
            InvalidRequest(f"the id {request.id} was used before, for a request with another {name}; take a new id"),
            after=result.event.attempt,
        )
    return None if runs_again(result) else Known(result.said)


class Results:
    def __init__(self, broker: Broker, publisher: Publisher, *, usual_s: int) -> None:
        """`usual_s`: for how long an end is kept whose request says nothing of it."""
        self._broker = broker
        self._publisher = publisher
        self._answers = Answers(broker, within_s=stored_results.ANSWER_S)
        self._usual_s = usual_s
        self._usual = Keeping(usual_s or _WITHOUT_CONTENT_S, with_content=usual_s > 0)
        self._looking_unread = Counter[str]()

    async def look(self, subject: str, *, request_id: str, queued_at: datetime | None) -> Look | None:
        """Asks for the result on a subject, without waiting for it. `queued_at` is when the request came, where
        JetStream would have dropped a copy of it, else None. None: there can be none, of an id as new as that.

        Raises NotStored when nobody can be asked.
        """
        made_at = request_ids.made_at(request_id) if queued_at is not None else None
        if queued_at is not None and made_at is not None and -_SKEW < queued_at - made_at < _NEW:
            return None
        try:
            return Look(await self._answers.begin(stored_results.question(subject), b"", {}))
        except nats.errors.Error as exc:
            raise NotStored(f"the result cannot be asked for: {reason(exc)}") from exc

    async def read(self, subject: str) -> Result | None:
        """The result on a subject; None when there is none. Raises nats.errors.Error and TimeoutError."""
        return await stored_results.read(self._broker, subject)

    async def has(self, subject: str, *, tenant: str) -> bool:
        """Whether there is a result of a request that is about to be refused unread. A tenant's flood is not looked
        for: then the answer is no."""
        if self._looking_unread[tenant] >= _UNREAD_LOOKS:
            return False
        self._looking_unread[tenant] += 1
        try:
            return await self.read(subject) is not None
        except (nats.errors.Error, TimeoutError):
            return False
        finally:
            self._looking_unread[tenant] -= 1
            if not self._looking_unread[tenant]:
                del self._looking_unread[tenant]

    def keeping(self, job: Job) -> Keeping:
        """For how long the request's end is kept, and in which form."""
        return keeping(job.request, job.tenant, usual_s=self._usual_s)

    async def store(self, job: Job, said: bytes, *, check: Callable[[], None] | None = None) -> None:
        """Returns when the request's end, `said`, is on disk. Raises NotStored, and Lost when the request may be
        another worker's, unless `check` says what else is raised before a try."""
        is_usual = job.request.keep_s is None and job.tenant.max_keep_s is None
        kept = self._usual if is_usual else self.keeping(job)
        headers = {
            results.ORIGIN: job.origin,
            results.FIELDS: results.written(results.digests(job.request)),
            MSG_TTL: str(kept.seconds),
        }
        body = said if kept.with_content else without_content(said)
        for _ in range(_TRIES):
            try:
                job.result_seq = await self._publisher.durable(
                    job.result_subject,
                    body,
                    msg_id=f"result:{job.origin}:{job.events.attempt}",
                    headers=headers,
                    check=check or job.delivery.lease.check,
                    expected_last=job.result_seq,
                )
            except Outrun:
                stored = await self._stored(job)
                if stored is not None and stored.origin == job.origin:
                    if stored.said != body:  # by a worker that had the request before, or has it now
                        log.warning("ended_twice", extra=job.log_facts())
                    return
                job.result_seq = stored.sequence if stored else 0
            else:
                return
        raise NotStored(f"{job.result_subject}: others store there")

    async def store_though_lost(self, job: Job, said: bytes) -> None:
        """Tries to store an end that was said though the request may be another worker's, unless that one has begun a
        call: so who is given the request next finds it, though NATS may have forgotten all that was said by then."""
        if await self.is_overtaken(job):
            job.events.withdraw()
            return
        with suppress(NotStored, Lost):
            await self.store(job, said, check=_Once())

    async def is_overtaken(self, job: Job) -> bool:
        """Whether another worker has begun a call for the request since this one did, or nobody knows."""
        last_seq = 0
        try:
            async with aclosing(stored_attempts.entries(self._broker, job.journal_subject)) as found:
                async for seq, _ in found:
                    last_seq = seq
        except (nats.errors.Error, TimeoutError):
            return True
        return last_seq != job.journal_seq

    async def _stored(self, job: Job) -> Result | None:
        try:
            return await self.read(job.result_subject)
        except (nats.errors.Error, TimeoutError) as exc:
            raise NotStored(f"{job.result_subject}: {reason(exc)}") from exc


class _Once:
    """Lets the first try pass, and raises Lost before the next: what was known of other workers is old by then."""

    def __init__(self) -> None:
        self._tried = False

    def __call__(self) -> None:
        if self._tried:
            raise Lost
        self._tried = True


def without_content(said: bytes) -> bytes:
    """A terminal event without what the model said."""
    event = stored_results.terminal(said)
    match event:
        case Completed():
            bare = {"message": AssistantMessage(content=None), "warnings": (*event.warnings, NOT_KEPT)}
            return event.model_copy(update=bare).to_json()
        case Failed(message=AssistantMessage()):
            return event.model_copy(update={"message": None}).to_json()
        case _:
            return said
