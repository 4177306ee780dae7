"""The configuration of workers: what they need of a row of `tenants` or `llm_providers`, and under which key of the
bucket `llm_config` it lies.
"""

import logging
from decimal import Decimal
from typing import Any

from pydantic import ValidationError

from contracts import subjects
from contracts.providers import BudgetStart, ProviderConfig, PublishedProvider, PublishedTenant

log = logging.getLogger(__name__)

WorkerConfig = PublishedTenant | PublishedProvider

LIMITS = ("requests_per_minute", "requests_per_day", "tokens_per_minute", "tokens_per_day")
LOWERABLE = (*LIMITS, "daily_budget_usd")
"""What a tenant may set lower than its operator, where the operator lets it."""
WITH_DEFAULT = frozenset({"requests_per_minute", "requests_per_day"})
"""Those whose null is a default of other roles' environment, which the admin API does not know."""


def tenant(row: Any) -> PublishedTenant | None:
    """A row of `tenants` as workers read it; None when this version cannot read the row, as after a downgrade."""
    try:
        budget_start = None
        if row.budget_day is not None:
            budget_start = BudgetStart(day=row.budget_day, spent_usd=row.budget_spent_usd, revision=row.budget_revision)
        return PublishedTenant.model_validate(
            {
                "slug": row.slug,
                "limits": {name: in_force(row, name) for name in LIMITS},
                "daily_budget_usd": in_force(row, "daily_budget_usd"),
                "budget_start": budget_start,
                "daily_cost_alert_usd": row.daily_cost_alert_usd,
                "aliases": row.aliases,
                "fallbacks": row.fallbacks,
                "prices": row.prices,
                "max_keep_s": row.max_keep_s,
                "revision": row.revision,
            }
        )
    except ValidationError as exc:
        return _unreadable(f"tenant {row.slug}", exc)


def in_force(row: Any, name: str) -> Any:
    """The value of a row of `tenants` that holds for one of `LOWERABLE`: the operator's, or the tenant's lower one."""
    operators, tenants = getattr(row, name), row.lowered.get(name) if row.may_lower else None
    if tenants is None or (operators is None and name in WITH_DEFAULT):
        return operators
    # Null and 0 are no limit.
    lower = Decimal(tenants) if name.endswith("_usd") else tenants
    return min(operators, lower) if operators else lower


def provider(row: Any) -> PublishedProvider | None:
    """A row of `llm_providers` as workers read it; None when this version cannot read it, as after a downgrade."""
    try:
        return PublishedProvider(
            provider_id=str(row.id),
            tenant=row.tenant,
            provider_type=row.provider_type,
            is_active=row.is_active,
            is_default=row.is_default,
            key_version=row.key_version,
            more_key_versions={name: key["version"] for name, key in row.more_keys.items()},
            revision=row.revision,
            config=ProviderConfig.model_validate(row.config),
        )
    except ValidationError as exc:
        return _unreadable(f"provider {row.id}", exc)


def key(value: WorkerConfig) -> str:
    """The key of the bucket under which `value` lies."""
    match value:
        case PublishedTenant():
            return subjects.config_key_of_tenant(value.slug)
        case PublishedProvider():
            return subjects.config_key_of_provider(value.tenant, value.provider_type)


def _unreadable(row: str, exc: ValidationError) -> None:
    log.error("config_row_unreadable", extra={"row": row, "fields": [error["loc"] for error in exc.errors()]})
