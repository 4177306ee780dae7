"""The table from Google's errors to ours."""

import pytest
from pydantic import SecretStr

from contracts.errors import ErrorCode
from workers.providers.google.errors import ERRORS
from workers.providers.shared.errors.retry_after import MAX_RETRY_AFTER_S

KEY = SecretStr("AIzaSyD-Zx81kQpvL0aa93Jw72mmDf55")


def info(reason: str) -> dict[str, object]:
    return {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "googleapis.com"}


@pytest.mark.parametrize(
    ("status", "name", "message", "details", "code"),
    [
        (400, "INVALID_ARGUMENT", "bad", [], ErrorCode.INVALID_REQUEST),
        (
            400,
            "INVALID_ARGUMENT",
            "The input token count (9) exceeds the maximum number of tokens allowed (8).",
            [],
            ErrorCode.CONTEXT_LENGTH_EXCEEDED,
        ),
        (
            400,
            "INVALID_ARGUMENT",
            "Unable to submit request because the input token count is 9 but model only supports up to 8.",
            [],
            ErrorCode.CONTEXT_LENGTH_EXCEEDED,
        ),
        (
            400,
            "INVALID_ARGUMENT",
            "Unable to submit request because it has a maxOutputTokens value of 99 but the supported range is 1..8.",
            [],
            ErrorCode.INVALID_REQUEST,
        ),
        (400, "INVALID_ARGUMENT", "Request payload size exceeds the limit", [], ErrorCode.CONTEXT_LENGTH_EXCEEDED),
        (400, "INVALID_ARGUMENT", "API key not valid.", [], ErrorCode.AUTHENTICATION_FAILED),
        (400, "INVALID_ARGUMENT", "no", [info("API_KEY_INVALID")], ErrorCode.AUTHENTICATION_FAILED),
        (400, "INVALID_ARGUMENT", "API key expired.", [], ErrorCode.AUTHENTICATION_FAILED),
        (400, "FAILED_PRECONDITION", "User location is not supported", [], ErrorCode.AUTHENTICATION_FAILED),
        (400, "FAILED_PRECONDITION", "Please enable billing on your project", [], ErrorCode.QUOTA_EXHAUSTED),
        (400, "FAILED_PRECONDITION", "no", [], ErrorCode.INVALID_REQUEST),
        (400, "INVALID_ARGUMENT", "words that violate Responsible AI practices", [], ErrorCode.CONTENT_FILTERED),
        (401, "UNAUTHENTICATED", "no", [], ErrorCode.AUTHENTICATION_FAILED),
        (403, "PERMISSION_DENIED", "no", [info("SERVICE_DISABLED")], ErrorCode.AUTHENTICATION_FAILED),
        (403, "PERMISSION_DENIED", "no", [info("BILLING_DISABLED")], ErrorCode.QUOTA_EXHAUSTED),
        (404, "NOT_FOUND", "models/x is not found", [], ErrorCode.MODEL_NOT_FOUND),
        (409, "ABORTED", "no", [], ErrorCode.PROVIDER_UNAVAILABLE),
        (
            429,
            "RESOURCE_EXHAUSTED",
            "You exceeded your current quota, please check your plan and billing details. limit: 15, model: x",
            [],
            ErrorCode.RATE_LIMITED,
        ),
        (
            429,
            "RESOURCE_EXHAUSTED",
            "* Quota exceeded, limit: 0, model: y",
            [],
            ErrorCode.QUOTA_EXHAUSTED,
        ),
        (429, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted.", [], ErrorCode.QUOTA_EXHAUSTED),
        (429, "RESOURCE_EXHAUSTED", "exceeded its monthly spending cap", [], ErrorCode.QUOTA_EXHAUSTED),
        (429, "RESOURCE_EXHAUSTED", "no", [info("MODEL_CAPACITY_EXHAUSTED")], ErrorCode.OVERLOADED),
        (499, "CANCELLED", "no", [], ErrorCode.PROVIDER_UNAVAILABLE),
        (500, "INTERNAL", "An internal error has occurred.", [], ErrorCode.PROVIDER_UNAVAILABLE),
        (501, "UNIMPLEMENTED", "no", [], ErrorCode.INVALID_REQUEST),
        (502, "Bad Gateway", "<html>", [], ErrorCode.PROVIDER_UNAVAILABLE),
        (503, "UNAVAILABLE", "busy", [], ErrorCode.OVERLOADED),
        (504, "DEADLINE_EXCEEDED", "late", [], ErrorCode.PROVIDER_TIMEOUT),
        (307, None, None, [], ErrorCode.PROVIDER_UNAVAILABLE),
    ],
)
def test_status_and_body_become_a_code(
    status: int, name: str | None, message: str | None, details: list[object], code: ErrorCode
) -> None:
    error = {"code": status, "status": name, "message": message, "details": details}
    for body in ({"error": error}, [{"error": error}], error):
        found = ERRORS.from_body(body, provider="google", key=KEY, status=status)
        assert (found.code, found.status, found.provider) == (code, status, "google")


@pytest.mark.parametrize("name", ["UNAVAILABLE", None])
def test_an_error_in_a_stream_gives_its_own_status(name: str | None) -> None:
    found = ERRORS.from_body({"error": {"code": 503, "status": name, "message": "busy"}}, provider="google", key=KEY)
    assert (found.code, found.status) == (ErrorCode.OVERLOADED, 503)


def test_an_error_without_a_status_goes_by_its_name() -> None:
    found = ERRORS.from_body({"error": {"status": "RESOURCE_EXHAUSTED", "message": "slow"}}, provider="google", key=KEY)
    assert (found.code, found.status) == (ErrorCode.RATE_LIMITED, None)


@pytest.mark.parametrize(
    ("delay", "headers", "wait_s"),
    [
        ("34.074824224s", {}, 34.074824224),
        ("0s", {}, 0.0),
        ({"seconds": "34", "nanos": 5}, {}, 34.0),
        ({"seconds": 10**400}, {}, MAX_RETRY_AFTER_S),
        ({"seconds": "²"}, {}, None),
        ("10s", {"retry-after": "20"}, 20.0),
        ("soon", {}, None),
        (None, {}, None),
    ],
)
def test_retry_info_says_when_to_come_back(delay: object, headers: dict[str, str], wait_s: float | None) -> None:
    detail = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}
    error = {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "slow", "details": [detail]}
    found = ERRORS.from_body({"error": error}, provider="google", key=KEY, status=429, headers=headers)
    assert found.retry_after_s == wait_s


def test_its_words_say_when_to_come_back() -> None:
    error = {"status": "RESOURCE_EXHAUSTED", "message": "limit: 2\nPlease retry in 46.209s."}
    assert ERRORS.from_body({"error": error}, provider="google", key=KEY, status=429).retry_after_s == 46.209


def test_a_blocked_prompt_is_filtered_content() -> None:
    found = ERRORS.from_body({"promptFeedback": {"blockReason": "OTHER"}}, provider="google", key=KEY)
    assert (found.code, found.message) == (ErrorCode.CONTENT_FILTERED, "google answered OTHER: the prompt was blocked")


@pytest.mark.parametrize(
    "body", [None, [], {}, "text", 7, {"error": None}, {"error": "why"}, [{"error": {"code": "x"}}]]
)
def test_any_body_is_an_error(body: object) -> None:
    assert ERRORS.from_body(body, provider="google", key=None, status=500).code == ErrorCode.PROVIDER_UNAVAILABLE


def test_no_key_leaves_with_an_error() -> None:
    error = {"message": f"API key not valid: {KEY.get_secret_value()}", "details": [info("API_KEY_INVALID")]}
    assert "Zx81" not in ERRORS.from_body({"error": error}, provider="google", key=KEY, status=400).message
