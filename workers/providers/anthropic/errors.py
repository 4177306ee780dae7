"""What errors of Anthropic's Messages API mean, and of the many servers that speak it."""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from contracts.errors import (
    AuthenticationFailed,
    ContentFiltered,
    ContextLengthExceeded,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    ProviderTimeout,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
)
from contracts.wire import utc_now
from workers.providers.shared.errors.body import Reported, reported
from workers.providers.shared.errors.vendor_errors import STAINLESS_CLASSES, ErrorAnswer, Kind, VendorErrors, first_of

BY_SDK_CLASS: dict[str, Kind] = {
    **STAINLESS_CLASSES,
    "APIWebhookValidationError": InternalError,
    "PaymentRequiredError": QuotaExhausted,
    "RequestTimeoutError": ProviderTimeout,
    "PreconditionFailedError": InvalidRequest,
    "ContentTooLargeError": ContextLengthExceeded,
    "RequestHeaderFieldsTooLargeError": InvalidRequest,
    "ClientClosedRequestError": ProviderUnavailable,
    "HTTPNotImplementedError": ProviderUnavailable,
    "ServiceUnavailableError": Overloaded,
    "GatewayTimeoutError": ProviderTimeout,
    "OverloadedError": Overloaded,
    "RetryableError": ProviderUnavailable,
    "CredentialsError": AuthenticationFailed,
    "IdentityTokenFileError": AuthenticationFailed,
    "AnthropicError": InternalError,
}
"""The SDK has a class for each code of a cause, too: those go by the code."""

BY_ERROR_CODE: dict[str, Kind] = {
    "contract_spend_limit_reached": QuotaExhausted,
    "enforced_spend_limit_reached": QuotaExhausted,
    "linked_organization_billing_unavailable": QuotaExhausted,
    "linked_organization_spend_limit_reached": QuotaExhausted,
    "user_profile_billing_not_authorized": QuotaExhausted,
    "user_profile_not_billable": QuotaExhausted,
    "ramp_limit_exceeded": RateLimited,
    "organization_on_hold": AuthenticationFailed,
    "claude_code_key_creator_not_member": AuthenticationFailed,
    "cmek_key_disabled": AuthenticationFailed,
    "cmek_key_network_blocked": AuthenticationFailed,
    "cmek_key_unreachable": ProviderUnavailable,
    "cmek_context_unavailable": ProviderUnavailable,
    "compaction_unavailable": Overloaded,
    "request_body_timeout": ProviderTimeout,
}
"""Codes of a cause of which the type and the status would say something else, or nothing."""
_BY_TYPE: dict[str, Kind] = {
    "authentication_error": AuthenticationFailed,
    "permission_error": AuthenticationFailed,
    "not_found_error": ModelNotFound,
    "rate_limit_error": RateLimited,
    "timeout_error": ProviderTimeout,
    "overloaded_error": Overloaded,
    "conflict_error": ProviderUnavailable,
}
_BY_TYPE_WITHOUT_STATUS: dict[str, Kind] = {"invalid_request_error": InvalidRequest}
"""Types that are too vague beside a status."""

_LIMITS = ("requests", "tokens", "input-tokens", "output-tokens")

_FILTERED = re.compile(r"blocked by (?:our )?content filter|content filtering policy|usage polic", re.IGNORECASE)


def _answer_in(exc: Exception) -> ErrorAnswer | None:
    # Imported here, because the SDK takes a second, and what reads bodies needs nothing of it.
    from anthropic import APIStatusError

    if not isinstance(exc, APIStatusError):
        return None
    return ErrorAnswer(exc.body, exc.status_code, exc.response.headers)


def _read(body: object, headers: Mapping[str, str]) -> Reported:
    """Anthropic tells in headers, not in the body, when to come back: without a `retry-after`, when each limit resets.

    The call can succeed once the last of the limits that are used up has done so.
    """
    said = replace(reported(body), retry_after_s=None)
    if "retry-after" in headers or "retry-after-ms" in headers:
        return said
    now = utc_now()
    waits: list[float] = []
    for limit in _LIMITS:
        if headers.get(f"anthropic-ratelimit-{limit}-remaining") != "0":
            continue
        try:
            at = datetime.fromisoformat(headers.get(f"anthropic-ratelimit-{limit}-reset", ""))
        except ValueError:
            continue
        waits.append(((at if at.tzinfo else at.replace(tzinfo=UTC)) - now).total_seconds())
    return replace(said, retry_after_s=max(*waits, 0.0)) if waits else said


def _certain(said: Reported, status: int | None) -> Kind | None:
    if found := first_of(BY_ERROR_CODE, said.names):
        return found
    may_be_filtered = status in (400, 422, None) and not first_of(_BY_TYPE, said.names)
    return ContentFiltered if may_be_filtered and _FILTERED.search(said.message) else None


def _vague(said: Reported, status: int | None, headers: Mapping[str, str]) -> Kind | None:
    # A 429 that says neither when to come back nor that trying again is any use is a budget that is spent.
    if status == 429 and headers.get("x-should-retry") == "false" and "retry-after" not in headers:
        return QuotaExhausted
    return first_of(_BY_TYPE, said.names) or (first_of(_BY_TYPE_WITHOUT_STATUS, said.names) if status is None else None)


ERRORS = VendorErrors(
    by_class=BY_SDK_CLASS,
    answer_in=_answer_in,
    read=_read,
    certain=_certain,
    vague=_vague,
)
