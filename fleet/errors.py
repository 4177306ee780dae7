"""What a completion fails with, for agents: every one is a FleetError. `contracts.errors` draws the tree."""

# ruff: noqa: F405 - pyright finds a name in the list that contracts.errors lacks
from contracts.errors import *  # noqa: F403

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
