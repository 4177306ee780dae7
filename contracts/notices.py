"""What the control plane tells on `llm.v1.notice.<kind>.<tenant>` and to webhooks: CloudEvents 1.0, structured JSON.

A CloudEvent's `id` is the message's `Nats-Msg-Id` and the header `webhook-id`: whoever gets one twice drops the second.
Source: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md
"""

from datetime import date
from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, StringConstraints

from contracts import subjects
from contracts.usage import Money
from contracts.wire import Token, UtcTime, WireModel

ALL_TENANTS = "_all"
"""In the tenant's place of a subject: the notice concerns no single one."""
CONTENT_TYPE = "application/cloudevents+json"


class NoticeKind(StrEnum):
    """What a notice is about; every kind but the last two is an alert."""

    DAILY_COST = "daily_cost"
    """The tenant's cost of a day reached its threshold."""
    DAILY_COST_FORECAST = "daily_cost_forecast"
    """If the day goes on like this, it will."""
    BUDGET_WARNING = "budget_warning"
    """80 % of the tenant's daily budget are spent."""
    BUDGET_EXHAUSTED = "budget_exhausted"
    BUDGET_STOPS = "budget_stops"
    """Requests wait for the tenant's daily budget, or were refused or broken off by it."""
    ERROR_RATE = "error_rate"
    """Too many of a provider's attempts fail."""
    SLOW_FIRST_TOKEN = "slow_first_token"  # noqa: S105 - no password
    """A model's 95th percentile is far above that of its last days."""
    SLOW_DURATION = "slow_duration"
    PROVIDER_UNAVAILABLE = "provider_unavailable"
    """The circuit of an endpoint is open."""
    KEY_REFUSED = "key_refused"
    """The vendor refuses the provider's key."""
    CONFIG = "config"
    """Somebody changed a tenant, a provider, a token or a webhook."""
    TEST = "test"
    """Somebody tries a webhook; never on NATS."""


ALERT_KINDS = tuple(kind for kind in NoticeKind if kind not in (NoticeKind.CONFIG, NoticeKind.TEST))

Share = Annotated[float, Field(ge=0)]


class Alert(WireModel):
    """An alert as it was when it was raised, or resolved."""

    id: UUID
    tenant: Token
    kind: NoticeKind
    about: str
    """A provider, `provider/model` or `provider/endpoint`; empty: all of the tenant."""
    window_start: UtcTime
    """Raised once for each window: a day, or ten minutes."""
    day: date
    """The UTC day that it is about."""
    threshold_usd: Money | None = None
    amount_usd: Money | None = None
    threshold: Share | None = None
    """A share of attempts or seconds, by kind."""
    measured: Share | None = None
    message: str
    created_at: UtcTime
    resolved_at: UtcTime | None = None


class ConfigChange(WireModel):
    """Which object was changed, how and by whom; what it was and is stands in the audit log."""

    tenant: Token | None = None
    """None: all tenants."""
    object_type: str
    object_id: str
    action: str
    """As in the audit log: `provider.rotate`."""
    actor: str
    """`bootstrap`, or `token:` and the token's id."""
    changed: tuple[str, ...] = ()
    """The fields whose values differ, by name; the names only."""


class WebhookTrial(WireModel):
    webhook_id: UUID
    message: str


class CloudEvent(WireModel):
    """What all notices have."""

    specversion: Literal["1.0"] = "1.0"
    id: UUID
    source: Annotated[str, StringConstraints(min_length=1)]
    """The role that said it: `/fleet/usage`, `/fleet/admin`."""
    subject: str
    """The id of the alert or of the object that was changed."""
    time: UtcTime
    datacontenttype: Literal["application/json"] = "application/json"
    tenant: Token | None = None
    """An extension attribute; None: all tenants."""


class AlertNotice(CloudEvent):
    type: Literal["llm.v1.alert.raised", "llm.v1.alert.resolved"]
    data: Alert

    @property
    def kind(self) -> NoticeKind:
        return self.data.kind


class ConfigNotice(CloudEvent):
    type: Literal["llm.v1.config.changed"] = "llm.v1.config.changed"
    data: ConfigChange

    @property
    def kind(self) -> NoticeKind:
        return NoticeKind.CONFIG


class TrialNotice(CloudEvent):
    type: Literal["llm.v1.webhook.test"] = "llm.v1.webhook.test"
    data: WebhookTrial

    @property
    def kind(self) -> NoticeKind:
        return NoticeKind.TEST


Notice = AlertNotice | ConfigNotice | TrialNotice


def subject_of(kind: str, tenant: str | None) -> str:
    """Where a notice is published."""
    return subjects.notice(kind, ALL_TENANTS if tenant is None else tenant)
