"""What the admin API reads from its environment."""

from dataclasses import replace
from typing import Annotated, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from admin_api.access.jwks import check_url
from admin_api.access.oidc import Claims
from admin_api.access.principals import Role
from admin_api.notices.settings import MailSettings
from runtime.networks import Network, parse_networks
from runtime.settings import (
    BrokerSettings,
    DatabaseSettings,
    LogSettings,
    NetworkSettings,
    PriceSettings,
    ProbeSettings,
    RoleSettings,
    SealingSettings,
    VaultSettings,
)


class OidcSettings(RoleSettings):
    """Which issuer's tokens are accepted, and where they say what their bearer may do."""

    llm_oidc_issuer: str | None = None
    """None: tokens of no issuer are accepted."""
    llm_oidc_audience: str | None = None
    llm_oidc_role_claim: str = "roles"
    llm_oidc_tenant_claim: str = "tenant"
    llm_oidc_roles: Annotated[dict[str, Role] | None, NoDecode] = None
    """What the issuer calls our roles, as `fleet-admins=admin,ops=viewer`; None: as we do."""

    @field_validator("llm_oidc_issuer")
    @classmethod
    def _cannot_be_altered_on_the_way(cls, issuer: str | None) -> str | None:
        if issuer is not None:
            check_url(issuer)
        return issuer

    @field_validator("llm_oidc_roles", mode="before")
    @classmethod
    def _parse_roles(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = (part.rpartition("=") for part in value.split(",") if part.strip())
        return {name.strip(): role.strip() for name, _, role in pairs}

    @model_validator(mode="after")
    def _issuer_needs_audience(self) -> Self:
        if self.llm_oidc_issuer is not None and not self.llm_oidc_audience:
            raise ValueError("LLM_OIDC_ISSUER needs LLM_OIDC_AUDIENCE: what its tokens for this API name as `aud`")
        return self

    def claims(self) -> Claims:
        given = Claims(role=self.llm_oidc_role_claim, tenant=self.llm_oidc_tenant_claim)
        return given if self.llm_oidc_roles is None else replace(given, roles=self.llm_oidc_roles)


class AdminSettings(
    BrokerSettings,
    DatabaseSettings,
    VaultSettings,
    SealingSettings,
    NetworkSettings,
    OidcSettings,
    MailSettings,
    PriceSettings,
    ProbeSettings,
    LogSettings,
):
    llm_http_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    llm_admin_token: SecretStr | None = None
    """The bootstrap admin; without it only stored tokens and those of the issuer are accepted."""
    llm_admin_rate_limit_per_minute: Annotated[int, Field(ge=0)] = 600
    """Requests of a token to one process; 0: no limit."""
    llm_trusted_proxies: Annotated[tuple[Network, ...], NoDecode] = ()
    """Whose X-Forwarded-For and X-Forwarded-Proto are believed."""
    llm_audit_retention_days: Annotated[int | None, Field(ge=1)] = None
    """None: the audit log is kept for ever."""

    @field_validator("llm_trusted_proxies", mode="before")
    @classmethod
    def _parse_networks(cls, value: object) -> object:
        return parse_networks(value) if isinstance(value, str) else value
