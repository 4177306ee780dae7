"""The one table from what the openai SDK raises, and what its vendors report, to the errors of the contract.

Azure OpenAI and compatible servers report in the same forms. Order: the vendor's code, its type, the words in which
servers without codes say that a prompt is too long, the HTTP status, and last the SDK's class.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import openai
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
from workers.providers.transport import describe
from workers.providers.vendor_errors import answered, of_class, of_status, redact

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
    "insufficient_quota": QuotaExhausted,
    "billing_hard_limit_reached": QuotaExhausted,
    "billing_not_active": QuotaExhausted,
    "insufficient_balance": QuotaExhausted,
    "rate_limit_exceeded": RateLimited,
    "ratelimitreached": RateLimited,
    "too_many_requests": RateLimited,
    "context_length_exceeded": ContextLengthExceeded,
    "content_filter": ContentFiltered,
    "content_policy_violation": ContentFiltered,
    "responsibleaipolicyviolation": ContentFiltered,
    "moderation_blocked": ContentFiltered,
    "invalid_prompt": ContentFiltered,
    "model_not_found": ModelNotFound,
    "deploymentnotfound": ModelNotFound,
    "invalid_api_key": AuthenticationFailed,
    "account_deactivated": AuthenticationFailed,
    "invalid_organization": AuthenticationFailed,
    "unsupported_country_region_territory": AuthenticationFailed,
    "server_error": ProviderUnavailable,
    "internal_error": ProviderUnavailable,
    "engine_overloaded": Overloaded,
    "model_overloaded": Overloaded,
    "overloaded": Overloaded,
    "slow_down": Overloaded,
    "service_unavailable": Overloaded,
}
_BY_TYPE: dict[str, type[FleetError]] = {
    "insufficient_quota": QuotaExhausted,
    "billing_error": QuotaExhausted,
    "exceed_context_size_error": ContextLengthExceeded,
    "authentication_error": AuthenticationFailed,
    "permission_error": AuthenticationFailed,
    "rate_limit_error": RateLimited,
    "rate_limit_exceeded": RateLimited,
    "too_many_requests": RateLimited,
    "overloaded_error": Overloaded,
    "engine_overloaded_error": Overloaded,
    "service_unavailable_error": Overloaded,
    "timeout_error": ProviderTimeout,
}
_BY_TYPE_WITHOUT_STATUS: dict[str, type[FleetError]] = {
    "invalid_request_error": InvalidRequest,
    "badrequesterror": InvalidRequest,
    "not_found_error": ModelNotFound,
    "notfounderror": ModelNotFound,
}
"""Too vague beside a status: OpenAI's 401 has the type invalid_request_error."""

_TOO_LONG = re.compile(
    r"maximum context length|context[ _](?:length|window|size)|prompt is too long|too many input tokens", re.IGNORECASE
)
"""In the words of vLLM, llama.cpp and gateways, which give no code for it."""
_LARGER_THAN_THE_LIMIT = re.compile(r"request too large", re.IGNORECASE)
"""A 429 for one request that is larger than a whole minute's limit: waiting does not help."""


@dataclass(frozen=True, slots=True)
class Reported:
    """What a vendor says about an error."""

    message: str
    code: str | None = None
    type: str | None = None
    status: int | None = None
    """As the body gives it; the only one for an error inside a stream."""


def from_sdk(
    exc: openai.OpenAIError, *, provider: str, key: SecretStr | None, host: str, prompt: Iterable[str] = ()
) -> FleetError:
    """What an SDK call raised, as an error of the contract. `prompt`: the texts that were sent."""
    if isinstance(exc, openai.APIStatusError):
        return from_body(
            exc.body,
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
    said = reported(body)
    status = status or said.status
    chosen = _chosen(said, status=status)
    return answered(
        chosen,
        said.message,
        provider=provider,
        names=(status, said.code or said.type),
        status=status,
        key=key,
        prompt=prompt,
        headers=headers,
    )


def _chosen(said: Reported, *, status: int | None) -> type[FleetError]:
    kind = (said.type or "").lower()
    if status in (413, 429) and _LARGER_THAN_THE_LIMIT.search(said.message):
        return ContextLengthExceeded
    if found := _BY_CODE.get((said.code or "").lower()) or _BY_TYPE.get(kind):
        return found
    if status in (400, 422, None) and _TOO_LONG.search(said.message):
        return ContextLengthExceeded
    if status is None:
        return _BY_TYPE_WITHOUT_STATUS.get(kind, ProviderUnavailable)
    return of_status(status)


def reported(body: object) -> Reported:
    """Reads every form in which servers write an error: nested, flat, a bare text, a list of one."""
    match body:
        case [first, *_]:
            return reported(first)
        case {"error": {**error}}:
            return _from_fields({"message": "no reason given", **error})
        case {"error": str(message), **rest}:
            return _from_fields({**rest, "message": message})
        case {"detail": detail}:
            return Reported(detail if isinstance(detail, str) else "the request did not validate")
        case {**fields}:
            return _from_fields(fields)
        case str(text) if text and not text.lstrip().startswith("<"):
            return Reported(text)
        case _:
            return Reported("no reason given")


def _from_fields(fields: Mapping[object, object]) -> Reported:
    message, code, kind = fields.get("message"), fields.get("code"), fields.get("type")
    status = next(filter(None, (_status(fields.get(name)) for name in ("status_code", "status", "code", "type"))), None)
    inner = fields.get("innererror")
    if isinstance(inner, dict) and code in (None, ""):
        code = inner.get("code")
    return Reported(
        message=message if isinstance(message, str) and message else "no reason given",
        code=str(code) if code not in (None, "") else None,
        type=kind if isinstance(kind, str) else None,
        status=status,
    )


def _status(value: object) -> int | None:
    """OpenRouter and vLLM put the HTTP status into `code`, Groq into `status_code`, Azure also into `type`."""
    text = str(value)
    return int(text) if text.isdigit() and 400 <= int(text) < 600 else None
