"""A tenant's hard daily budget on the wire: what a worker keeps free for a call before it makes it."""

from typing import Annotated

from pydantic import Field

from contracts.wire import Token, UtcTime, WireModel

UNITS_PER_USD = 10**10
"""Counters are whole numbers: of the tenth of a thousandth of a micro-dollar, as exact as the ledger."""


class Hold(WireModel):
    """KV bucket `llm_holds`, key `<tenant>.<window>.<worker>.<slot>`: empty as soon as its attempt is settled.

    What a dead worker left behind is settled by any other: by the message ids, each step counts once. Keys are used
    again, and what is settled is emptied, not deleted: a server that is killed may forget deletions.
    """

    tenant: Token
    window: Token
    """The window of the budget's counter: its day, and which budget of that day."""
    worker: Token
    slot: Annotated[int, Field(ge=0)]
    """Its number among the calls that its worker makes at the same time under budgets."""
    number: Annotated[int, Field(ge=1)]
    """The number of the call, counted by its worker."""
    units: Annotated[int, Field(ge=0)]
    """What was added to the counter."""
    returned: Annotated[int, Field(ge=0)] = 0
    """What was taken back from it at once, because less was left."""
    at: UtcTime

    @property
    def name(self) -> str:
        return f"{self.worker}-{self.number}"
