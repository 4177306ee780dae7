"""The table from Anthropic's errors to ours."""

import pytest
from pydantic import SecretStr

from contracts.errors import ErrorCode
from workers.providers.anthropic.errors import ERRORS

KEY = SecretStr("sk-ant-api03-Zx81kQpvL0aa93Jw72mmDf55")


@pytest.mark.parametrize(
    ("status", "kind", "message", "code"),
    [
        (400, "invalid_request_error", "max_tokens: Field required", ErrorCode.INVALID_REQUEST),
        (400, "invalid_request_error", "prompt is too long: 208310 tokens > 200000 maximum", "context_length_exceeded"),
        (
            400,
            "invalid_request_error",
            "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000",
            ErrorCode.CONTEXT_LENGTH_EXCEEDED,
        ),
        (400, "invalid_request_error", "Output blocked by content filtering policy", ErrorCode.CONTENT_FILTERED),
        (400, "invalid_request_error", "Your credit balance is too low to access it.", ErrorCode.QUOTA_EXHAUSTED),
        (
            400,
            "invalid_request_error",
            "You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC.",
            ErrorCode.QUOTA_EXHAUSTED,
        ),
        (400, None, "", ErrorCode.INVALID_REQUEST),
        (401, "authentication_error", "invalid x-api-key", ErrorCode.AUTHENTICATION_FAILED),
        (402, "billing_error", "pay", ErrorCode.QUOTA_EXHAUSTED),
        (403, "permission_error", "no", ErrorCode.AUTHENTICATION_FAILED),
        (404, "not_found_error", "model: x", ErrorCode.MODEL_NOT_FOUND),
        (408, "timeout_error", "late", ErrorCode.PROVIDER_TIMEOUT),
        (409, "conflict_error", "again", ErrorCode.PROVIDER_UNAVAILABLE),
        (413, "request_too_large", "large", ErrorCode.CONTEXT_LENGTH_EXCEEDED),
        (413, None, "large", ErrorCode.CONTEXT_LENGTH_EXCEEDED),
        (422, "invalid_request_error", "no", ErrorCode.INVALID_REQUEST),
        (429, "rate_limit_error", "would exceed your organization's rate limit of 50 requests", ErrorCode.RATE_LIMITED),
        (429, "rate_limit_error", "would exceed your account's monthly spend limit", ErrorCode.QUOTA_EXHAUSTED),
        (429, None, "", ErrorCode.RATE_LIMITED),
        (500, "api_error", "Internal server error", ErrorCode.PROVIDER_UNAVAILABLE),
        (502, None, "", ErrorCode.PROVIDER_UNAVAILABLE),
        (503, "api_error", "", ErrorCode.OVERLOADED),
        (504, "timeout_error", "", ErrorCode.PROVIDER_TIMEOUT),
        (529, "overloaded_error", "Overloaded", ErrorCode.OVERLOADED),
        (529, None, "", ErrorCode.OVERLOADED),
        (307, None, "", ErrorCode.PROVIDER_UNAVAILABLE),
        (None, "overloaded_error", "Overloaded", ErrorCode.OVERLOADED),
        (None, "api_error", "Internal server error", ErrorCode.PROVIDER_UNAVAILABLE),
        (None, "invalid_request_error", "no", ErrorCode.INVALID_REQUEST),
        (None, "rate_limit_error", "slow", ErrorCode.RATE_LIMITED),
        (None, None, "", ErrorCode.PROVIDER_UNAVAILABLE),
    ],
)
def test_status_and_body_become_a_code(status: int | None, kind: str | None, message: str, code: str) -> None:
    found = ERRORS.from_body(
        {"type": "error", "error": {"type": kind, "message": message}}, provider="anthropic", key=KEY, status=status
    )
    assert (found.code, found.status, found.provider) == (code, status, "anthropic")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("contract_spend_limit_reached", ErrorCode.QUOTA_EXHAUSTED),
        ("enforced_spend_limit_reached", ErrorCode.QUOTA_EXHAUSTED),
        ("ramp_limit_exceeded", ErrorCode.RATE_LIMITED),
    ],
)
def test_a_429_is_told_by_the_code_of_its_cause(code: str, expected: ErrorCode) -> None:
    error = {"type": "rate_limit_error", "message": "x", "details": {"error_code": code}}
    found = ERRORS.from_body({"error": error}, provider="anthropic", key=None, status=429, headers={"retry-after": "3"})
    assert found.code == expected
    assert found.retry_after_s == (3 if found.retryable else None)


def test_the_vendor_may_say_that_no_retry_helps() -> None:
    error = {"error": {"type": "rate_limit_error", "message": "x"}}
    headers = {"x-should-retry": "false"}
    assert (
        ERRORS.from_body(error, provider="anthropic", key=None, status=429, headers=headers).code == "quota_exhausted"
    )
    headers["retry-after"] = "3"
    assert ERRORS.from_body(error, provider="anthropic", key=None, status=429, headers=headers).code == "rate_limited"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"type": "error", "error": {"type": "t", "message": "why"}}, "anthropic answered 400 t: why"),
        ({"message": "why", "type": "t"}, "anthropic answered 400 t: why"),
        ({"error": "why"}, "anthropic answered 400: why"),
        ({"detail": "why"}, "anthropic answered 400: why"),
        ("why", "anthropic answered 400: why"),
        ("<html>why</html>", "anthropic answered 400: no reason given"),
        (None, "anthropic answered 400: no reason given"),
        ({"error": {"message": {"nested": 1}}}, "anthropic answered 400: no reason given"),
    ],
)
def test_the_vendors_words_are_found_in_any_form(body: object, message: str) -> None:
    assert ERRORS.from_body(body, provider="anthropic", key=None, status=400).message == message


def test_a_prompt_does_not_leave_with_an_error() -> None:
    prompt = "The patient, born in May, has been complaining of a headache for three weeks now, and sleeps badly."
    body = {"error": {"type": "invalid_request_error", "message": f"cannot read {prompt!r}"}}
    assert "headache" not in ERRORS.from_body(body, provider="anthropic", key=None, prompt=[prompt], status=400).message
