"""What follows an error: a pure decision, made from the error and from how far the request has come.

What each code allows stands in contracts/error_rules.py, and in docs/contract.md, "Errors". There is no other retry
loop around vendor calls: SDK retries are off, adapters make one call for each attempt, and the execution only carries
out what is decided here.
"""

from dataclasses import dataclass

from contracts.error_rules import RULES, Remedy
from contracts.errors import ErrorCode, FleetError, StreamInterrupted
from contracts.requests import OnInterrupt

MAX_TRIES_PER_ENDPOINT = 3
MAX_ATTEMPTS = 8
"""Vendor calls for one request, over all endpoints and fallbacks."""
BACKOFF_BASE_S = 0.5
BACKOFF_MAX_S = 20.0
LONGEST_RETRY_AFTER_S = 2.0
"""A vendor that asks to wait longer is left for a fallback, when there is one."""
LONGEST_WAIT_FOR_CIRCUIT_S = 30.0
"""How long a request waits for an endpoint that fails to come back, when there is no alternative. For one that only
asked to wait, it waits until its deadline."""


@dataclass(frozen=True, slots=True)
class Situation:
    """How far a request has come when an attempt fails."""

    attempts: int
    """Vendor calls so far, the one that failed included."""
    tries_here: int
    """How many of them were made at this endpoint."""
    output_sent: bool
    """Whether the agent has seen output of this attempt."""
    on_interrupt: OnInterrupt
    endpoints_left: bool
    fallbacks_left: bool
    time_left_s: float
    jitter: float
    """From 0 to 1, drawn by the caller."""
    out_of_service_s: float | None = None
    """No call was made, because all endpoints are out of service for this long; None when that is not why."""
    waited_for_service: bool = False
    """Whether the request has waited for an endpoint since its last call."""
    has_newer_credential: bool = False
    """The key or the token that the vendor refused has been replaced since."""


@dataclass(frozen=True, slots=True)
class RetryHere:
    """The same endpoint is called again after a pause."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class AwaitService:
    """The request waits until an endpoint is in service again, and at most `patience_s`."""

    patience_s: float


@dataclass(frozen=True, slots=True)
class NextEndpoint:
    """The next endpoint of the same provider is called at once."""


@dataclass(frozen=True, slots=True)
class NextFallback:
    """The next candidate of the request is tried at once."""


@dataclass(frozen=True, slots=True)
class Fail:
    """The request ends with `error`."""

    error: FleetError


Decision = RetryHere | AwaitService | NextEndpoint | NextFallback | Fail


def decide(error: FleetError, now: Situation) -> Decision:
    rule = RULES[error.code]
    # First, because nothing was called: the error is that of an earlier call, perhaps of another request, so it breaks
    # no stream of this one, and waiting for a probe uses up no vendor call.
    if now.out_of_service_s is not None:
        return _await_or_move(error, now, out_of_service_s=now.out_of_service_s)
    # Before the bound on calls, so that an agent which asked for it is told `stream_interrupted` of the last call, too.
    if now.output_sent and now.on_interrupt == "fail" and rule.breaks_stream:
        message = f"the stream broke after output was sent: {error.message}"
        return Fail(StreamInterrupted(message, provider=error.provider))
    # Before every remedy: whatever is tried next is a vendor call that somebody pays for.
    if now.attempts >= MAX_ATTEMPTS:
        return Fail(error)
    # Before the code's own remedy, which for a refused key is another endpoint: with the new key this one may answer.
    if now.has_newer_credential and now.tries_here < MAX_TRIES_PER_ENDPOINT:
        return RetryHere(0)
    # From the nearest to the farthest: the same endpoint, another one of the provider, another provider or model.
    if rule.remedy is Remedy.RETRY:
        return _wait_or_move(error, now)
    if rule.remedy is Remedy.OTHER_ENDPOINT and now.endpoints_left:
        return NextEndpoint()
    if rule.remedy is not Remedy.FAIL and now.fallbacks_left:
        return NextFallback()
    return Fail(error)


def backoff_s(tries: int, *, jitter: float) -> float:
    """Full jitter: anything between nothing and the exponential bound."""
    return jitter * min(BACKOFF_MAX_S, BACKOFF_BASE_S * 2**tries)


def _await_or_move(error: FleetError, now: Situation, *, out_of_service_s: float) -> Decision:
    # A fallback answers now; an endpoint that is out of service, perhaps in half a minute.
    if now.fallbacks_left:
        return NextFallback()
    # Whatever opened the circuit may have been about other requests: a key is refused for another model only, and
    # OpenRouter answers 404 to what no provider of a model can do ("No endpoints found that support tool use").
    asked_to_wait = error.code is ErrorCode.RATE_LIMITED
    patience_s = now.time_left_s if asked_to_wait else min(now.time_left_s, LONGEST_WAIT_FOR_CIRCUIT_S)
    if now.waited_for_service or out_of_service_s >= patience_s:
        return Fail(error)
    return AwaitService(patience_s)


def _wait_or_move(error: FleetError, now: Situation) -> Decision:
    rate_limited = error.code is ErrorCode.RATE_LIMITED
    # Who was silent for a whole time limit is likely to be so again, and each try would take as long.
    silent = error.code is ErrorCode.PROVIDER_TIMEOUT
    # A 429 holds for every request for this model, so a pause would only wait in line; other errors may pass with it.
    if now.endpoints_left and (rate_limited or silent or now.tries_here >= MAX_TRIES_PER_ENDPOINT):
        return NextEndpoint()
    if now.fallbacks_left and silent:
        return NextFallback()
    delay_s = max(error.retry_after_s or 0.0, backoff_s(now.tries_here, jitter=now.jitter))
    may_retry = now.tries_here < MAX_TRIES_PER_ENDPOINT and delay_s < now.time_left_s
    if may_retry and (delay_s <= LONGEST_RETRY_AFTER_S or not now.fallbacks_left):
        return RetryHere(delay_s)
    return NextFallback() if now.fallbacks_left else Fail(error)
