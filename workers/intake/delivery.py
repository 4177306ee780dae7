"""A request as JetStream delivered it, and what JetStream is told of it afterwards."""

from dataclasses import dataclass, field
from datetime import datetime

from contracts.subjects import Priority
from workers.intake.lease import Lease
from workers.intake.preparation import Preparation


@dataclass(frozen=True, slots=True)
class Acked:
    """The request is done, or another message carries it on: it leaves the queue (`+ACK`)."""


@dataclass(frozen=True, slots=True)
class GaveBack:
    """Another worker, or this one later, works on the request (`-NAK`)."""

    delay_s: float = 0.0
    """JetStream delivers it again after so many seconds."""


@dataclass(frozen=True, slots=True)
class Terminated:
    """The message can never be worked on, and is not delivered again (`+TERM`)."""


@dataclass(frozen=True, slots=True)
class NotAcked:
    """Nothing is said: the request may be another worker's by now."""


Ack = Acked | GaveBack | Terminated | NotAcked
"""What JetStream is told of a message after it was worked on."""


class NotNow(Exception):
    """The request cannot go on yet, and is to be delivered again after a while."""

    def __init__(self, delay_s: float) -> None:
        super().__init__(f"not for {delay_s:.1f} s")
        self.delay_s = delay_s


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """A request as JetStream delivered it."""

    subject: str
    data: bytes
    headers: dict[str, str]
    ack_subject: str
    deliveries: int
    """1 the first time."""
    queued_at: datetime
    """When it entered the stream."""
    priority: Priority
    stream_seq: int
    may_be_again: bool
    """It was stored before we met this server, which may have given it to a worker, been killed and forgotten that."""
    ids_known: bool
    """When it was stored, JetStream knew the ids of all that was stored before, and would have dropped a copy."""
    lease: Lease
    """Whether it is still this worker's."""
    preparation: Preparation = field(default_factory=Preparation)
    """Ends when its vendor is asked."""
    tenant: str = field(init=False)
    place: str = field(init=False)
    """Names the message among all that were ever stored, also in a stream that was made anew."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tenant", self.subject.rpartition(".")[2])
        object.__setattr__(self, "place", f"{self.stream_seq}-{int(self.queued_at.timestamp() * 1e6)}")

    @property
    def is_new(self) -> bool:
        """No worker can have begun it, and it is no copy of a request that came before."""
        return self.deliveries == 1 and not self.may_be_again and self.ids_known
