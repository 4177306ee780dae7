"""One request while a worker has it: what was asked, how far it has come, and where its events go."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pydantic import ValidationError

from contracts import subjects
from contracts.control import HANDOVER, MSG_ID, REPLAY, Handover
from contracts.errors import Error, ErrorCode, FleetError, MalformedRequest
from contracts.events import FailedAttempt
from contracts.providers import PublishedTenant
from contracts.requests import DEFAULT_DEADLINE_S, CompletionRequest
from contracts.subjects import RequestAddress
from contracts.wire import errors_in_one_line
from runtime import lenient_json
from runtime.prices.catalogue import context_window
from workers.endpoints.names import Candidate
from workers.intake.delivery import Delivery
from workers.interruption import Interruption
from workers.quotas.budgets import Reservation
from workers.request.events import EventStream
from workers.request.usage_records import Bill


@dataclass(slots=True)
class Job:
    delivery: Delivery
    address: RequestAddress
    request: CompletionRequest
    body: bytes
    """The request's JSON, as every pool can read it."""
    handover: Handover | None
    events: EventStream
    interruption: Interruption
    queued_at: datetime
    queued_s: float
    tenant: PublishedTenant
    """Bare until the configuration has been asked."""
    candidates: list[Candidate] = field(default_factory=list)
    """What is still to be tried, the next one first."""
    left_out: list[str] = field(default_factory=list[str])
    """A sentence for each fallback that was asked for and cannot be tried."""
    attempts: int = 0
    """Vendor calls so far."""
    history: list[FailedAttempt] = field(default_factory=list)
    bill: Bill = field(default_factory=Bill)
    reservation: Reservation | None = None
    """What is kept free of the tenant's budget for the attempt that is made."""

    @property
    def is_new(self) -> bool:
        """Whether no worker of this pool has said anything about it yet."""
        return self.events.attempt == (self.handover.attempt if self.handover else 1)

    @property
    def may_have_a_past(self) -> bool:
        """Whether it was delivered before, or may be: only its id as message id makes JetStream drop a copy."""
        has_its_id = self.handover is not None or self.delivery.headers.get(MSG_ID) == self.request.id
        is_no_copy = has_its_id and self.delivery.ids_known
        return self.delivery.deliveries > 1 or self.delivery.may_be_again or not is_no_copy

    @property
    def runs_once_more(self) -> bool:
        """Whether an admin replays it: that it has ended before is why."""
        return self.delivery.deliveries == 1 and self.delivery.headers.get(MSG_ID, "").startswith(REPLAY)

    @property
    def deadline(self) -> datetime:
        return self.request.deadline or self.queued_at + timedelta(seconds=DEFAULT_DEADLINE_S)

    def time_left_s(self, now: datetime) -> float:
        return (self.deadline - now).total_seconds()

    @property
    def affordable_request(self) -> CompletionRequest:
        """The request, its answer bounded to what the tenant's budget covers."""
        if self.reservation is None or self.reservation.max_tokens is None:
            return self.request
        return self.request.model_copy(update={"max_tokens": self.reservation.max_tokens})

    @property
    def warnings(self) -> tuple[str, ...]:
        if self.affordable_request is self.request:
            return tuple(self.left_out)
        most = self.affordable_request.max_tokens
        bounded = f"the answer was bounded to {most} tokens, because that is what was left of the tenant's budget"
        return (*self.left_out, bounded)

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

    async def say_retrying(self, error: FleetError, *, next_up: Candidate, delay_s: float = 0) -> None:
        await self.events.retrying(error.to_wire(), delay_s=delay_s, provider=next_up.provider, model=next_up.model)

    def log_facts(self) -> dict[str, str]:
        return {"request_id": self.request.id, "tenant": self.request.tenant, "agent": self.request.agent}


def parse_request(delivery: Delivery) -> tuple[RequestAddress, CompletionRequest, bytes]:
    """What was asked, and its JSON, mended where an agent cut a character in two.

    Raises MalformedRequest; its message names fields and never repeats what stands in them.
    """
    try:
        address = subjects.parse_request(delivery.subject)
        request, body = lenient_json.parse(CompletionRequest, delivery.data)
    except ValidationError as exc:
        raise MalformedRequest(f"the request is not valid: {errors_in_one_line(exc)}") from None
    except ValueError as exc:
        raise MalformedRequest(str(exc)) from None
    if request.tenant != address.tenant:
        raise MalformedRequest(
            f"the request says tenant {request.tenant}, its subject says {address.tenant}; they must be the same"
        )
    return address, request, body


def check_model(address: RequestAddress, request: CompletionRequest) -> None:
    """An agent sends a request to the provider that its model names. Raises MalformedRequest."""
    prefix = request.model.partition("/")[0]
    if address.provider != subjects.AUTO and prefix in list(subjects.Provider) and prefix != address.provider:
        raise MalformedRequest(
            f"the model is of {prefix}, but the request was sent to {address.provider}; "
            f"send it to {subjects.request(prefix, address.priority, address.tenant)}"
        )


def parse_handover(delivery: Delivery, address: RequestAddress) -> Handover | None:
    """What an agent may have written, too: it leads to no pool that is not there, and not into the future.

    Raises MalformedRequest.
    """
    if (header := delivery.headers.get(HANDOVER)) is None:
        return None
    try:
        told = Handover.model_validate_json(header)
    except ValidationError:
        raise MalformedRequest(f"the header {HANDOVER} is not valid; agents do not set it") from None
    if Candidate.parse(told.model).provider != address.provider:
        raise MalformedRequest(f"the header {HANDOVER} names another provider than the subject; agents do not set it")
    known = tuple(text for text in told.remaining if Candidate.parse(text).provider in list(subjects.Provider))
    return told.model_copy(update={"remaining": known, "queued_at": min(told.queued_at, delivery.queued_at)})
