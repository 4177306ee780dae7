"""The events of a request, as a worker publishes them on `llm.v1.reply.<tenant>.<agent>.<request_id>`.

Readers order by `(attempt, seq)`, drop what is lower than what they have, and ignore unknown fields. Exactly
one of `completed`, `failed` and `cancelled` ends a request.
"""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from contracts.errors import Error
from contracts.requests import AssistantMessage
from contracts.usage import Cost, Usage
from contracts.wire import Token, UtcTime, WireModel, optional

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class EventBase(WireModel):
    request_id: Token
    attempt: Annotated[int, Field(ge=1)]
    """1, 2, …; never reused for a request, also after a worker died."""
    seq: Annotated[int, Field(ge=0)]
    """0, 1, … within the attempt."""


class Started(EventBase):
    """A vendor is being called. It voids the deltas of the attempt before."""

    type: Literal["started"] = "started"
    provider: str
    endpoint: str
    model: str
    worker: str
    at: UtcTime


class ToolCallDelta(WireModel):
    index: Annotated[int, Field(ge=0)]
    id: str | None = optional()
    name: str | None = optional()
    arguments: str | None = optional()
    """A fragment of the JSON text."""


class Delta(EventBase):
    type: Literal["delta"] = "delta"
    text: str | None = optional()
    reasoning: str | None = optional()
    refusal: str | None = optional()
    tool_calls: tuple[ToolCallDelta, ...] | None = optional()


class NextCandidate(WireModel):
    provider: str
    model: str


class Retrying(EventBase):
    type: Literal["retrying"] = "retrying"
    error: Error
    delay_s: Annotated[float, Field(ge=0)]
    next: NextCandidate


class Timings(WireModel):
    queued_s: float
    time_to_first_token_s: float | None = None
    duration_s: float


class Completed(EventBase):
    type: Literal["completed"] = "completed"
    message: AssistantMessage
    finish_reason: FinishReason
    usage: Usage
    cost: Cost | None = None
    """None when no price is known."""
    provider: str
    model: str
    response_model: str | None = None
    response_id: str | None = None
    service_tier: str | None = optional()
    """What the vendor says it served the call as, when that is not its standard."""
    timings: Timings
    warnings: tuple[str, ...] = ()


class FailedAttempt(WireModel):
    provider: str
    model: str
    error: Error


class Failed(EventBase):
    type: Literal["failed"] = "failed"
    error: Error
    attempts: tuple[FailedAttempt, ...] = ()
    usage: Usage = Usage()
    """Summed over attempts."""
    cost: Cost | None = None
    message: AssistantMessage | None = optional()
    """What was said of an answer that was broken off because the tenant's daily budget was used up; absent otherwise,
    and where it would not fit into the event."""


class Cancelled(EventBase):
    type: Literal["cancelled"] = "cancelled"
    usage: Usage = Usage()
    cost: Cost | None = None


Terminal = Completed | Failed | Cancelled
Event = Started | Delta | Retrying | Terminal

EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])


def parse(data: bytes) -> Event:
    """The event in a reply message. Raises pydantic.ValidationError."""
    return EVENT.validate_json(data)
