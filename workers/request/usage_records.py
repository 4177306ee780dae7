"""From an attempt to its usage record: what the vendor stated, or an estimate of what was sent and received."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from contracts.error_rules import RULES
from contracts.errors import ErrorCode, FleetError, from_wire
from contracts.events import Cancelled, Completed, Delta, Event, Failed, Retrying, Started
from contracts.providers import Price
from contracts.requests import CompletionRequest
from contracts.usage import Cost, Outcome, TokenCounts, Usage, UsageRecord, UsageSource, record_id
from runtime.prices.pricing import price
from workers.endpoints.names import Candidate
from workers.providers.base import Chunk, Finish, Gathering, Stated
from workers.providers.shared import token_estimates
from workers.providers.shared.replies.token_counts import MAX_PARTS, plausible

_MOST_NAME_CHARS = 256
"""Of a model and a reply as the vendor calls them."""

NOTHING = Usage(source=UsageSource.VENDOR)
"""A refused call: the vendor said no, and bills nothing."""


@dataclass(slots=True)
class Attempt:
    """One vendor call and what came of it so far."""

    number: int
    candidate: Candidate
    provider_id: str
    endpoint: str
    started_at: datetime
    started: float
    """On the monotonic clock."""
    gathering: Gathering = field(default_factory=Gathering)
    time_to_first_token_s: float | None = None
    stated: Stated | None = None
    finish: Finish | None = None

    @property
    def answer(self) -> Finish | Stated | None:
        """The vendor's last word on the call."""
        return self.finish or self.stated

    @property
    def response_model(self) -> str | None:
        named = self.answer.response_model if self.answer else None
        return named and named[:_MOST_NAME_CHARS]

    @property
    def response_id(self) -> str | None:
        named = self.finish.response_id if self.finish else None
        return named and named[:_MOST_NAME_CHARS]


@dataclass(slots=True)
class Bill:
    """The sum over a request's attempts. The cost is None as soon as one attempt has no price."""

    usage: Usage = NOTHING
    amount: Decimal | None = Decimal(0)

    @classmethod
    def inherited(cls, usage: Usage | None, cost: Cost | None) -> "Bill":
        """From the pool that handed the request over."""
        return cls() if usage is None else cls(usage, cost.amount if cost else None)

    def add(self, book: UsageRecord) -> None:
        self.usage += book.usage
        if book.cost is None and book.usage.input_tokens + book.usage.output_tokens > 0:
            self.amount = None
        elif book.cost is not None and self.amount is not None:
            self.amount += book.cost

    def cost(self) -> Cost | None:
        return None if self.amount is None else Cost(amount=self.amount)


def usage_of(attempt: Attempt, request: CompletionRequest, error: FleetError | None) -> Usage:
    """What the vendor stated; else an estimate, if the call got as far as being worked on.

    Of a reply that was cut off, the input is the vendor's where it was stated, and the output the larger of what the
    vendor had counted and what had arrived. A vendor that states nothing for something did not count it.
    """
    stated, is_final = _stated_usage(attempt)
    if stated and is_final and _covers(stated, attempt.gathering):
        return stated
    if not _was_worked_on(attempt, error):
        return NOTHING
    guess = token_estimates.estimate(request, attempt.gathering.output_text(), at_least=attempt.gathering.pieces)
    if stated is None:
        return guess
    cached = stated.cache_read_tokens + stated.cache_write_tokens
    counted = stated.output_tokens if is_final else 0
    return stated.model_copy(
        update={
            "input_tokens": stated.input_tokens or max(guess.input_tokens, cached),
            "output_tokens": counted or max(guess.output_tokens, stated.output_tokens, stated.reasoning_tokens),
            "source": UsageSource.ESTIMATED,
        }
    )


