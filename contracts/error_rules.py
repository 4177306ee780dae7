"""What the fleet does about each error code: one row for each, so that a new code is decided here and nowhere else.

`workers/request/policy.py` decides by `remedy` and `breaks_stream`, the circuit breaker by `counts_against`, usage
records by `may_have_worked`, and the mock provider by `can_come_from_vendor`. Whether an error is `retryable` for the
agent is a fact of its class (contracts/errors.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from contracts.errors import ErrorCode


class Remedy(Enum):
    """What may still serve a request after an error."""

    RETRY = auto()
    """The same endpoint again after a pause, then the next endpoint, then the next fallback."""
    OTHER_ENDPOINT = auto()
    """The same call would fail again here: the next endpoint at once, then the next fallback."""
    FALLBACK = auto()
    """Every endpoint of this provider would answer the same: the next fallback at once."""
    FAIL = auto()
    """Nothing: the request ends with the error."""


class Scope(Enum):
    """What an error counts against, and what a circuit takes out of service."""

    MODEL = auto()
    """One model at one endpoint. Other models there are not concerned."""
    ENDPOINT = auto()
    """All models of the endpoint: it cannot be reached, or refuses the key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What an error code means to the parts of a worker."""

    remedy: Remedy
    counts_against: Scope | None = None
    """Whose circuit it may open; None: it says nothing against the vendor."""
    breaks_stream: bool = False
    """Whether it breaks off a stream that was well under way, so that `on_interrupt` decides what follows."""
    may_have_worked: bool = False
    """Whether a vendor that sent no status may have done the work all the same, and bill it."""
    can_come_from_vendor: bool = False
    """Whether a call of a vendor can end with it. All other codes are the fleet's own."""


RULES: Mapping[ErrorCode, Rule] = {
    # The request itself: it is refused before a vendor is asked, by every worker alike.
    ErrorCode.MALFORMED_REQUEST: Rule(remedy=Remedy.FAIL),
    ErrorCode.UNKNOWN_TENANT: Rule(remedy=Remedy.FAIL),
    # A candidate that is not configured (any more). The next one may be.
    ErrorCode.UNKNOWN_MODEL: Rule(remedy=Remedy.FALLBACK),
    ErrorCode.NO_PROVIDER: Rule(remedy=Remedy.FALLBACK),
    # Another model may be able to do it, or have the room.
    ErrorCode.UNSUPPORTED_FEATURE: Rule(remedy=Remedy.FALLBACK, can_come_from_vendor=True),
    ErrorCode.CONTEXT_LENGTH_EXCEEDED: Rule(remedy=Remedy.FALLBACK, can_come_from_vendor=True),
    # No fallback: what one vendor refuses for its content would be carried from vendor to vendor, and a request that
    # is wrong is wrong for all of them.
    ErrorCode.INVALID_REQUEST: Rule(remedy=Remedy.FAIL, can_come_from_vendor=True),
    ErrorCode.CONTENT_FILTERED: Rule(remedy=Remedy.FAIL, can_come_from_vendor=True),
    # Vendors count by model, and have said when this one will answer again. So one such answer is enough for the
    # circuit breaker, which cools the model down until then.
    ErrorCode.RATE_LIMITED: Rule(
        remedy=Remedy.RETRY, counts_against=Scope.MODEL, breaks_stream=True, can_come_from_vendor=True
    ),
    # The model is in trouble, which may pass. An overloaded or absent one has refused the work, and bills nothing. What
    # never reached the vendor counts against the endpoint (`NotReached` in workers/providers/base.py).
    ErrorCode.OVERLOADED: Rule(
        remedy=Remedy.RETRY, counts_against=Scope.MODEL, breaks_stream=True, can_come_from_vendor=True
    ),
    ErrorCode.PROVIDER_UNAVAILABLE: Rule(
        remedy=Remedy.RETRY, counts_against=Scope.MODEL, breaks_stream=True, can_come_from_vendor=True
    ),
    # It had the request and was silent, or fell silent: nobody can know how far it came.
    ErrorCode.PROVIDER_TIMEOUT: Rule(
        remedy=Remedy.RETRY,
        counts_against=Scope.MODEL,
        breaks_stream=True,
        may_have_worked=True,
        can_come_from_vendor=True,
    ),
    ErrorCode.STREAM_INTERRUPTED: Rule(
        remedy=Remedy.RETRY,
        counts_against=Scope.MODEL,
        breaks_stream=True,
        may_have_worked=True,
        can_come_from_vendor=True,
    ),
    # The key is refused or has no credit. Waiting changes nothing, and every request with this key will end the same;
    # another endpoint may have another key.
    ErrorCode.AUTHENTICATION_FAILED: Rule(
        remedy=Remedy.OTHER_ENDPOINT, counts_against=Scope.ENDPOINT, can_come_from_vendor=True
    ),
    ErrorCode.QUOTA_EXHAUSTED: Rule(
        remedy=Remedy.OTHER_ENDPOINT, counts_against=Scope.ENDPOINT, can_come_from_vendor=True
    ),
    # Only this model is missing there.
    ErrorCode.MODEL_NOT_FOUND: Rule(
        remedy=Remedy.OTHER_ENDPOINT, counts_against=Scope.MODEL, can_come_from_vendor=True
    ),
    # The tenant's limits are the same for each endpoint and fallback.
    ErrorCode.TENANT_RATE_LIMITED: Rule(remedy=Remedy.FAIL),
    ErrorCode.BUDGET_EXCEEDED: Rule(remedy=Remedy.FAIL),
    ErrorCode.QUEUE_FULL: Rule(remedy=Remedy.FAIL),
    # No time is left for another call. The one that it broke off may have been worked on.
    ErrorCode.DEADLINE_EXCEEDED: Rule(remedy=Remedy.FAIL, may_have_worked=True),
    # Vault may be back in a moment; the endpoint was never asked.
    ErrorCode.KEY_UNAVAILABLE: Rule(remedy=Remedy.RETRY),
    # A bug would meet the request again.
    ErrorCode.INTERNAL: Rule(remedy=Remedy.FAIL),
}
