"""Every code has one class, and an error survives the wire as what it was."""

import inspect
import re

import pytest

from contracts import errors
from contracts.errors import BY_CODE, ErrorCode, FleetError, RequestError, VendorError, from_wire

CODES = {
    "malformed_request",
    "unknown_tenant",
    "unknown_model",
    "no_provider",
    "unsupported_feature",
    "invalid_request",
    "context_length_exceeded",
    "content_filtered",
    "rate_limited",
    "overloaded",
    "provider_unavailable",
    "provider_timeout",
    "stream_interrupted",
    "authentication_failed",
    "quota_exhausted",
    "model_not_found",
    "tenant_rate_limited",
    "budget_exceeded",
    "queue_full",
    "deadline_exceeded",
    "key_unavailable",
    "internal",
}

RETRYABLE = {
    "rate_limited",
    "overloaded",
    "provider_unavailable",
    "provider_timeout",
    "stream_interrupted",
    "tenant_rate_limited",
    "budget_exceeded",
    "queue_full",
    "key_unavailable",
}


def test_the_codes_are_those_of_the_contract() -> None:
    assert sorted(code.value for code in ErrorCode) == sorted(CODES)


def test_each_code_has_exactly_one_class() -> None:
    leaves = [
        cls
        for _, cls in inspect.getmembers(errors, inspect.isclass)
        if "code" in vars(cls) and issubclass(cls, FleetError)
    ]
    assert sorted(cls.code for cls in leaves) == sorted(ErrorCode)
    assert set(BY_CODE) == set(ErrorCode)


@pytest.mark.parametrize("code", ErrorCode)
def test_an_error_survives_the_wire(code: ErrorCode) -> None:
    original = BY_CODE[code]("it broke", retry_after_s=2.5, provider="openai", status=429)
    wire = errors.Error.model_validate_json(original.to_wire().to_json(), strict=True)
    back = from_wire(wire)
    assert type(back) is type(original)
    assert str(back) == "it broke"
    assert (back.retry_after_s, back.provider, back.status) == (2.5, "openai", 429)
    assert wire.retryable == (code.value in RETRYABLE)


@pytest.mark.parametrize("code", ErrorCode)
def test_what_is_not_known_is_left_out(code: ErrorCode) -> None:
    assert set(BY_CODE[code]("it broke").to_wire().model_dump()) == {"code", "message", "retryable"}


def test_a_request_error_is_never_worth_another_try() -> None:
    assert not any(cls.retryable for cls in BY_CODE.values() if issubclass(cls, RequestError))


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or ""))
    defined = {
        cls.__name__
        for _, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, FleetError) and cls is not FleetError
    }
    assert drawn == defined
    assert VendorError.__name__ in drawn
