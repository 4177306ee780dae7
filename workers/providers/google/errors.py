"""The one table from what google-genai raises, and what Gemini reports, to the errors of the contract.

Order: the reason that the details name (google.rpc.ErrorInfo), the words for which Google has no name of its own, what
all vendors' names and words mean (`words.py`), the HTTP status, the status's name (google.rpc.Code), and last the
SDK's class.
Source: https://cloud.google.com/apis/design/errors and "Troubleshooting" of the Gemini API.
"""

import re
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
    QuotaExhausted,
    RateLimited,
    StreamInterrupted,
)
from workers.providers.shared.errors.body import Reported, reported
from workers.providers.shared.errors.vendor_errors import (
    BY_STATUS,
    answered,
    cause_of,
    first_of,
    of_class,
    of_status,
    redact,
)
from workers.providers.shared.http.transport import describe

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


def from_sdk(
    exc: Exception, *, provider: str, key: SecretStr | None, host: str, prompt: Iterable[str] = ()
) -> FleetError:
    """What an SDK call raised, as an error of the contract. `prompt`: the texts that were sent."""
    # Here, because the SDK takes a second to import, and what reads bodies needs nothing of it.
    from google.genai.errors import APIError

    if isinstance(exc, APIError):
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
    blocked, prompt = _blocked(body), tuple(prompt)
    said = blocked or reported(body)
    status = status or said.status
    return answered(
        ContentFiltered if blocked else _chosen(said, status=status, headers=headers or {}, prompt=prompt),
        said,
        provider=provider,
        names=(status, said.headline),
        status=status,
        key=key,
        prompt=prompt,
        headers=headers,
        told_s=said.retry_after_s,
    )


def _blocked(body: object) -> Reported | None:
    """Why the prompt was blocked; None: it was not."""
    match body:
        case {"promptFeedback": {"blockReason": str() | int() as reason, **rest}}:
            message = rest.get("blockReasonMessage")
            return Reported(message if isinstance(message, str) else "the prompt was blocked", names=(str(reason),))
        case _:
            return None


def _chosen(
    said: Reported, *, status: int | None, headers: Mapping[str, str], prompt: Iterable[str]
) -> type[FleetError]:
    if found := first_of(_BY_REASON, said.names):
        return found
    for words, statuses, kind in _BY_WORDS:
        if status in statuses and words.search(said.wording):
            return kind
    if found := cause_of(said, status=status, headers=headers, prompt=prompt, told_s=said.retry_after_s):
        return found
    by_name = first_of(_BY_NAME, said.names)
    if status is None:
        return by_name or ProviderUnavailable
    return BY_STATUS.get(status) or by_name or of_status(status)
