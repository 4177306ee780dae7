"""Which conditions hold. Pure: what was measured goes in, verdicts come out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import NamedTuple

from contracts.errors import ErrorCode
from contracts.health import OpenCircuit
from contracts.notices import NoticeKind
from contracts.providers import BudgetStop
from contracts.usage import plain_decimal
from workers.usage.alerts import forecast
from workers.usage.alerts.alert_counts import WINDOW_S, TenantDay
from workers.usage.alerts.sketch import quantile

WARNING_SHARE = Decimal("0.8")
"""The share of a budget from which on its tenant is warned."""
LEAST_ATTEMPTS = 20
"""Fewer say nothing about an error rate."""
LEAST_SAMPLES = 30
LEAST_BASELINE = 100
"""Fewer completed attempts say nothing about a 95th percentile, now and in the last days."""
LEAST_DELAY_S = 0.5
"""A smaller difference hurts nobody, whatever its ratio."""
P95 = 0.95
_CENT = Decimal("0.01")
DAILY = (
    NoticeKind.DAILY_COST,
    NoticeKind.DAILY_COST_FORECAST,
    NoticeKind.BUDGET_WARNING,
    NoticeKind.BUDGET_EXHAUSTED,
)
"""Kinds that are about a day; an alert of theirs is resolved when it ends."""
LATENCIES = {NoticeKind.SLOW_FIRST_TOKEN: "first_token", NoticeKind.SLOW_DURATION: "duration"}
"""Kinds that are about a model, and the histogram that each is judged by."""
_MOST_USD = Decimal(10**10) - 1
"""What a row holds."""
_NO_OUTAGE = frozenset({ErrorCode.RATE_LIMITED, ErrorCode.MODEL_NOT_FOUND})
"""Reasons of an open circuit that are no alert: a pause that the vendor asked for, and a model that it never had."""


class ProviderKey(NamedTuple):
    """Error rates and refused keys are measured by tenant and provider."""

    tenant: str
    provider: str


class ModelKey(NamedTuple):
    """Latencies are measured by tenant and model."""

    tenant: str
    provider: str
    model: str


Scope = TenantDay | ProviderKey | ModelKey
"""What is measured together."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When alerts begin; 0 raises none."""

    daily_cost_usd: Decimal
    """For tenants that have none of their own."""
    error_rate: float
    """The share of attempts that fail."""
    slowdown: float
    """How many times the last days' 95th percentile a model's present one may be."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What at most one unresolved alert is about."""

    tenant: str
    kind: NoticeKind
    about: str = ""
    """A provider, `provider/model` or `provider/endpoint`; empty when it is about the tenant."""
    day: date | None = None
    """For kinds in DAILY, of which each day is a condition of its own."""

    @property
    def scope(self) -> Scope | None:
        """Where it is measured; None for kinds that the workers tell."""
        match self.kind:
            case NoticeKind.PROVIDER_UNAVAILABLE | NoticeKind.BUDGET_STOPS:
                return None
            case NoticeKind.SLOW_FIRST_TOKEN | NoticeKind.SLOW_DURATION:
                return ModelKey(self.tenant, *self.about.split("/", 1))
            case _ if self.day is not None:
                return TenantDay(self.tenant, self.day)
            case _:
                return ProviderKey(self.tenant, self.about)


@dataclass(frozen=True, slots=True)
class Verdict:
    """`begins` raises an alert; `lasts` keeps one that is there from being resolved. The first takes more."""

    condition: Condition
    begins: bool
    lasts: bool
    window_start: datetime
    message: str
    threshold_usd: Decimal | None = None
    amount_usd: Decimal | None = None
    threshold: float | None = None
    measured: float | None = None


@dataclass(frozen=True, slots=True)
class Spending:
    """What a tenant has spent on a UTC day, and its settings, which are None where it has none of its own."""

    tenant: str
    day: date
    spent: Decimal
    alert_usd: Decimal | None
    budget_usd: Decimal | None


@dataclass(frozen=True, slots=True)
class Health:
    """How the attempts of a tenant at a provider went in the last ten to twenty minutes."""

    tenant: str
    provider: str
    attempts: int = 0
    errors: int = 0
    refused_at: datetime | None = None
    """When the key was last refused within the last hour; so is `succeeded_at`."""
    succeeded_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Latency:
    """How fast a tenant's model gives first tokens, or whole answers, now and usually."""

    tenant: str
    provider: str
    model: str
    kind: NoticeKind
    recent: Sequence[int] = field(repr=False)
    """A histogram of the last ten to twenty minutes."""
    usual_s: float | None
    """The 95th percentile of the days before today, in seconds; None when there were too few attempts to tell."""


