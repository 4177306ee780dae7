"""What can become of a request that a worker had: a closed set. `ending.py` carries each of them out.

The names are those of outcomes here; `contracts.events` has events of the same names, and `contracts.usage.Outcome` is
the outcome of one vendor call.
"""

from dataclasses import dataclass
from typing import assert_never

from contracts.errors import FleetError
from contracts.events import Terminal
from runtime.jetstream.publishing import NotStored
from workers.endpoints.names import Candidate
from workers.interruption import Reason
from workers.providers.base import Finish
from workers.request.recovery import Past
from workers.request.usage_records import VendorCall


@dataclass(frozen=True, slots=True)
class Completed:
    """A vendor call brought a whole answer."""

    call: VendorCall
    finish: Finish


@dataclass(frozen=True, slots=True)
class Failed:
    """The request ends with an error. The vendor calls that failed before are on the job."""

    error: FleetError


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The agent does not want the answer any more."""

    call: VendorCall | None = None
    """The vendor call that was broken off; None when none was under way."""


@dataclass(frozen=True, slots=True)
class MovedOn:
    """Another provider's pool goes on with the request."""

    to: Candidate


@dataclass(frozen=True, slots=True)
class DoneBefore:
    """An earlier delivery ended the request, or gave it to another pool."""

    unbooked: Past | None = None
    """The past whose last vendor call has no usage record yet; None when all calls have one."""
    unstored: Terminal | None = None
    """The request's end, when it was said and is not on disk yet."""


@dataclass(frozen=True, slots=True)
class Known:
    """The request's id has ended before, by another message: that end is its answer."""

    said: bytes
    """The terminal event."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The request's id has ended before, and was another request's."""

    error: FleetError
    after: int
    """The last attempt of the other one."""


@dataclass(frozen=True, slots=True)
class GivenBack:
    """Another worker, or this one later, goes on with the request."""

    delay_s: float = 0.0
    """JetStream delivers it again after so many seconds."""
    call: VendorCall | None = None
    """The vendor call that was broken off for it; None when none was under way."""
    unconfirmed: NotStored | None = None
    """What JetStream did not confirm; None when the request is given back for another reason."""


@dataclass(frozen=True, slots=True)
class Buried:
    """The request kills its workers: its bytes are kept for an admin to look at, and it fails."""

    error: FleetError


@dataclass(frozen=True, slots=True)
class TakenAway:
    """The request may be another worker's by now, so that nothing more is said of it here."""


Outcome = Completed | Failed | Cancelled | MovedOn | DoneBefore | Known | Refused | GivenBack | Buried | TakenAway


def of_interruption(reason: Reason, *, call: VendorCall | None = None) -> Cancelled | GivenBack:
    match reason:
        case Reason.CANCELLED:
            return Cancelled(call)
        case Reason.DRAINING:
            return GivenBack(call=call)
        case _:
            assert_never(reason)
