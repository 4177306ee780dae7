"""The one table from what google-genai raises, and what Gemini reports, to the errors of the contract.

Order: the reason that the details name (google.rpc.ErrorInfo), the words for which Google has no name of its own, the
HTTP status, the status's name (google.rpc.Code), and last the SDK's class.
Source: https://cloud.google.com/apis/design/errors and "Troubleshooting" of the Gemini API.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from google.genai import errors
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
    StreamInterrupted,
)
from workers.providers.transport import describe
from workers.providers.vendor_errors import BY_STATUS, answered, of_class, of_status, redact

BY_SDK_CLASS: dict[str, type[FleetError]] = {
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
"""By name. Status errors go by what they report first; the last three are of function calling by the SDK itself."""

_BY_REASON: dict[str, type[FleetError]] = {
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
_BY_WORDS: tuple[tuple[re.Pattern[str], frozenset[int | None], type[FleetError]], ...] = tuple(
    (re.compile(words, re.IGNORECASE), frozenset(statuses), kind)
    for words, statuses, kind in (
        (r"input token count|maximum number of tokens allowed", (400, 500, None), ContextLengthExceeded),
        (r"request payload size exceeds", (400, None), ContextLengthExceeded),
        (r"api key (?:not valid|not found|expired)|api_key_invalid", (400, None), AuthenticationFailed),
        (r"user location is not supported", (400, None), AuthenticationFailed),
        (r"free tier is not available|enable billing", (400, 403, None), QuotaExhausted),
        (r"credits? (?:are|is) depleted|spend(?:ing)? (?:cap|limit)", (400, 402, 403, 429, None), QuotaExhausted),
        (r"\blimit: 0\b(?!\.)", (429, None), QuotaExhausted),
        (r"responsible ai|usage guidelines|safety (?:filter|polic)", (400, None), ContentFiltered),
    )
)
"""With the statuses beside which they mean it; None: inside a stream. `limit: 0`: a model that the plan lacks."""

_BY_NAME: dict[str, type[FleetError]] = {
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
_DURATION = re.compile(r"^(\d+(?:\.\d+)?)s$")
_NOTHING = "no reason given"


@dataclass(frozen=True, slots=True)
class Reported:
    """What Google says about an error."""

    message: str
    name: str | None = None
    """Of google.rpc.Code."""
    status: int | None = None
    """As the body gives it; the only one for an error inside a stream."""
    reason: str | None = None
    retry_after_s: float | None = None


def from_sdk(
    exc: Exception, *, provider: str, key: SecretStr | None, host: str, prompt: Iterable[str] = ()
) -> FleetError:
    """What an SDK call raised, as an error of the contract. `prompt`: the texts that were sent."""
    if isinstance(exc, errors.APIError):
        headers = getattr(exc.response, "headers", None)
        return from_body(exc.details, provider=provider, key=key, prompt=prompt, status=exc.code, headers=headers)
    return of_class(exc, BY_SDK_CLASS)(
        redact(f"{provider} cannot be used at {host}: {describe(exc)}", key=key), provider=provider
    )


def from_body(
    body: object,
    *,
    provider: str,
    key: SecretStr | None,
    prompt: Iterable[str] = (),
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> FleetError:
    """What an error body says, or a reply that says no more than why the prompt was blocked.

    Without `status` it came inside a reply.
    """
    said = reported(body)
    status = status or said.status
    return answered(
        ContentFiltered if _blocked(body) else _chosen(said, status=status),
        said.message,
        provider=provider,
        names=(status, said.reason or said.name),
        status=status,
        key=key,
        prompt=prompt,
        headers=headers,
        told_s=said.retry_after_s,
    )


def reported(body: object) -> Reported:
    """Reads every form in which Google and what stands before it write an error: nested, flat, a text, in a list."""
    match body:
        case [first, *_]:
            return reported(first)
        case {"promptFeedback": {"blockReason": str(reason), **rest}}:
            message = rest.get("blockReasonMessage")
            return Reported(message if isinstance(message, str) else "the prompt was blocked", reason=reason)
        case {"error": {**error}}:
            return _from_fields(error)
        case {"error": str(message)}:
            return Reported(message)
        case {**fields}:
            return _from_fields(fields)
        case _:
            return Reported(_NOTHING)


def _from_fields(fields: Mapping[object, object]) -> Reported:
    message, name, code, details = (fields.get(field) for field in ("message", "status", "code", "details"))
    reason = retry_after_s = None
    for detail in details if isinstance(details, list) else ():
        match detail:
            case {"@type": str(kind), "reason": str(given)} if kind.endswith(".ErrorInfo"):
                reason = given
            case {"@type": str(kind), "retryDelay": delay} if kind.endswith(".RetryInfo"):
                retry_after_s = _seconds(delay)
            case _:
                pass
    return Reported(
        message=message if isinstance(message, str) and message and not message.lstrip().startswith("<") else _NOTHING,
        name=name if isinstance(name, str) else None,
        status=code if isinstance(code, int) and 400 <= code < 600 else None,
        reason=reason,
        retry_after_s=retry_after_s,
    )


def _chosen(said: Reported, *, status: int | None) -> type[FleetError]:
    if found := _BY_REASON.get(said.reason or ""):
        return found
    for words, statuses, kind in _BY_WORDS:
        if status in statuses and words.search(said.message):
            return kind
    by_name = _BY_NAME.get(said.name or "")
    if status is None:
        return by_name or ProviderUnavailable
    return BY_STATUS.get(status) or by_name or of_status(status)


def _blocked(body: object) -> bool:
    match body:
        case {"promptFeedback": {"blockReason": str()}}:
            return True
        case _:
            return False


def _seconds(duration: object) -> float | None:
    """Of a google.protobuf.Duration, in its text form (`34.07s`) or as an object."""
    match duration:
        case str(text) if found := _DURATION.match(text):
            return float(found.group(1))
        case {"seconds": int() | str() as seconds} if str(seconds).isdigit():
            return float(seconds)
        case _:
            return None
