"""What errors of Gemini's API mean, and of every host that speaks it.

Source: https://cloud.google.com/apis/design/errors and "Troubleshooting" of the Gemini API.
"""

import json
import re
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
    QuotaExhausted,
    RateLimited,
    StreamInterrupted,
)
from workers.providers.shared.errors.answer import text_of
from workers.providers.shared.errors.body import Reported, reported
from workers.providers.shared.errors.vendor_errors import BY_STATUS, ErrorAnswer, Kind, VendorErrors, first_of

BY_SDK_CLASS: dict[str, Kind] = {
    "APIError": ProviderUnavailable,
    "ClientError": InvalidRequest,
    "ServerError": ProviderUnavailable,
    "UnknownApiResponseError": ProviderUnavailable,
    "EphemeralTokenAPIKeyError": AuthenticationFailed,
    "ContinuationInterruptedError": StreamInterrupted,
    "UnknownFunctionCallArgumentError": InternalError,
    "UnsupportedFunctionError": InternalError,
    "FunctionInvocationError": InternalError,
}
"""The last three are of function calling by the SDK itself."""

_BY_REASON: dict[str, Kind] = {
    "API_KEY_INVALID": AuthenticationFailed,
    "API_KEY_EXPIRED": AuthenticationFailed,
    "API_KEY_SERVICE_BLOCKED": AuthenticationFailed,
    "API_KEY_HTTP_REFERRER_BLOCKED": AuthenticationFailed,
    "API_KEY_IP_ADDRESS_BLOCKED": AuthenticationFailed,
    "CREDENTIALS_MISSING": AuthenticationFailed,
    "ACCESS_TOKEN_EXPIRED": AuthenticationFailed,
    "ACCESS_TOKEN_TYPE_UNSUPPORTED": AuthenticationFailed,
    "CONSUMER_INVALID": AuthenticationFailed,
    "CONSUMER_SUSPENDED": AuthenticationFailed,
    "SERVICE_DISABLED": AuthenticationFailed,
    "BILLING_DISABLED": QuotaExhausted,
    "RATE_LIMIT_EXCEEDED": RateLimited,
    "MODEL_CAPACITY_EXHAUSTED": Overloaded,
}
_BY_WORDS: tuple[tuple[re.Pattern[str], frozenset[int | None], Kind], ...] = tuple(
    (re.compile(words, re.IGNORECASE), frozenset(statuses), kind)
    for words, statuses, kind in (
        (r"\blimit: 0\b(?!\.)", (429, None), QuotaExhausted),
        (r"responsible ai|usage guidelines|safety (?:filter|polic)", (400, None), ContentFiltered),
    )
)
"""Words, with the statuses beside which they mean it (None: inside a stream). `limit: 0` stands for a model that the
plan lacks."""

_BY_NAME: dict[str, Kind] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "FAILED_PRECONDITION": InvalidRequest,
    "OUT_OF_RANGE": InvalidRequest,
    "UNIMPLEMENTED": InvalidRequest,
    "UNAUTHENTICATED": AuthenticationFailed,
    "PERMISSION_DENIED": AuthenticationFailed,
    "NOT_FOUND": ModelNotFound,
    "RESOURCE_EXHAUSTED": RateLimited,
    "UNAVAILABLE": Overloaded,
    "DEADLINE_EXCEEDED": ProviderTimeout,
    "ABORTED": ProviderUnavailable,
    "ALREADY_EXISTS": ProviderUnavailable,
    "CANCELLED": ProviderUnavailable,
    "DATA_LOSS": ProviderUnavailable,
    "INTERNAL": ProviderUnavailable,
    "UNKNOWN": ProviderUnavailable,
}


def _answer_in(exc: Exception) -> ErrorAnswer | None:
    # Imported here, because the SDK takes a second, and what reads bodies needs nothing of it.
    from google.genai.errors import APIError

    if not isinstance(exc, APIError):
        return None
    return ErrorAnswer(exc.details, exc.code, getattr(exc.response, "headers", None) or {})


def _decoded(body: bytes, headers: Mapping[str, str]) -> object:
    """An answer that is no JSON is a message. One error may stand in a list by itself."""
    try:
        answer: object = json.loads(body)
    except (ValueError, RecursionError):
        return {"message": text_of(body, headers)}
    return answer[0] if isinstance(answer, list) and len(answer) == 1 else answer


def _read(body: object, _headers: Mapping[str, str]) -> Reported:
    """A reply that says no more than why the prompt was blocked is an error as well."""
    match body:
        case {"promptFeedback": {"blockReason": str() | int() as reason, **rest}}:
            message = rest.get("blockReasonMessage")
            words = message if isinstance(message, str) else "the prompt was blocked"
            return Reported(words, names=(str(reason),), kind=ContentFiltered)
        case _:
            return reported(body)


def _certain(said: Reported, status: int | None) -> Kind | None:
    by_words = (kind for words, statuses, kind in _BY_WORDS if status in statuses and words.search(said.wording))
    return first_of(_BY_REASON, said.names) or next(by_words, None)


def _vague(said: Reported, status: int | None, _headers: Mapping[str, str]) -> Kind | None:
    """A status says more than its name in google.rpc.Code, where it is known at all."""
    return None if status in BY_STATUS else first_of(_BY_NAME, said.names)


ERRORS = VendorErrors(
    by_class=BY_SDK_CLASS,
    answer_in=_answer_in,
    decoded=_decoded,
    read=_read,
    certain=_certain,
    vague=_vague,
)
