"""The one table from what the openai SDK raises, and what its vendors report, to the errors of the contract.

Azure OpenAI and compatible servers report in the same forms. Order: codes that say the cause, what all vendors' names
and words mean (`words.py`), vague names, the HTTP status, and last the SDK's class.
"""

from collections.abc import Iterable, Mapping

from pydantic import SecretStr

from contracts.errors import (
    AuthenticationFailed,
    ContentFiltered,
    FleetError,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
)
from workers.providers.shared.errors.body import Reported, reported
from workers.providers.shared.errors.vendor_errors import answered, cause_of, first_of, of_class, of_status, redact
from workers.providers.shared.http.transport import describe

BY_SDK_CLASS: dict[str, type[FleetError]] = {
    "APITimeoutError": ProviderUnavailable,  # only connecting has a limit in the SDK: the vendor was never asked
    "APIConnectionError": ProviderUnavailable,
    "APIResponseValidationError": ProviderUnavailable,
    "BadRequestError": InvalidRequest,
    "AuthenticationError": AuthenticationFailed,
    "OAuthError": AuthenticationFailed,
    "SubjectTokenProviderError": AuthenticationFailed,
    "PermissionDeniedError": AuthenticationFailed,
    "NotFoundError": ModelNotFound,
    "ConflictError": ProviderUnavailable,
    "UnprocessableEntityError": InvalidRequest,
    "RateLimitError": RateLimited,
    "InternalServerError": ProviderUnavailable,
    "LengthFinishReasonError": InternalError,
    "ContentFilterFinishReasonError": ContentFiltered,
    "InvalidWebhookSignatureError": InternalError,
    "WebSocketConnectionClosedError": ProviderUnavailable,
    "WebSocketQueueFullError": ProviderUnavailable,
    "APIStatusError": ProviderUnavailable,
    "APIError": ProviderUnavailable,
    "OpenAIError": InternalError,
}
"""By name, because not every class is exported; the nearest parent counts. Status errors go by their status first."""

_BY_CODE: dict[str, type[FleetError]] = {
    "invalid_prompt": ContentFiltered,
    "model_not_found": ModelNotFound,
    "deploymentnotfound": ModelNotFound,
    "invalid_api_key": AuthenticationFailed,
    "invalidapikey": AuthenticationFailed,
    "api_key_invalid": AuthenticationFailed,
    "account_deactivated": AuthenticationFailed,
    "invalid_organization": AuthenticationFailed,
    "unsupported_country_region_territory": AuthenticationFailed,
}
"""Those that say the cause, besides the ones in `words.py`."""
_BY_VAGUE_NAME: dict[str, type[FleetError]] = {
    "rate_limit_exceeded": RateLimited,
    "ratelimitreached": RateLimited,
    "rate_limit_reached_error": RateLimited,
    "rate_limit_error": RateLimited,
    "too_many_requests": RateLimited,
    "resource_exhausted": RateLimited,
    "authentication_error": AuthenticationFailed,
    "permission_error": AuthenticationFailed,
    "engine_overloaded": Overloaded,
    "engine_overloaded_error": Overloaded,
    "model_overloaded": Overloaded,
    "overloaded": Overloaded,
    "overloaded_error": Overloaded,
    "capacity_exceeded": Overloaded,
    "slow_down": Overloaded,
    "service_unavailable": Overloaded,
    "service_unavailable_error": Overloaded,
    "timeout_error": ProviderTimeout,
}
"""Servers without a word for it also say that there is no credit, or that a prompt is too long, under these."""
_BY_VAGUEST_NAME: dict[str, type[FleetError]] = {
    "server_error": ProviderUnavailable,
    "internal_error": ProviderUnavailable,
    "base_resp 2013": InvalidRequest,
    "invalid_request_error": InvalidRequest,
    "badrequesterror": InvalidRequest,
    "not_found_error": ModelNotFound,
    "notfounderror": ModelNotFound,
}
"""Only inside a stream and with 400: OpenAI's 401 has the type invalid_request_error, and a 504 server_error."""


def from_sdk(
    exc: Exception, *, provider: str, key: SecretStr | None, host: str, prompt: Iterable[str] = ()
) -> FleetError:
    """What an SDK call raised, as an error of the contract. `prompt`: the texts that were sent."""
    # Here, because the SDK takes half a second to import, and what reads bodies needs nothing of it.
    from openai import APIStatusError

    if isinstance(exc, APIStatusError):
        return from_body(
            # The SDK keeps what is in `error` only: of xAI's {"code": …, "error": "…"} the words, of others `true`.
            exc.body if isinstance(exc.body, dict | list) else exc.response.text,
            provider=provider,
            key=key,
            prompt=prompt,
            status=exc.status_code,
            headers=exc.response.headers,
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
    return answered(
        _chosen(said, status=status, headers=headers or {}, prompt=prompt),
        said,
        provider=provider,
        names=(status, said.headline),
        status=status,
        key=key,
        prompt=prompt,
        headers=headers,
        told_s=said.retry_after_s,
    )


def _chosen(
    said: Reported, *, status: int | None, headers: Mapping[str, str], prompt: Iterable[str]
) -> type[FleetError]:
    names = [name.lower() for name in said.names]
    found = (
        first_of(_BY_CODE, names)
        or cause_of(said, status=status, headers=headers, prompt=prompt, told_s=said.retry_after_s)
        or first_of(_BY_VAGUE_NAME, names)
    )
    if found is None and status in (400, None):
        found = first_of(_BY_VAGUEST_NAME, names)
    if found:
        return found
    return ProviderUnavailable if status is None else of_status(status)
