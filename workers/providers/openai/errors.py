"""What errors mean in OpenAI's format, which Azure OpenAI and every compatible server report in too."""

from collections.abc import Mapping

from contracts.errors import (
    AuthenticationFailed,
    ContentFiltered,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
)
from workers.providers.shared.errors.answer import json_or_text, text_of
from workers.providers.shared.errors.body import Reported
from workers.providers.shared.errors.vendor_errors import STAINLESS_CLASSES, ErrorAnswer, Kind, VendorErrors, first_of

BY_SDK_CLASS: dict[str, Kind] = {
    **STAINLESS_CLASSES,
    "OAuthError": AuthenticationFailed,
    "SubjectTokenProviderError": AuthenticationFailed,
    "LengthFinishReasonError": InternalError,
    "ContentFilterFinishReasonError": ContentFiltered,
    "InvalidWebhookSignatureError": InternalError,
    "WebSocketConnectionClosedError": ProviderUnavailable,
    "WebSocketQueueFullError": ProviderUnavailable,
    "OpenAIError": InternalError,
}

_BY_CODE: dict[str, Kind] = {
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
"""Codes that say the cause, besides the ones in `words.py`; in lower case, as the next two."""
_BY_VAGUE_NAME: dict[str, Kind] = {
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
"""Names under which servers without a word for it also say that there is no credit, or that a prompt is too long."""
_BY_VAGUEST_NAME: dict[str, Kind] = {
    "server_error": ProviderUnavailable,
    "internal_error": ProviderUnavailable,
    "base_resp 2013": InvalidRequest,
    "invalid_request_error": InvalidRequest,
    "badrequesterror": InvalidRequest,
    "not_found_error": ModelNotFound,
    "notfounderror": ModelNotFound,
}
"""Names that count only inside a stream and with 400: OpenAI's 401 has the type invalid_request_error, and a 504
server_error."""


def _answer_in(exc: Exception) -> ErrorAnswer | None:
    # Imported here, because the SDK takes half a second, and what reads bodies needs nothing of it.
    from openai import APIStatusError

    if not isinstance(exc, APIStatusError):
        return None
    # The SDK keeps what is in `error` only: of xAI's {"code": …, "error": "…"} the words, of others `true`.
    body = exc.body if isinstance(exc.body, dict | list) else exc.response.text
    return ErrorAnswer(body, exc.status_code, exc.response.headers)


def _decoded(body: bytes, headers: Mapping[str, str]) -> object:
    """What is in `error`, where there is one, as the SDK has it; but of xAI's {"code": …, "error": "…"}, and where
    `error` is only `true`, all of the text."""
    answer = json_or_text(body, headers)
    inner = answer.get("error", answer) if isinstance(answer, dict) else answer
    return inner if isinstance(inner, dict | list) else text_of(body, headers)


def _certain(said: Reported, _status: int | None) -> Kind | None:
    return first_of(_BY_CODE, map(str.lower, said.names))


def _vague(said: Reported, status: int | None, _headers: Mapping[str, str]) -> Kind | None:
    names = [name.lower() for name in said.names]
    return first_of(_BY_VAGUE_NAME, names) or (first_of(_BY_VAGUEST_NAME, names) if status in (400, None) else None)


ERRORS = VendorErrors(
    by_class=BY_SDK_CLASS,
    answer_in=_answer_in,
    decoded=_decoded,
    certain=_certain,
    vague=_vague,
)
