"""The one table from what the anthropic SDK raises, and what the vendor reports, to the errors of the contract.

Order: the code of the cause, the words for a refused text, what all vendors' names and words mean (`words.py`; many
servers speak this API), the type, the HTTP status, and last the SDK's class. Inside a stream there is no status.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from pydantic import SecretStr

from contracts.errors import (
    AuthenticationFailed,
    ContentFiltered,
    ContextLengthExceeded,
    FleetError,
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
from workers.providers.shared.errors.vendor_errors import answered, cause_of, first_of, of_class, of_status, redact
from workers.providers.shared.http.transport import describe

BY_SDK_CLASS: dict[str, type[FleetError]] = {
    "APITimeoutError": ProviderUnavailable,  # only connecting has a limit in the SDK: the vendor was never asked
    "APIConnectionError": ProviderUnavailable,
    "APIResponseValidationError": ProviderUnavailable,
    "APIWebhookValidationError": InternalError,
    "BadRequestError": InvalidRequest,
    "AuthenticationError": AuthenticationFailed,
    "PaymentRequiredError": QuotaExhausted,
    "PermissionDeniedError": AuthenticationFailed,
    "NotFoundError": ModelNotFound,
    "RequestTimeoutError": ProviderTimeout,
    "ConflictError": ProviderUnavailable,
    "PreconditionFailedError": InvalidRequest,
    "ContentTooLargeError": ContextLengthExceeded,
    "UnprocessableEntityError": InvalidRequest,
    "RateLimitError": RateLimited,
    "RequestHeaderFieldsTooLargeError": InvalidRequest,
    "ClientClosedRequestError": ProviderUnavailable,
    "InternalServerError": ProviderUnavailable,
    "HTTPNotImplementedError": ProviderUnavailable,
    "ServiceUnavailableError": Overloaded,
    "GatewayTimeoutError": ProviderTimeout,
    "OverloadedError": Overloaded,
    "RetryableError": ProviderUnavailable,
    "CredentialsError": AuthenticationFailed,
    "IdentityTokenFileError": AuthenticationFailed,
    "APIStatusError": ProviderUnavailable,
    "APIError": ProviderUnavailable,
    "AnthropicError": InternalError,
}
"""By name; the nearest parent counts. The SDK has a class for each code of a cause, too: those go by the code."""

BY_ERROR_CODE: dict[str, type[FleetError]] = {
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
"""Only where the type and the status would say something else, or nothing."""
_BY_TYPE: dict[str, type[FleetError]] = {
    "authentication_error": AuthenticationFailed,
    "permission_error": AuthenticationFailed,
    "not_found_error": ModelNotFound,
    "rate_limit_error": RateLimited,
    "timeout_error": ProviderTimeout,
    "overloaded_error": Overloaded,
    "conflict_error": ProviderUnavailable,
}
_BY_TYPE_WITHOUT_STATUS: dict[str, type[FleetError]] = {"invalid_request_error": InvalidRequest}
"""Too vague beside a status."""

_LIMITS = ("requests", "tokens", "input-tokens", "output-tokens")

_FILTERED = re.compile(r"blocked by (?:our )?content filter|content filtering policy|usage polic", re.IGNORECASE)


def from_sdk(
    exc: Exception, *, key: SecretStr | None, provider: str, host: str, prompt: Iterable[str] = ()
) -> FleetError:
    """What an SDK call raised, as an error of the contract. `prompt`: the texts that were sent."""
    # Here, because the SDK takes a second to import, and what reads bodies needs nothing of it.
    from anthropic import APIStatusError

    if isinstance(exc, APIStatusError):
        return from_body(
            exc.body, provider=provider, key=key, prompt=prompt, status=exc.status_code, headers=exc.response.headers
        )
    message = redact(f"{provider} cannot be used at {host}: {describe(exc)}", key=key)
    return of_class(exc, BY_SDK_CLASS)(message, provider=provider)


def from_body(
    body: object,
    *,
    provider: str,
    key: SecretStr | None,
    prompt: Iterable[str] = (),
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> FleetError:
    """What an error body says. Without `status` it came inside a stream."""
    said, prompt = reported(body), tuple(prompt)
    status = status or said.status
    told_s = _reset_s(headers or {}, now=utc_now())
    return answered(
        _chosen(said, status=status, headers=headers or {}, prompt=prompt, told_s=told_s),
        said,
        provider=provider,
        names=(status, said.headline),
        status=status,
        key=key,
        prompt=prompt,
        headers=headers,
        told_s=told_s,
    )


def _chosen(
    said: Reported, *, status: int | None, headers: Mapping[str, str], prompt: Iterable[str], told_s: float | None
) -> type[FleetError]:
    if found := first_of(BY_ERROR_CODE, said.names):
        return found
    by_type = first_of(_BY_TYPE, said.names)
    if by_type is None and status in (400, 422, None) and _FILTERED.search(said.message):
        return ContentFiltered
    if found := cause_of(said, status=status, headers=headers, prompt=prompt, told_s=told_s):
        return found
    if status == 429 and headers.get("x-should-retry") == "false" and "retry-after" not in headers:
        return QuotaExhausted
    if by_type:
        return by_type
    if status is None:
        return first_of(_BY_TYPE_WITHOUT_STATUS, said.names) or ProviderUnavailable
    return of_status(status)


def _reset_s(headers: Mapping[str, str], *, now: datetime) -> float | None:
    """When the limit that is used up starts anew; only where the vendor does not say when to come back."""
    if "retry-after" in headers or "retry-after-ms" in headers:
        return None
    resets = [
        headers.get(f"anthropic-ratelimit-{limit}-reset")
        for limit in _LIMITS
        if headers.get(f"anthropic-ratelimit-{limit}-remaining") == "0"
    ]
    waits = [(at - now).total_seconds() for reset in resets if (at := _instant(reset)) is not None]
    return max(*waits, 0.0) if waits else None


def _instant(text: str | None) -> datetime | None:
    try:
        at = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)