def window_of(now: datetime) -> datetime:
    """When the ten minutes began that `now` is in."""
    return datetime.fromtimestamp(now.timestamp() // WINDOW_S * WINDOW_S, UTC)


def of_spending(of: Spending, thresholds: Thresholds, *, now: datetime) -> Iterable[Verdict]:
    """A verdict for each kind in DAILY."""
    is_today = of.day == now.date()
    threshold = thresholds.daily_cost_usd if of.alert_usd is None else of.alert_usd
    budget = of.budget_usd or Decimal(0)
    lasts_until, window_start = datetime.combine(of.day, time.max, UTC), datetime.combine(of.day, time.min, UTC)

    def reached(kind: NoticeKind, limit: Decimal, message: str) -> Verdict:
        begins = limit > 0 and of.spent >= limit
        return Verdict(
            Condition(of.tenant, kind, day=of.day),
            begins=begins,
            lasts=begins and now <= lasts_until,
            window_start=window_start,
            message=message,
            threshold_usd=limit,
            amount_usd=min(of.spent, _MOST_USD),
        )

    spent = f"{of.tenant} has spent {_usd(of.spent)} on {of.day}"
    yield reached(NoticeKind.DAILY_COST, threshold, f"{spent}; the alert's threshold is {_usd(threshold)}")
    yield reached(
        NoticeKind.BUDGET_WARNING, budget * WARNING_SHARE, f"{spent}: {WARNING_SHARE:.0%} of its budget {_usd(budget)}"
    )
    yield reached(NoticeKind.BUDGET_EXHAUSTED, budget, f"{spent}: all of its budget {_usd(budget)}")
    foretold = forecast.at_end_of_day(of.spent, now=now) if is_today else None
    exceeds = foretold is not None and 0 < threshold < foretold
    yield Verdict(
        Condition(of.tenant, NoticeKind.DAILY_COST_FORECAST, day=of.day),
        begins=exceeds and of.spent < threshold,
        lasts=exceeds,
        window_start=window_start,
        message=f"{spent} so far; at this rate {_usd(foretold or of.spent)} by its end, over {_usd(threshold)}",
        threshold_usd=threshold,
        amount_usd=min(foretold or of.spent, _MOST_USD),
    )


def of_health(of: Health, thresholds: Thresholds, *, now: datetime) -> Iterable[Verdict]:
    """Verdicts on the error rate and on the key."""
    rate = of.errors / of.attempts if of.attempts else 0.0
    limit = thresholds.error_rate
    yield Verdict(
        Condition(of.tenant, NoticeKind.ERROR_RATE, of.provider),
        begins=0 < limit <= rate and of.attempts >= LEAST_ATTEMPTS,
        lasts=0 < limit <= rate * 2,
        window_start=window_of(now),
        message=f"{of.errors} of {of.attempts} attempts of {of.tenant} at {of.provider} failed in the last minutes",
        threshold=limit,
        measured=rate,
    )
    refused = of.refused_at is not None and (of.succeeded_at is None or of.succeeded_at <= of.refused_at)
    yield Verdict(
        Condition(of.tenant, NoticeKind.KEY_REFUSED, of.provider),
        begins=refused,
        lasts=refused or of.succeeded_at is None,
        window_start=window_of(now),
        message=f"{of.provider} refuses the key of {of.tenant}; set another one with PUT /api/v1/llm-providers/…",
    )


def of_latency(of: Latency, thresholds: Thresholds, *, now: datetime) -> Iterable[Verdict]:
    """A verdict on the slowdown; there is none when there is nothing to compare."""
    samples = sum(of.recent)
    if of.usual_s is None or not samples or not thresholds.slowdown:
        return
    name = f"{of.provider}/{of.model}"
    what = "first tokens" if of.kind is NoticeKind.SLOW_FIRST_TOKEN else "answers"
    measured = quantile(of.recent, P95)
    limit = max(of.usual_s * thresholds.slowdown, of.usual_s + LEAST_DELAY_S)
    yield Verdict(
        Condition(of.tenant, of.kind, name),
        begins=measured > limit and samples >= LEAST_SAMPLES,
        lasts=measured > (of.usual_s + limit) / 2,
        window_start=window_of(now),
        message=f"{what} of {name} for {of.tenant}: 95 % came within {measured:.1f} s, "
        f"in the last days within {of.usual_s:.1f} s",
        threshold=limit,
        measured=measured,
    )


def of_circuits(circuits: Iterable[OpenCircuit], *, now: datetime) -> Iterable[Verdict]:
    """A verdict on each endpoint that is out of service, for all models or for some.

    One for each endpoint and not for each model, because agents can name any number of models.
    """
    outages: dict[Condition, list[OpenCircuit]] = {}
    for of in circuits:
        if of.reason not in _NO_OUTAGE:
            about = Condition(of.tenant, NoticeKind.PROVIDER_UNAVAILABLE, f"{of.provider}/{of.endpoint}")
            outages.setdefault(about, []).append(of)
    for condition, which in outages.items():
        # The circuit of the endpoint itself before those of its models, the oldest first.
        first = min(which, key=lambda of: (of.model is not None, of.opened_at))
        what = f"the endpoint {first.endpoint} of {first.provider}"
        if first.model is not None:
            others = f" and {len(which) - 1} more" if len(which) > 1 else ""
            what = f"the model {first.model}{others} at {what}"
        yield Verdict(
            condition,
            begins=True,
            lasts=True,
            window_start=window_of(now),
            message=f"{what} is out of service for {first.tenant}: {first.reason}",
        )


_HOW_STOPPED = {
    "waits": "requests wait for what other calls keep free of its daily budget",
    "refused": "requests are refused, because too little is left of its daily budget",
    "broken_off": "answers are broken off, because nothing is left of its daily budget",
    "late": "requests waited for its daily budget until their deadline",
}


def of_budget_stops(stops: Iterable[BudgetStop], *, now: datetime) -> Iterable[Verdict]:
    """A verdict on each tenant whose requests a budget stopped of late: the last stop is told."""
    last: dict[str, BudgetStop] = {}
    for stop in stops:
        if stop.tenant not in last or last[stop.tenant].at < stop.at:
            last[stop.tenant] = stop
    for stop in last.values():
        yield Verdict(
            Condition(stop.tenant, NoticeKind.BUDGET_STOPS),
            begins=True,
            lasts=True,
            window_start=window_of(now),
            message=f"{stop.tenant}: {_HOW_STOPPED[stop.how]}",
        )


def _usd(amount: Decimal) -> str:
    """The amount in whole cents, unless it is less than one."""
    rounded = amount.quantize(_CENT) if amount >= _CENT else amount
    return f"{plain_decimal(rounded)} USD"
