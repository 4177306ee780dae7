"""What agents say on the control subjects, and the headers that travel with a request."""

from typing import Annotated

from pydantic import Field

from contracts.events import FailedAttempt
from contracts.usage import Cost, Usage
from contracts.wire import StrictWireModel, Token, UtcTime, WireModel

MSG_ID = "Nats-Msg-Id"
MSG_TTL = "Nats-TTL"
HANDOVER = "Fleet-Handover"
"""On a request that one pool gives to another: a `Handover` as JSON."""
REPLAY = "replay:"
"""The prefix of a dead letter's message id when it is put into the queue once more."""
DEAD_CODE = "Fleet-Dead-Code"
DEAD_REASON = "Fleet-Dead-Reason"
DEAD_SUBJECT = "Fleet-Dead-Subject"
DEAD_AT = "Fleet-Dead-At"
DEAD_TRUNCATED = "Fleet-Dead-Truncated"


class Cancel(StrictWireModel):
    request_id: Token


class Resume(StrictWireModel):
    request_id: Token
    agent: Token
    after: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=-1)]] = (0, -1)
    """`[attempt, seq]` of the last event that the agent has; everything later is sent."""


class Handover(WireModel):
    """What the next pool must know of a request that another pool has already worked on."""

    model: str
    """What to try now, as `provider/model`."""
    remaining: tuple[str, ...] = ()
    """The fallbacks after that, as `provider/model`."""
    left_out: tuple[str, ...] = Field(default=(), exclude_if=lambda sentences: not sentences)
    """Why a fallback that was asked for is not among them; a sentence each, for the request's end."""
    attempt: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """The number of the next attempt."""
    hops: Annotated[int, Field(ge=1, le=64)] = 1
    queued_at: UtcTime
    """When the agent's own message entered the queue."""
    history: tuple[FailedAttempt, ...] = ()
    vendor_calls: Annotated[int, Field(ge=0, le=1_000)] = 0
    usage: Usage | None = None
    """The tokens of the attempts so far; left out when there were none."""
    cost: Cost | None = None
    proof: str | None = None
    """That a worker wrote this, and that the request was held to its tenant's limits: its id, sealed by the fleet."""
