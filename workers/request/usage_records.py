"""From a vendor call to its usage record: what the vendor stated, or an estimate of what was sent and received."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from operator import attrgetter

from contracts.attempts import Begun
from contracts.error_rules import RULES
from contracts.errors import FleetError, from_wire
from contracts.events import Cancelled, Completed, Delta, Event, Failed, Retrying, Started
from contracts.providers import Price
from contracts.requests import CompletionRequest
from contracts.usage import Cost, Outcome, TokenCounts, Usage, UsageRecord, UsageSource
from runtime.prices.pricing import price
from workers.endpoints.names import Candidate
from workers.providers.base import Chunk, Finish, Gathering, Stated
from workers.providers.shared import token_estimates
from workers.providers.shared.replies.token_counts import MAX_PARTS, plausible

MOST_NAME_CHARS = 256
"""How much is kept of a vendor's own name of a model or a reply."""

NOTHING = Usage(source=UsageSource.VENDOR)
"""The usage of a call that the vendor refused: it bills nothing."""


@dataclass(slots=True)
class VendorCall:
    """One call of a vendor and what came of it so far."""

    id: str
    """That of its usage record."""
    number: int
    """The attempt that its events carry."""
    candidate: Candidate
    provider_id: str
    endpoint: str
    started_at: datetime
    started: float
    """The monotonic clock when it began, in seconds."""
    queued_s: float
    """How long its request had been in the queue by then."""
    gathering: Gathering = field(default_factory=Gathering)
    time_to_first_token_s: float | None = None
    stated: Stated | None = None
    finish: Finish | None = None
    sent: bool = False
    """Whether the vendor was asked. What was not sent is no call, and has no record."""
    duration_s: float = 0.0
    """From its beginning to the vendor's last word, or until it was broken off."""


@dataclass(slots=True)
class Bill:
    """The sum over a request's vendor calls. The amount is None as soon as one call has no price."""

    usage: Usage = NOTHING
    amount: Decimal | None = Decimal(0)

    @classmethod
    def inherited(cls, usage: Usage | None, cost: Cost | None) -> "Bill":
        """The bill of the pools that had the request before; empty when none had."""
        return cls() if usage is None else cls(usage, cost.amount if cost else None)

    def add(self, record: UsageRecord) -> None:
        self.usage += record.usage
        if record.cost is None and record.usage.input_tokens + record.usage.output_tokens > 0:
            self.amount = None
        elif record.cost is not None and self.amount is not None:
            self.amount += record.cost

    def cost(self) -> Cost | None:
        return None if self.amount is None else Cost(amount=self.amount)


def usage_of(call: VendorCall, request: CompletionRequest, error: FleetError | None) -> Usage:
    """What the vendor stated; else an estimate, if the call got as far as being worked on.

    When a reply was cut off, the input is the vendor's where it was stated, and the output the larger of what the
    vendor had counted and what had arrived. A vendor that states nothing for something did not count it.
    """
    stated, is_final = None, False
    if call.finish and call.finish.usage:
        stated, is_final = call.finish.usage, True
    elif call.stated and call.stated.usage:
        stated, is_final = call.stated.usage, call.stated.is_final
    if stated and not _is_plausible(stated):
        stated = None
    if stated and is_final:
        # With an output it must have an input, too. That there was no output is believed when none has arrived.
        is_whole = bool(stated.input_tokens) if stated.output_tokens else not call.gathering.started
        if is_whole:
            return stated
    # A vendor that was asked and is silent may have worked, and bills it: then nobody can know.
    may_have_worked = error is None or (error.status is None and RULES[error.code].may_have_worked)
    if call.finish is None and call.stated is None and not call.gathering.started and not may_have_worked:
        return NOTHING
    guess = token_estimates.estimate(request, call.gathering.output_text(), at_least=call.gathering.pieces)
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


