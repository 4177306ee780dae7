"""The settings of a worker pool."""

from typing import Annotated

from pydantic import Field

from contracts.providers import Limits
from contracts.requests import MAX_KEEP_S
from runtime.prices.pricing import default_model
from runtime.settings import (
    BrokerSettings,
    LogSettings,
    NetworkSettings,
    PriceSettings,
    ProbeSettings,
    SealingSettings,
    VaultSettings,
)


class WorkerSettings(
    BrokerSettings, VaultSettings, SealingSettings, NetworkSettings, PriceSettings, ProbeSettings, LogSettings
):
    llm_worker_concurrency: Annotated[int, Field(ge=1, le=100_000)] = 2500
    """Requests that one process works on at the same time."""
    llm_worker_requests_mib: Annotated[int, Field(ge=64)] = 256
    """MiB of requests, waiting or worked on, that one process holds at the same time; a tenant alone has a quarter of
    them at most."""
    llm_result_retention_s: Annotated[int, Field(ge=0, le=MAX_KEEP_S)] = 86_400
    """For how long the end of a request is kept that does not say so itself; 0: a day, without its content."""
    llm_drain_grace_s: Annotated[float, Field(ge=0)] = 60
    """How long streams may go on after SIGTERM before they are handed over."""
    llm_rate_limit_per_minute: Annotated[int, Field(ge=0)] = 60
    """Requests of a tenant that has no setting of its own; 0: no limit."""
    llm_rate_limit_per_day: Annotated[int, Field(ge=0)] = 10_000
    default_openai_model: str = default_model("openai")
    default_anthropic_model: str = default_model("anthropic")
    default_google_model: str = default_model("google")

    def default_limits(self) -> Limits:
        return Limits(requests_per_minute=self.llm_rate_limit_per_minute, requests_per_day=self.llm_rate_limit_per_day)

    def default_models(self) -> dict[str, str]:
        return {
            "openai": self.default_openai_model,
            "azure": self.default_openai_model,
            "anthropic": self.default_anthropic_model,
            "google": self.default_google_model,
            "mock": "echo",
        }
