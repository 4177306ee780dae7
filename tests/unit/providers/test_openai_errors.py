"""The table from OpenAI's errors to ours."""

import pytest
from pydantic import SecretStr

from contracts.errors import ErrorCode
from workers.providers.openai.errors import ERRORS

KEY = SecretStr("sk-proj-Zx81kQpvL0aa93Jw72mmDf55")


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (400, {"message": "bad", "type": "invalid_request_error"}, ErrorCode.INVALID_REQUEST),
        (400, {"message": "long", "code": "context_length_exceeded"}, ErrorCode.CONTEXT_LENGTH_EXCEEDED),
        (
            400,
            {"message": "This model's maximum context length is 4096 tokens.", "type": "BadRequestError", "code": 400},
            ErrorCode.CONTEXT_LENGTH_EXCEEDED,
        ),
        (400, {"message": "no", "code": "content_policy_violation"}, ErrorCode.CONTENT_FILTERED),
        (400, {"message": "no", "code": "content_filter", "innererror": {"code": "X"}}, ErrorCode.CONTENT_FILTERED),
        (400, {"message": "no", "innererror": {"code": "ResponsibleAIPolicyViolation"}}, ErrorCode.CONTENT_FILTERED),
        (400, {"message": "flagged", "code": "invalid_prompt"}, ErrorCode.CONTENT_FILTERED),
        (
            401,
            {"message": "key", "type": "invalid_request_error", "code": "invalid_api_key"},
            ErrorCode.AUTHENTICATION_FAILED,
        ),
        (401, {"message": "key", "code": "401"}, ErrorCode.AUTHENTICATION_FAILED),
        (402, {"message": "pay"}, ErrorCode.QUOTA_EXHAUSTED),
        (403, {"message": "no", "code": "unsupported_country_region_territory"}, ErrorCode.AUTHENTICATION_FAILED),
        (404, {"message": "no model", "code": "model_not_found"}, ErrorCode.MODEL_NOT_FOUND),
        (404, {"message": "no", "code": "DeploymentNotFound"}, ErrorCode.MODEL_NOT_FOUND),
        (408, {"message": "late"}, ErrorCode.PROVIDER_TIMEOUT),
        (409, {"message": "conflict"}, ErrorCode.PROVIDER_UNAVAILABLE),
        (413, {"message": "large"}, ErrorCode.CONTEXT_LENGTH_EXCEEDED),
        (422, {"message": "no"}, ErrorCode.INVALID_REQUEST),
        (418, {"message": "teapot"}, ErrorCode.INVALID_REQUEST),
        (429, {"message": "slow", "type": "requests", "code": "rate_limit_exceeded"}, ErrorCode.RATE_LIMITED),
        (
            429,
            {"message": "pay", "type": "insufficient_quota", "code": "insufficient_quota"},
            ErrorCode.QUOTA_EXHAUSTED,
        ),
        (429, {"message": "Too many tokens, please wait."}, ErrorCode.RATE_LIMITED),
        (
            429,
            {"message": "Request too large for gpt-4o on tokens per min", "code": "rate_limit_exceeded"},
            ErrorCode.CONTEXT_LENGTH_EXCEEDED,
        ),
        (500, {"message": "oops", "type": "server_error"}, ErrorCode.PROVIDER_UNAVAILABLE),
        (502, {}, ErrorCode.PROVIDER_UNAVAILABLE),
        (503, {"message": "busy"}, ErrorCode.OVERLOADED),
        (504, {}, ErrorCode.PROVIDER_TIMEOUT),
        (529, {}, ErrorCode.OVERLOADED),
        (307, {}, ErrorCode.PROVIDER_UNAVAILABLE),
    ],
)
def test_status_and_body_become_a_code(status: int, error: dict[str, object], code: ErrorCode) -> None:
    found = ERRORS.from_body({"error": error}, provider="openai", key=KEY, status=status)
    assert (found.code, found.status, found.provider) == (code, status, "openai")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "why"}}, "openai answered 400: why"),
        ([{"error": {"message": "why", "code": "c"}}], "openai answered 400 c: why"),
        ({"message": "why"}, "openai answered 400: why"),
        ({"error": "why", "code": "c"}, "openai answered 400 c: why"),
        ({"detail": "why"}, "openai answered 400: why"),
        ({"detail": [{"loc": ["body"], "input": "the prompt"}]}, "openai answered 400: the request did not validate"),
        ("why", "openai answered 400: why"),
        ("<html>why</html>", "openai answered 400: no reason given"),
        ("", "openai answered 400: no reason given"),
        (None, "openai answered 400: no reason given"),
        ({"error": {"message": {"nested": 1}, "code": 400}}, "openai answered 400: no reason given"),
    ],
)
def test_the_vendors_words_are_found_in_any_form(body: object, message: str) -> None:
    assert ERRORS.from_body(body, provider="openai", key=None, status=400).message == message


def test_only_errors_that_pass_say_when_to_come_back() -> None:
    headers = {"retry-after": "3"}
    rate = ERRORS.from_body({}, provider="openai", key=None, status=429, headers=headers)
    quota = ERRORS.from_body(
        {"error": {"code": "insufficient_quota"}}, provider="openai", key=None, status=429, headers=headers
    )
    assert (rate.retry_after_s, quota.retry_after_s) == (3.0, None)


def test_no_key_leaves_with_an_error() -> None:
    body = {"error": {"message": f"Incorrect API key provided: {KEY.get_secret_value()}"}}
    assert "Zx81" not in ERRORS.from_body(body, provider="openai", key=KEY, status=401).message
