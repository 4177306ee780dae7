"""The table from Anthropic's errors to ours."""

import inspect
from importlib import import_module

import anthropic
import httpx2
import pytest
from pydantic import SecretStr

from contracts.errors import ErrorCode, FleetError
from workers.providers.anthropic.errors import BY_ERROR_CODE, BY_SDK_CLASS, from_body, from_sdk
from workers.providers.shared.errors.vendor_errors import of_class

KEY = SecretStr("sk-ant-api03-Zx81kQpvL0aa93Jw72mmDf55")
WITH_A_CODE = {
    (status, code): error
    for (status, code), error in vars(import_module("anthropic._error_classes"))["ERROR_CLASSES"].items()
    if code
}
"""The SDK's classes for single causes, by the codes of the causes."""
SDK_ERRORS = sorted(
    {
        error.__name__
        for (_, code), error in vars(import_module("anthropic._error_classes"))["ERROR_CLASSES"].items()
        if not code
    }
    | {
        value.__name__
        for value in vars(import_module("anthropic._exceptions")).values()
        if inspect.isclass(value) and issubclass(value, Exception)
    }
)


@pytest.mark.parametrize("error", SDK_ERRORS)
def test_every_error_of_the_sdk_is_mapped(error: str) -> None:
    assert error in BY_SDK_CLASS


def test_no_mapping_has_outlived_its_class() -> None:
    assert set(BY_SDK_CLASS) <= set(SDK_ERRORS)
    assert set(BY_ERROR_CODE) <= {code for _, code in WITH_A_CODE}


@pytest.mark.parametrize(("status", "code"), sorted(WITH_A_CODE))
def test_every_cause_has_an_error_that_fits_its_class(status: int, code: str) -> None:
    body = {"type": "error", "error": {"type": "", "message": "x", "details": {"error_code": code}}}
    found = from_body(body, provider="anthropic", key=None, status=status)
    by_class = of_class(WITH_A_CODE[status, code].__new__(WITH_A_CODE[status, code]), BY_SDK_CLASS)
    assert code in BY_ERROR_CODE or isinstance(found, by_class)


@pytest.mark.parametrize(("status", "code"), sorted(cause for cause in WITH_A_CODE if cause[0] == 429))
def test_of_every_429_it_is_known_whether_waiting_helps(status: int, code: str) -> None:
    assert status == 429
    assert code in BY_ERROR_CODE


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
    found = from_body(
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
    found = from_body({"error": error}, provider="anthropic", key=None, status=429, headers={"retry-after": "3"})
    assert found.code == expected
    assert found.retry_after_s == (3 if found.retryable else None)


def test_the_vendor_may_say_that_no_retry_helps() -> None:
    error = {"error": {"type": "rate_limit_error", "message": "x"}}
    headers = {"x-should-retry": "false"}
    assert from_body(error, provider="anthropic", key=None, status=429, headers=headers).code == "quota_exhausted"
    headers["retry-after"] = "3"
    assert from_body(error, provider="anthropic", key=None, status=429, headers=headers).code == "rate_limited"


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
    assert from_body(body, provider="anthropic", key=None, status=400).message == message


def test_a_prompt_does_not_leave_with_an_error() -> None:
    prompt = "The patient, born in May, has been complaining of a headache for three weeks now, and sleeps badly."
    body = {"error": {"type": "invalid_request_error", "message": f"cannot read {prompt!r}"}}
    assert "headache" not in from_body(body, provider="anthropic", key=None, prompt=[prompt], status=400).message


def test_a_connection_error_names_the_host_and_the_reason_but_no_key() -> None:
    error = anthropic.APIConnectionError(request=httpx2.Request("POST", "http://127.0.0.1:1/v1/messages"))
    error.__cause__ = httpx2.LocalProtocolError(f"Illegal header value b'Bearer {KEY.get_secret_value()}'")
    found = from_sdk(error, provider="anthropic", key=KEY, host="127.0.0.1:1")
    assert found.code == ErrorCode.PROVIDER_UNAVAILABLE
    assert found.message.startswith("anthropic cannot be used at 127.0.0.1:1: LocalProtocolError: Illegal header value")
    assert "Zx81" not in found.message


def test_a_misuse_of_the_sdk_is_our_own_error() -> None:
    found: FleetError = from_sdk(
        anthropic.AnthropicError("no"), provider="anthropic", key=KEY, host="api.anthropic.com"
    )
    assert found.code == ErrorCode.INTERNAL
