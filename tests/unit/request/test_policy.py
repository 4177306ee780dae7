"""The retry policy: one table of what follows which error."""

from typing import Any

import pytest

from contracts import errors
from contracts.errors import BY_CODE, ErrorCode, FleetError
from workers.request.policy import (
    BACKOFF_MAX_S,
    LONGEST_RETRY_AFTER_S,
    LONGEST_WAIT_FOR_CIRCUIT_S,
    MAX_ATTEMPTS,
    MAX_TRIES_PER_ENDPOINT,
    AwaitService,
    Decision,
    Fail,
    NextEndpoint,
    NextFallback,
    RetryHere,
    Situation,
    backoff_s,
    decide,
)

TRANSIENT = (
    "rate_limited",
    "overloaded",
    "provider_unavailable",
    "provider_timeout",
    "stream_interrupted",
    "key_unavailable",
)


def situation(**changes: Any) -> Situation:
    usual: dict[str, Any] = {
        "attempts": 1,
        "tries_here": 1,
        "output_sent": False,
        "on_interrupt": "restart",
        "endpoints_left": False,
        "fallbacks_left": False,
        "time_left_s": 600.0,
        "jitter": 0.5,
    }
    return Situation(**{**usual, **changes})


def error(code: str, **fields: Any) -> FleetError:
    return BY_CODE[ErrorCode(code)]("it happened", **fields)


@pytest.mark.parametrize("code", TRANSIENT)
def test_retries_what_may_pass(code: str) -> None:
    assert isinstance(decide(error(code), situation()), RetryHere)


@pytest.mark.parametrize("code", TRANSIENT)
def test_gives_up_after_a_bounded_number_of_tries(code: str) -> None:
    met = error(code)
    assert decide(met, situation(tries_here=MAX_TRIES_PER_ENDPOINT)) == Fail(met)


@pytest.mark.parametrize("code", TRANSIENT)
def test_falls_back_when_the_tries_are_used_up(code: str) -> None:
    spent = situation(tries_here=MAX_TRIES_PER_ENDPOINT, fallbacks_left=True)
    assert decide(error(code), spent) == NextFallback()


@pytest.mark.parametrize("code", sorted(ErrorCode))
def test_no_request_makes_more_than_the_most_vendor_calls(code: str) -> None:
    spent = situation(attempts=MAX_ATTEMPTS, endpoints_left=True, fallbacks_left=True, has_newer_credential=True)
    met = error(code)
    assert decide(met, spent) == Fail(met)


@pytest.mark.parametrize(
    ("code", "now", "expected"),
    [
        ("rate_limited", {"endpoints_left": True}, NextEndpoint()),
        ("overloaded", {"endpoints_left": True, "tries_here": MAX_TRIES_PER_ENDPOINT}, NextEndpoint()),
        ("overloaded", {"endpoints_left": True}, RetryHere(0.5)),
        ("provider_timeout", {"endpoints_left": True, "fallbacks_left": True}, NextEndpoint()),
        ("provider_timeout", {"fallbacks_left": True}, NextFallback()),
        ("provider_timeout", {}, RetryHere(0.5)),
        ("authentication_failed", {}, Fail),
        ("authentication_failed", {"endpoints_left": True}, NextEndpoint()),
        ("authentication_failed", {"fallbacks_left": True}, NextFallback()),
        ("authentication_failed", {"has_newer_credential": True, "endpoints_left": True}, RetryHere(0)),
        ("authentication_failed", {"has_newer_credential": True, "tries_here": MAX_TRIES_PER_ENDPOINT}, Fail),
        ("quota_exhausted", {"fallbacks_left": True}, NextFallback()),
        ("model_not_found", {"endpoints_left": True}, NextEndpoint()),
        ("context_length_exceeded", {"fallbacks_left": True}, NextFallback()),
        ("context_length_exceeded", {"endpoints_left": True}, Fail),
        ("unsupported_feature", {"fallbacks_left": True}, NextFallback()),
        ("unsupported_feature", {"endpoints_left": True}, Fail),
        ("invalid_request", {"endpoints_left": True, "fallbacks_left": True}, Fail),
        ("content_filtered", {"endpoints_left": True, "fallbacks_left": True}, Fail),
        ("deadline_exceeded", {"endpoints_left": True, "fallbacks_left": True}, Fail),
        ("internal", {"endpoints_left": True, "fallbacks_left": True}, Fail),
        ("budget_exceeded", {"endpoints_left": True, "fallbacks_left": True}, Fail),
        ("tenant_rate_limited", {"fallbacks_left": True}, Fail),
    ],
)
def test_each_code_leads_where_the_contract_says(
    code: str, now: dict[str, Any], expected: Decision | type[Fail]
) -> None:
    met = error(code)
    assert decide(met, situation(**now)) == (Fail(met) if expected is Fail else expected)