def _is_plausible(usage: Usage) -> bool:
    """Whether a reply can have been counted as this at all."""
    if len(usage.parts) > MAX_PARTS:
        return False
    return all(plausible(count) is not None for part in (usage, *usage.parts) for count in _counts_of(part))


_counts_of = attrgetter(*TokenCounts.model_fields)


def usage_record(
    request: CompletionRequest,
    call: VendorCall,
    *,
    outcome: Outcome,
    error: FleetError | None = None,
    prices: Mapping[str, Price],
) -> UsageRecord:
    """The record of a call that has ended. `prices` are the tenant's own, by `provider/model` or model."""
    usage = usage_of(call, request, error)
    last_word = call.finish or call.stated
    service_tier = last_word.service_tier if last_word else None
    response_model = last_word.response_model if last_word else None
    priced = price(
        usage,
        provider=call.candidate.provider,
        model=call.candidate.model,
        at=call.started_at,
        overrides=prices,
        service_tier=service_tier,
    )
    return UsageRecord(
        id=call.id,
        request_id=request.id,
        attempt=call.number,
        tenant=request.tenant,
        agent=request.agent,
        provider=call.candidate.provider,
        provider_id=call.provider_id,
        endpoint=call.endpoint,
        model=call.candidate.model,
        response_model=response_model and response_model[:MOST_NAME_CHARS],
        outcome=outcome,
        error_code=error.code if error else None,
        started_at=call.started_at,
        finished_at=call.started_at + timedelta(seconds=call.duration_s),
        time_to_first_token_s=call.time_to_first_token_s,
        duration_s=call.duration_s,
        queued_s=call.queued_s,
        usage=usage,
        cost=priced.amount,
        price_source=priced.source,
        price=priced.used,
        service_tier=service_tier,
        metadata=request.metadata,
    )


def call_from_journal(begun: Begun, *, ended_at: datetime) -> VendorCall:
    """The vendor call of another worker that has said nothing of it, or whose events are lost."""
    return VendorCall(
        id=begun.id,
        number=begun.attempt,
        candidate=Candidate(begun.provider, begun.model),
        provider_id=begun.provider_id,
        endpoint=begun.endpoint,
        started_at=begun.started_at,
        started=0.0,
        queued_s=begun.queued_s,
        duration_s=max(0.0, (ended_at - begun.started_at).total_seconds()),
    )


def call_from_events(
    started: Started,
    events: Sequence[Event],
    *,
    record_id: str,
    provider_id: str,
    queued_at: datetime,
    ended_at: datetime,
) -> VendorCall:
    """The vendor call of another worker, as far as its events tell."""
    call = VendorCall(
        id=record_id,
        number=started.attempt,
        candidate=Candidate(started.provider, started.model),
        provider_id=provider_id,
        endpoint=started.endpoint,
        started_at=started.at,
        started=0.0,
        queued_s=max(0.0, (started.at - queued_at).total_seconds()),
        duration_s=max(0.0, (ended_at - started.at).total_seconds()),
    )
    for event in events:
        match event:
            case Delta() if event.attempt == started.attempt:
                call.gathering.add(
                    Chunk(event.text or "", event.reasoning or "", event.refusal or "", event.tool_calls or ())
                )
            case Completed() if event.attempt == started.attempt:
                call.time_to_first_token_s = event.timings.time_to_first_token_s
                call.finish = Finish(
                    event.finish_reason,
                    event.usage,
                    response_model=event.response_model,
                    response_id=event.response_id,
                    service_tier=event.service_tier,
                )
            case _:
                pass
    return call


def outcome_of(last: Event) -> tuple[Outcome, FleetError | None]:
    """How a vendor call ended, from the last event of its attempt; an attempt without an end was abandoned."""
    match last:
        case Completed():
            return Outcome.COMPLETED, None
        case Cancelled():
            return Outcome.CANCELLED, None
        case Failed() | Retrying():
            return Outcome.FAILED, from_wire(last.error)
        case _:
            return Outcome.ABANDONED, None
