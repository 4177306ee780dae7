"""The error tree. One class for each code of the contract; everything else is converted at the edge it enters by.

FleetError
├── RequestError                 the request itself; sending it again changes nothing
│   ├── MalformedRequest
│   ├── UnknownTenant
│   ├── UnknownModel
│   ├── NoProvider
│   ├── UnsupportedFeature
│   ├── InvalidRequest
│   ├── ContextLengthExceeded
│   └── ContentFiltered
├── VendorError                  the vendor or the way to it
│   ├── RateLimited
│   ├── Overloaded
│   ├── ProviderUnavailable
│   ├── ProviderTimeout
│   ├── StreamInterrupted
│   ├── AuthenticationFailed
│   ├── QuotaExhausted
│   └── ModelNotFound
├── LimitError                   our own limits
│   ├── TenantRateLimited
│   ├── BudgetExceeded
│   └── QueueFull
├── DeadlineExceeded
├── KeyUnavailable
└── InternalError
"""

from enum import StrEnum
from typing import ClassVar

from contracts.wire import WireModel, optional

__all__ = [
    "AuthenticationFailed",
    "BudgetExceeded",
    "ContentFiltered",
    "ContextLengthExceeded",
    "DeadlineExceeded",
    "ErrorCode",
    "FleetError",
    "InternalError",
    "InvalidRequest",
    "KeyUnavailable",
    "LimitError",
    "MalformedRequest",
    "ModelNotFound",
    "NoProvider",
    "Overloaded",
    "ProviderTimeout",
    "ProviderUnavailable",
    "QueueFull",
    "QuotaExhausted",
    "RateLimited",
    "RequestError",
    "StreamInterrupted",
    "TenantRateLimited",
    "UnknownModel",
    "UnknownTenant",
    "UnsupportedFeature",
    "VendorError",
]
"""What agents catch: the tree and its codes, which fleet.errors and fleet.client pass on."""

_MESSAGE_CHARS = 2000
"""The most of a message on the wire; an event holds several, and has to fit into one message of the broker."""


class ErrorCode(StrEnum):
    MALFORMED_REQUEST = "malformed_request"
    UNKNOWN_TENANT = "unknown_tenant"
    UNKNOWN_MODEL = "unknown_model"
    NO_PROVIDER = "no_provider"
    UNSUPPORTED_FEATURE = "unsupported_feature"
    INVALID_REQUEST = "invalid_request"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    CONTENT_FILTERED = "content_filtered"
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    PROVIDER_UNAVAILABLE = "provider_unavailable"
    PROVIDER_TIMEOUT = "provider_timeout"
    STREAM_INTERRUPTED = "stream_interrupted"
    AUTHENTICATION_FAILED = "authentication_failed"
    QUOTA_EXHAUSTED = "quota_exhausted"
    MODEL_NOT_FOUND = "model_not_found"
    TENANT_RATE_LIMITED = "tenant_rate_limited"
    BUDGET_EXCEEDED = "budget_exceeded"
    QUEUE_FULL = "queue_full"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    KEY_UNAVAILABLE = "key_unavailable"
    INTERNAL = "internal"


class Error(WireModel):
    """An error on the wire. `retryable`: the same request may succeed if it is sent again later."""

    code: ErrorCode
    message: str
    retryable: bool
    retry_after_s: float | None = optional(ge=0)
    provider: str | None = optional()
    status: int | None = optional()
    """The vendor's HTTP status, where there was one."""


class FleetError(Exception):
    """An error with a code of the contract. The message says what happened, to what, and what to do."""

    code: ClassVar[ErrorCode]
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        provider: str | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        self.provider = provider
        self.status = status

    def to_wire(self) -> Error:
        return Error(
            code=self.code,
            message=self.message[:_MESSAGE_CHARS],
            retryable=self.retryable,
            retry_after_s=self.retry_after_s,
            provider=self.provider,
            status=self.status,
        )


def from_wire(error: Error) -> FleetError:
    """The exception for an error that another process reported."""
    return BY_CODE[error.code](
        error.message, retry_after_s=error.retry_after_s, provider=error.provider, status=error.status
    )


class RequestError(FleetError):
    """The request cannot be served as it stands."""


class MalformedRequest(RequestError):
    """The request is no JSON, breaks the schema, is too large, or names another tenant than its subject does."""

    code = ErrorCode.MALFORMED_REQUEST