def test_waits_as_long_as_the_vendor_says() -> None:
    assert decide(error("rate_limited", retry_after_s=7.0), situation()) == RetryHere(7.0)


def test_does_not_wait_beyond_the_deadline() -> None:
    met = error("rate_limited", retry_after_s=7.0)
    assert decide(met, situation(time_left_s=5.0)) == Fail(met)


def test_leaves_a_vendor_that_asks_for_a_long_wait() -> None:
    asked = error("rate_limited", retry_after_s=LONGEST_RETRY_AFTER_S + 1)
    assert decide(asked, situation(fallbacks_left=True)) == NextFallback()
    assert decide(asked, situation()) == RetryHere(LONGEST_RETRY_AFTER_S + 1)


@pytest.mark.parametrize("code", ["stream_interrupted", "overloaded", "provider_timeout", "provider_unavailable"])
def test_a_broken_stream_fails_when_the_agent_asked_for_that(code: str) -> None:
    broken = situation(output_sent=True, on_interrupt="fail", endpoints_left=True, fallbacks_left=True)
    match decide(error(code, provider="openai"), broken):
        case Fail(errors.StreamInterrupted() as told):
            assert (told.message, told.provider) == ("the stream broke after output was sent: it happened", "openai")
        case other:
            raise AssertionError(f"{other} does not end the request as interrupted")


def test_a_broken_stream_is_restarted_by_default() -> None:
    assert isinstance(decide(errors.StreamInterrupted("cut"), situation(output_sent=True)), RetryHere)


@pytest.mark.parametrize("tries", range(1, 40))
def test_backoff_has_full_jitter_and_a_bound(tries: int) -> None:
    assert backoff_s(tries, jitter=0.0) == 0.0
    assert 0 < backoff_s(tries, jitter=1.0) <= BACKOFF_MAX_S


@pytest.mark.parametrize(
    ("code", "now", "expected"),
    [
        ("overloaded", {"out_of_service_s": 5.0, "fallbacks_left": True}, NextFallback()),
        ("rate_limited", {"out_of_service_s": 1.0, "fallbacks_left": True}, NextFallback()),
        ("overloaded", {"out_of_service_s": 5.0}, AwaitService(LONGEST_WAIT_FOR_CIRCUIT_S)),
        ("overloaded", {"out_of_service_s": 5.0, "time_left_s": 10.0}, AwaitService(10.0)),
        ("overloaded", {"out_of_service_s": 5.0, "waited_for_service": True}, Fail),
        ("overloaded", {"out_of_service_s": LONGEST_WAIT_FOR_CIRCUIT_S}, Fail),
        ("authentication_failed", {"out_of_service_s": 5.0}, AwaitService(LONGEST_WAIT_FOR_CIRCUIT_S)),
        ("authentication_failed", {"out_of_service_s": 5.0, "fallbacks_left": True}, NextFallback()),
        ("model_not_found", {"out_of_service_s": 5.0}, AwaitService(LONGEST_WAIT_FOR_CIRCUIT_S)),
        ("rate_limited", {"out_of_service_s": 90.0}, AwaitService(600.0)),
        ("rate_limited", {"out_of_service_s": 700.0}, Fail),
    ],
)
def test_an_endpoint_out_of_service_is_left_awaited_or_given_up(
    code: str, now: dict[str, Any], expected: Decision | type[Fail]
) -> None:
    met = error(code)
    assert decide(met, situation(attempts=MAX_ATTEMPTS - 1, **now)) == (Fail(met) if expected is Fail else expected)
