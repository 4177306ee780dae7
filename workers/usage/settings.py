"""Settings of the usage consumer."""

from typing import Annotated

from pydantic import Field

from runtime.settings import BrokerSettings, DatabaseSettings, LogSettings, ProbeSettings
from workers.usage.alerts.settings import AlertSettings


class UsageSettings(BrokerSettings, DatabaseSettings, AlertSettings, ProbeSettings, LogSettings):
    llm_usage_retention_days: Annotated[int, Field(ge=1, le=36_500)] | None = None
    """For how many days before today single events are kept, for ever without it. Roll-ups are always kept."""
    llm_attempt_grace_s: Annotated[float, Field(ge=1, le=3600)] = 60
    """How long after a vendor call must have ended its usage record may still come; then it is booked as abandoned."""