class UnknownTenant(RequestError):
    """The tenant of the request or of the question is not configured."""

    code = ErrorCode.UNKNOWN_TENANT


class UnknownModel(RequestError):
    """No provider of the tenant offers the model, or a provider was named that has no default model."""

    code = ErrorCode.UNKNOWN_MODEL


class NoProvider(RequestError):
    """The tenant has no active provider for the request, or its endpoint is at an address that must not be called."""

    code = ErrorCode.NO_PROVIDER


class UnsupportedFeature(RequestError):
    """The provider's interface cannot express something that the request asks for."""

    code = ErrorCode.UNSUPPORTED_FEATURE


class InvalidRequest(RequestError):
    """The vendor refuses the request as wrong, or the request or its answer cannot be passed on as it is."""

    code = ErrorCode.INVALID_REQUEST


class ContextLengthExceeded(RequestError):
    """The request, with the room for its answer, is longer than the model's context window."""

    code = ErrorCode.CONTEXT_LENGTH_EXCEEDED


class ContentFiltered(RequestError):
    """The vendor's safety rules refuse the request before there is an answer."""

    code = ErrorCode.CONTENT_FILTERED


class VendorError(FleetError):
    """The vendor failed, refused our credentials, or could not be reached."""


class RateLimited(VendorError):
    """The vendor answers that too much was asked of it in too short a time; `retry_after_s` is when it named one."""

    code = ErrorCode.RATE_LIMITED
    retryable = True


class Overloaded(VendorError):
    """The vendor answers that it has no capacity at the moment."""

    code = ErrorCode.OVERLOADED
    retryable = True


class ProviderUnavailable(VendorError):
    """The vendor cannot be reached, fails, or answers with what is no answer (a proxy's page).

    The client also raises it when NATS or the fleet's workers cannot be asked.
    """

    code = ErrorCode.PROVIDER_UNAVAILABLE
    retryable = True


class ProviderTimeout(VendorError):
    """The vendor did not connect, begin, go on or end within the time limits of the provider."""

    code = ErrorCode.PROVIDER_TIMEOUT
    retryable = True


class StreamInterrupted(VendorError):
    """The stream ended without the vendor's end marker."""

    code = ErrorCode.STREAM_INTERRUPTED
    retryable = True


class AuthenticationFailed(VendorError):
    """The vendor refuses the key (401, 403), or the stored key is none that the provider's `auth` can use."""

    code = ErrorCode.AUTHENTICATION_FAILED


class QuotaExhausted(VendorError):
    """The vendor account's credit or quota is used up; waiting does not bring it back."""

    code = ErrorCode.QUOTA_EXHAUSTED


class ModelNotFound(VendorError):
    """The vendor has no such model or deployment, or the account may not use it."""

    code = ErrorCode.MODEL_NOT_FOUND


class LimitError(FleetError):
    """A limit that the fleet itself keeps."""

    retryable = True


class TenantRateLimited(LimitError):
    """The tenant's requests or tokens of this minute or day are used up."""

    code = ErrorCode.TENANT_RATE_LIMITED


class BudgetExceeded(LimitError):
    """What is left of the tenant's daily budget does not cover the next call."""

    code = ErrorCode.BUDGET_EXCEEDED


class QueueFull(LimitError):
    """The tenant's queue for a pool is full, or its requests that wait take as many bytes as they may."""

    code = ErrorCode.QUEUE_FULL


class DeadlineExceeded(FleetError):
    """The request's deadline passed before it was complete."""

    code = ErrorCode.DEADLINE_EXCEEDED


class KeyUnavailable(FleetError):
    """Vault is down or sealed, or holds no key, and nothing usable is cached."""

    code = ErrorCode.KEY_UNAVAILABLE
    retryable = True


class InternalError(FleetError):
    """The fleet itself failed on the request: a bug, or a request that killed the workers which ran it."""

    code = ErrorCode.INTERNAL


def _classes(root: type[FleetError]) -> list[type[FleetError]]:
    return [c for sub in root.__subclasses__() for c in (sub, *_classes(sub))]


BY_CODE: dict[ErrorCode, type[FleetError]] = {c.code: c for c in _classes(FleetError) if "code" in vars(c)}
