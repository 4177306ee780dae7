"""One request while a worker has it: what was asked, how far it has come, and where its events go."""

from dataclasses import dataclass, field
from datetime import datetime

from contracts.attempts import Begun
from contracts.control import Handover
from contracts.errors import DeadlineExceeded, Error, ErrorCode, FleetError
from contracts.events import FailedAttempt
from contracts.providers import PublishedTenant
from contracts.requests import AssistantMessage, CompletionRequest
from contracts.subjects import RequestAddress
from runtime.prices.catalogue import context_window
from workers.endpoints.names import Candidate
from workers.intake.delivery import Delivery
from workers.interruption import Interruption
from workers.jetstream.stored_results import Look
from workers.quotas.budgets import Reservation
from workers.request.events import EventStream
from workers.request.provenance import Provenance
from workers.request.usage_records import Bill


@dataclass(slots=True)
class Job:
    delivery: Delivery
    provenance: Provenance
    address: RequestAddress
    request: CompletionRequest
    body: bytes
    """The request's JSON, as every pool can read it."""
    handover: Handover | None
    """What the pool before this one told; None when the request comes from its agent."""
    events: EventStream
    queued_at: datetime
    """When the agent's own message entered the queue."""
    deadline: datetime
    queued_s: float
    """How long this delivery's message was in the queue."""
    tenant: PublishedTenant
    """The tenant's settings; bare until the configuration has been asked."""
    interruption: Interruption = field(default_factory=Interruption)
    candidates: list[Candidate] = field(default_factory=list)
    """What is still to be tried, the next one first."""
    left_out: list[str] = field(default_factory=list[str])
    """A sentence for each fallback that was asked for and cannot be tried."""
    vendor_calls: int = 0
    """How many were made so far, by all workers."""
    history: list[FailedAttempt] = field(default_factory=list)
    bill: Bill = field(default_factory=Bill)
    journal_subject: str = ""
    """Where the journal keeps the request's vendor calls."""
    result_subject: str = ""
    """Where its end is kept."""
    origin: str = ""
    """Names the agent's own message, also where pools have handed its request over."""
    look: Look | None = None
    """The question whether the request's id has ended before; None where there is none, or it is answered."""
    result_seq: int = 0
    """The place of an earlier result of the same id; 0: there is none, as far as is known."""
    admitted_at: datetime | None = None
    """When this worker counted it against its tenant's limits; None when it did not."""
    journal_seq: int = 0
    """The place of the last entry that the journal of vendor calls has of the request, as far as is known; 0: none."""
    begun: dict[int, Begun] = field(default_factory=dict[int, Begun])
    """What the journal has of calls by earlier deliveries of this message, by attempt."""
    said: AssistantMessage | None = None
    """What had been said of an answer that the tenant's budget broke off."""
    reservation: Reservation | None = None
    """What is kept free of the tenant's budget for the call that is made."""

    def inherit(self, told: Handover) -> None:
        """Goes on from what the pools before this one did and left to do."""
        self.candidates = [Candidate.parse(text) for text in (told.model, *told.remaining)]
        self.vendor_calls = told.vendor_calls
        self.history = list(told.history)
        self.bill = Bill.inherited(told.usage, told.cost)
        self.left_out = list(told.left_out)
        self.journal_seq = told.journal_seq

    def time_left_s(self, now: datetime) -> float:
        return (self.deadline - now).total_seconds()

    def check_goes_on(self, now: datetime) -> None:
        """Raises Interrupted, and DeadlineExceeded."""
        self.interruption.check()
        if self.time_left_s(now) <= 0:
            raise DeadlineExceeded(f"the deadline {self.deadline.isoformat()} has passed")

    def with_left_out(self, error: FleetError) -> Error:
        """The error as the request's end says it: its message goes on with why fallbacks were left out."""
        sent = error.to_wire()
        return sent.model_copy(update={"message": "; ".join((sent.message, *self.left_out))})

    def drop_smaller_windows(self, tried: Candidate, error: FleetError) -> None:
        """After `context_length_exceeded`, a fallback whose context window is known to be no larger is no help."""
        if error.code is not ErrorCode.CONTEXT_LENGTH_EXCEEDED:
            return
        too_small = context_window(tried.provider, tried.model)
        if too_small is None:
            return
        candidates, self.candidates = self.candidates, []
        for candidate in candidates:
            if (context_window(candidate.provider, candidate.model) or too_small + 1) > too_small:
                self.candidates.append(candidate)
            else:
                self.left_out.append(f"the fallback {candidate} was left out: its context window is no larger")

    async def publish_retrying(self, error: FleetError, *, next_up: Candidate, delay_s: float = 0) -> None:
        """Ends the attempt that failed; the next one begins with `next_up`, in `delay_s` seconds."""
        await self.events.retrying(error.to_wire(), delay_s=delay_s, provider=next_up.provider, model=next_up.model)

    def log_facts(self) -> dict[str, str]:
        return {"request_id": self.request.id, "tenant": self.request.tenant, "agent": self.request.agent}
