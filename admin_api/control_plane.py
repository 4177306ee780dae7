"""What the endpoints work with, put together once by the composition root."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from admin_api.access.authenticator import Authenticator
from admin_api.access.failed_logins import FailedLoginLimiter
from admin_api.access.refusal_counts import RefusalCounter
from admin_api.database import Database
from admin_api.http.rate_limiter import RateLimiter
from admin_api.notices.webhook import WebhookSender
from admin_api.publishing.config_publisher import ConfigPublisher
from admin_api.publishing.key_vault import KeyVault
from runtime.broker import Broker
from runtime.networks import Network
from runtime.sealing import Keyring


@dataclass(frozen=True, slots=True)
class ControlPlane:
    database: Database
    broker: Broker
    vault: KeyVault
    keyring: Keyring
    publisher: ConfigPublisher
    webhooks: WebhookSender
    authenticator: Authenticator
    failed_logins: FailedLoginLimiter
    refusal_counter: RefusalCounter
    rate_limiter: RateLimiter | None = None
    """How often a caller may come; None: as often as it likes."""
    trusted_proxies: Sequence[Network] = ()
    """Whose word on a caller's address counts."""
    allowed_networks: Sequence[Network] = ()
    """Private networks that a provider's `base_url` may name."""


def control_plane(request: Request) -> ControlPlane:
    return request.app.state.control_plane


Plane = Annotated[ControlPlane, Depends(control_plane)]
