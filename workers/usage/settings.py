"""Settings of the usage consumer."""

from runtime.settings import BrokerSettings, DatabaseSettings, LogSettings, ProbeSettings


class UsageSettings(BrokerSettings, DatabaseSettings, ProbeSettings, LogSettings):
    """What the environment says; nothing but the shared settings."""
