"""What the admin API reads from its environment."""

from typing import Annotated

from pydantic import Field, SecretStr

from runtime.settings import (
    BrokerSettings,
    DatabaseSettings,
    LogSettings,
    NetworkSettings,
    ProbeSettings,
    SealingSettings,
    VaultSettings,
)


class AdminSettings(
    BrokerSettings, DatabaseSettings, VaultSettings, SealingSettings, NetworkSettings, ProbeSettings, LogSettings
):
    llm_http_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    llm_admin_token: SecretStr | None = None
    """The bootstrap admin; without it only tokens in the database are accepted."""
