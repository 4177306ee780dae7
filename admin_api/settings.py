"""What the admin API reads from its environment."""

from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from runtime.networks import Network, parse_networks
from runtime.settings import (
    BrokerSettings,
    DatabaseSettings,
    LogSettings,
    ProbeSettings,
    SealingSettings,
    VaultSettings,
)


class AdminSettings(BrokerSettings, DatabaseSettings, VaultSettings, SealingSettings, ProbeSettings, LogSettings):
    llm_http_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    llm_admin_token: SecretStr | None = None
    """The bootstrap admin; without it only tokens in the database are accepted."""
    llm_allowed_private_networks: Annotated[tuple[Network, ...], NoDecode] = ()

    @field_validator("llm_allowed_private_networks", mode="before")
    @classmethod
    def _parse(cls, value: object) -> object:
        return parse_networks(value) if isinstance(value, str) else value
