"""What agents say on the control subjects, and the headers that travel with a request."""

import hashlib
from typing import Annotated

from pydantic import Field

from contracts.events import FailedAttempt
from contracts.usage import Cost, Usage
from contracts.wire import StrictWireModel, Token, UtcTime, WireModel

MSG_ID = "Nats-Msg-Id"
MSG_TTL = "Nats-TTL"
EXPECTED_SUBJECT_SEQUENCE = "Nats-Expected-Last-Subject-Sequence"
"""With it a message is stored only where the last one on its subject has this sequence; 0: where there is none."""
HANDOVER = "Fleet-Handover"
"""On a request that one pool gives to another: a `Handover` as JSON."""
HANDOVER_PROOF = "Fleet-Handover-Proof"
"""By which a worker signs that, and the request with it. Without it nothing there is believed."""
REPLAY = "replay:"
"""The prefix of a dead letter's message id when it is put into the queue once more."""
DEAD_CODE = "Fleet-Dead-Code"
DEAD_REASON = "Fleet-Dead-Reason"
DEAD_SUBJECT = "Fleet-Dead-Subject"
DEAD_AT = "Fleet-Dead-At"
DEAD_TRUNCATED = "Fleet-Dead-Truncated"


def message_id(tenant: str, agent: str, request_id: str) -> str:
    """The `Nats-Msg-Id` of a request. JetStream compares them over all tenants, so it names tenant and agent."""
    return f"{tenant}.{agent}.{request_id}"


def signed_replay(letter: str, subject: str, payload: bytes) -> bytes:
    """What the message id of a replay is signed for: the number of the letter, and where it is put back as what."""
    return b"\0".join((letter.encode(), subject.encode(), hashlib.sha256(payload).digest()))


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
    journal_seq: Annotated[int, Field(ge=0)] = 0
    """The place of the last vendor call in `LLM_ATTEMPTS` that was begun for the request; 0: none was."""