def _stated_usage(attempt: Attempt) -> tuple[Usage | None, bool]:
    """The vendor's last count, and whether it is of the whole reply. What no reply can have been counted as is none."""
    if attempt.finish and attempt.finish.usage:
        usage, is_final = attempt.finish.usage, True
    elif attempt.stated:
        usage, is_final = attempt.stated.usage, attempt.stated.is_final
    else:
        return None, False
    return (usage, is_final) if usage is None or _is_plausible(usage) else (None, False)


def _is_plausible(usage: Usage) -> bool:
    counts = (getattr(part, name) for part in (usage, *usage.parts) for name in TokenCounts.model_fields)
    return len(usage.parts) <= MAX_PARTS and all(plausible(count) is not None for count in counts)


def _covers(stated: Usage, arrived: Gathering) -> bool:
    """Whether it has an output if there was one, and an input: only a call that was refused at once has neither."""
    if arrived.started and not stated.output_tokens:
        return False
    return bool(stated.input_tokens or not stated.output_tokens)


def _was_worked_on(attempt: Attempt, error: FleetError | None) -> bool:
    """Also true when nobody can know: a vendor that was asked and silent may have worked, and bills it."""
    if error is None or attempt.answer is not None or attempt.gathering.started:
        return True
    return error.status is None and RULES[error.code].may_have_worked


def record(
    request: CompletionRequest,
    attempt: Attempt,
    *,
    outcome: Outcome,
    error_code: ErrorCode | None,
    usage: Usage,
    prices: Mapping[str, Price],
    finished_at: datetime,
    duration_s: float,
    queued_s: float,
) -> UsageRecord:
    answer = attempt.answer
    priced = price(
        usage,
        provider=attempt.candidate.provider,
        model=attempt.candidate.model,
        at=attempt.started_at,
        overrides=prices,
        service_tier=answer.service_tier if answer else None,
    )
    return UsageRecord(
        id=record_id(request.id, attempt.number),
        request_id=request.id,
        attempt=attempt.number,
        tenant=request.tenant,
        agent=request.agent,
        provider=attempt.candidate.provider,
        provider_id=attempt.provider_id,
        endpoint=attempt.endpoint,
        model=attempt.candidate.model,
        response_model=attempt.response_model,
        outcome=outcome,
        error_code=error_code,
        started_at=attempt.started_at,
        finished_at=finished_at,
        time_to_first_token_s=attempt.time_to_first_token_s,
        duration_s=duration_s,
        queued_s=queued_s,
        usage=usage,
        cost=priced.amount,
        price_source=priced.source,
        price=priced.used,
        service_tier=answer.service_tier if answer else None,
        metadata=request.metadata,
    )


def attempt_from_events(started: Started, events: Sequence[Event], *, provider_id: str) -> Attempt:
    """The attempt of another worker, as far as its events tell."""
    attempt = Attempt(
        number=started.attempt,
        candidate=Candidate(started.provider, started.model),
        provider_id=provider_id,
        endpoint=started.endpoint,
        started_at=started.at,
        started=0.0,
    )
    for event in events:
        match event:
            case Delta() if event.attempt == started.attempt:
                attempt.gathering.add(
                    Chunk(event.text or "", event.reasoning or "", event.refusal or "", event.tool_calls or ())
                )
            case Completed() if event.attempt == started.attempt:
                attempt.time_to_first_token_s = event.timings.time_to_first_token_s
                attempt.finish = Finish(
                    event.finish_reason,
                    event.usage,
                    response_model=event.response_model,
                    response_id=event.response_id,
                    service_tier=event.service_tier,
                )
            case _:
                pass
    return attempt


def outcome_of(last: Event) -> tuple[Outcome, FleetError | None]:
    """What the last event of an attempt says of it; an attempt without an end was abandoned."""
    match last:
        case Completed():
            return Outcome.COMPLETED, None
        case Cancelled():
            return Outcome.CANCELLED, None
        case Failed() | Retrying():
            return Outcome.FAILED, from_wire(last.error)
        case _:
            return Outcome.ABANDONED, None
