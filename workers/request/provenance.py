"""Where a delivery of a request comes from: computed once, from what JetStream says of it and from its headers.

It decides whether a past of the request is looked for, and how far that past can be trusted (takeover.py). What a
single nats-server (2.15) that was killed with -9 has forgotten, and why each is asked for:

1. To whom it gave messages a moment ago. A consumer's state is written to disk later than the messages, so what one
   worker has is given to another, and the count of deliveries may begin at 1 again: `perhaps_forgotten`.
2. The replies, which are kept in memory. What was said of the request is then unknown, until the workers that
   reconnected have published their events again.
3. The message ids of what is done and gone. It reads those of the stored messages from disk, but a copy of a request
   that was worked on before is taken as new: PERHAPS_A_COPY, for as long as the ids would have been known.
"""

from dataclasses import dataclass
from enum import Enum, auto

from contracts.control import MSG_ID, message_id
from contracts.requests import CompletionRequest
from workers.intake.delivery import Delivery


class Origin(Enum):
    """Why the message is in the queue and who may have worked on it."""

    FIRST = auto()
    """Nobody had it before: there is no past to look for."""
    PERHAPS_A_COPY = auto()
    """It is given for the first time, but JetStream would not have known a copy of a request that it had before.

    JetStream drops copies by message id only: of agents whose message id is made of the request's id, and of workers
    that hand a request over, as long as the server remembers the ids. A copy that comes as FIRST all the same, because
    its agent gave it another message id, is stopped where it would begin a vendor call (journal.py).
    """
    REDELIVERED = auto()
    """A worker had it before, or may have had it and the server has forgotten that."""
    REPLAYED = auto()
    """An admin put it into the queue once more, because it had failed: that it has ended is no reason to leave it."""


@dataclass(frozen=True, slots=True)
class Provenance:
    origin: Origin
    deliveries: int
    """How often it was given to a worker, this time included, as far as the server knows; 1 the first time."""
    perhaps_forgotten: bool
    """The server may have been killed since the request was stored, and have forgotten whom it gave it."""

    @property
    def is_replay(self) -> bool:
        return self.origin is Origin.REPLAYED

    @property
    def was_given_before(self) -> bool:
        """Whether another worker may have published events of it that the server has lost since."""
        return self.deliveries > 1 or self.perhaps_forgotten


def provenance_of(delivery: Delivery, request: CompletionRequest, *, handed_over: bool, is_replay: bool) -> Provenance:
    msg_id = delivery.headers.get(MSG_ID, "")
    usual = msg_id in (message_id(request.tenant, request.agent, request.id), request.id)
    copies_are_dropped = (handed_over or usual) and delivery.ids_known
    if delivery.deliveries == 1 and not delivery.may_be_again and copies_are_dropped and not is_replay:
        origin = Origin.FIRST
    elif is_replay:
        origin = Origin.REPLAYED
    elif delivery.deliveries > 1 or delivery.may_be_again:
        origin = Origin.REDELIVERED
    else:
        origin = Origin.PERHAPS_A_COPY
    return Provenance(origin, delivery.deliveries, perhaps_forgotten=delivery.may_be_again)
