"""When alerts are raised; 0 in any of them: never."""

from decimal import Decimal
from typing import Annotated

from pydantic import Field

from runtime.settings import RoleSettings
from workers.usage.alerts.conditions import Thresholds


class AlertSettings(RoleSettings):
    llm_daily_cost_alert_threshold: Annotated[Decimal, Field(ge=0, lt=10**10)] = Decimal(100)
    """USD a UTC day, of tenants that have no `daily_cost_alert_usd`."""
    llm_alert_error_rate: Annotated[float, Field(ge=0, le=1)] = 0.25
    """The share of a provider's attempts that fail."""
    llm_alert_slowdown: Annotated[float, Field(ge=0, le=1000)] = 2.0
    """How many times as slow as in the last days."""

    def thresholds(self) -> Thresholds:
        """The same, as `conditions` takes them."""
        return Thresholds(
            daily_cost_usd=self.llm_daily_cost_alert_threshold,
            error_rate=self.llm_alert_error_rate,
            slowdown=self.llm_alert_slowdown,
        )
