"""The journal of vendor calls: what is on disk of each one before its vendor is asked (stream `LLM_ATTEMPTS`).

A call ends with its usage record, which has the same `id`. When its worker died, whoever goes on with the request books
the call from here and, when nobody does, the usage consumer. So a call is on the bill whatever dies.
"""

import os
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from contracts.usage import RecordId
from contracts.wire import Token, UtcTime, WireModel


class Begun(WireModel):
    """A vendor is about to be asked."""

    type: Literal["begun"] = "begun"
    id: RecordId
    """That of the usage record that will end it."""
    request_id: Token
    attempt: Annotated[int, Field(ge=1)]
    tenant: Token
    agent: Token
    provider: Token
    provider_id: str
    endpoint: str
    model: str
    worker: str
    request_seq: Annotated[int, Field(ge=1)]
    """The place of the request's message in `LLM_REQUESTS`: two messages with the same request are told apart by it."""
    started_at: UtcTime
    ends_by: UtcTime
    """The call is over by then, by its request's deadline or its endpoint's time limit."""
    queued_s: Annotated[float, Field(ge=0)]
    input_tokens: Annotated[int, Field(ge=0)]
    """An estimate of what is sent to the vendor."""


class Unmade(WireModel):
    """Nothing of the call with this id was sent: it has no usage record."""

    type: Literal["unmade"] = "unmade"
    id: RecordId


Entry = Begun | Unmade
ENTRY: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="type")])


def new_id(at: datetime) -> str:
    """An id for a vendor call that nobody else can have or guess; later ones sort behind earlier ones."""
    return f"{int(at.timestamp() * 1000):012x}{os.urandom(10).hex()}"
