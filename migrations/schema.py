"""The tables. Money is NUMERIC(20,10) USD, times are timestamptz, days are UTC dates."""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

Money = Numeric(20, 10)
Time = DateTime(timezone=True)
Ordered = Text(collation="C")
"""Text that sorts by its bytes, the same on every server."""

NOW = text("now()")
EMPTY_OBJECT = text("'{}'::jsonb")
EMPTY_ARRAY = text("'[]'::jsonb")
ZERO = text("0")
TRUE = text("true")
FALSE = text("false")

# Rows of today change with every batch: free space in their pages keeps the new versions there, out of the indexes.
ROOM_FOR_UPDATES = {"fillfactor": 70}


def _amounts() -> list[Column[Any]]:
    """What a roll-up sums."""
    counts = ("prompt_tokens", "completion_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")
    return [
        *(Column(name, BigInteger, nullable=False, server_default=ZERO) for name in counts),
        Column("total_cost", Money, nullable=False, server_default=ZERO),
        # Attempts without a known price; their cost is missing from total_cost.
        Column("unpriced_count", BigInteger, nullable=False, server_default=ZERO),
        Column("request_count", BigInteger, nullable=False, server_default=ZERO),
        Column("error_count", BigInteger, nullable=False, server_default=ZERO),
    ]


tenants = Table(
    "tenants",
    metadata,
    Column("slug", Ordered, primary_key=True),
    # Limits: null is the environment's default, 0 is no limit.
    Column("requests_per_minute", BigInteger),
    Column("requests_per_day", BigInteger),
    Column("tokens_per_minute", BigInteger),
    Column("tokens_per_day", BigInteger),
    Column("daily_budget_usd", Money),
    Column("daily_cost_alert_usd", Money),
    Column("aliases", JSONB, nullable=False, server_default=EMPTY_OBJECT),
    Column("fallbacks", JSONB, nullable=False, server_default=EMPTY_ARRAY),
    Column("prices", JSONB, nullable=False, server_default=EMPTY_OBJECT),
    Column("alert_emails", JSONB, nullable=False, server_default=EMPTY_ARRAY),
    # When the budget was set, and what the ledger had of that day then: set together, or null.
    Column("budget_day", Date),
    Column("budget_spent_usd", Money),
    Column("budget_revision", BigInteger),
    # Whether the tenant may set lower values than the operator's, and which it has set, by the names of the columns.
    Column("may_lower", Boolean, nullable=False, server_default=FALSE),
    Column("lowered", JSONB, nullable=False, server_default=EMPTY_OBJECT),
    # Seconds; null is the most that the fleet keeps.
    Column("max_keep_s", BigInteger),
    Column("revision", BigInteger, nullable=False, server_default=text("1")),
    Column("created_at", Time, nullable=False, server_default=NOW),
    Column("updated_at", Time, nullable=False, server_default=NOW),
)

llm_providers = Table(
    "llm_providers",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant", Ordered, ForeignKey("tenants.slug"), nullable=False),
    Column("provider_type", Ordered, nullable=False),
    Column("config", JSONB, nullable=False, server_default=EMPTY_OBJECT),
    Column("is_active", Boolean, nullable=False, server_default=TRUE),
    Column("is_default", Boolean, nullable=False, server_default=FALSE),
    # Where the sealed key lies in Vault, and how to recognise it; null when the provider has no key.
    Column("vault_path", Text),
    Column("key_fingerprint", Text),
    Column("key_version", Integer),
    # Further keys, by name: {"fingerprint", "version"}.
    Column("more_keys", JSONB, nullable=False, server_default=EMPTY_OBJECT),
    Column("revision", BigInteger, nullable=False, server_default=text("1")),
    Column("created_at", Time, nullable=False, server_default=NOW),
    Column("updated_at", Time, nullable=False, server_default=NOW),
    UniqueConstraint("tenant", "provider_type"),
    Index("uq_llm_providers_active_default", "tenant", unique=True, postgresql_where=text("is_active AND is_default")),
)

# No foreign key on provider_id, and text: what a vendor billed is booked whatever became of the configuration.
llm_provider_usage = Table(
    "llm_provider_usage",
    metadata,
    Column("provider_id", Ordered, nullable=False),
    Column("date", Date, nullable=False),
    Column("model", Ordered, nullable=False),
    Column("provider", Ordered, nullable=False),
    Column("tenant", Ordered, nullable=False),
    *_amounts(),
    UniqueConstraint("provider_id", "date", "model"),
    Index(None, "tenant", "date"),
    Index(None, "date"),
    postgresql_with=ROOM_FOR_UPDATES,
)

llm_hourly_usage = Table(
    "llm_hourly_usage",
    metadata,
    Column("hour", Time, nullable=False),
    Column("tenant", Ordered, nullable=False),
    Column("provider", Ordered, nullable=False),
    Column("model", Ordered, nullable=False),
    *_amounts(),
    PrimaryKeyConstraint("hour", "tenant", "provider", "model"),
    Index(None, "tenant", "hour"),
    postgresql_with=ROOM_FOR_UPDATES,
)

llm_agent_usage = Table(
    "llm_agent_usage",
    metadata,
    Column("date", Date, nullable=False),
    Column("tenant", Ordered, nullable=False),
    Column("agent", Ordered, nullable=False),
    Column("provider", Ordered, nullable=False),
    Column("model", Ordered, nullable=False),
    *_amounts(),
    PrimaryKeyConstraint("date", "tenant", "agent", "provider", "model"),
    Index(None, "tenant", "date"),
    Index(None, "agent", "date"),
    postgresql_with=ROOM_FOR_UPDATES,
)

# One row, once events were dropped: those of earlier days are gone, and nothing more is booked there.
llm_usage_retention = Table(
    "llm_usage_retention",
    metadata,
    Column("single", Boolean, primary_key=True, server_default=TRUE),
    Column("kept_from", Date, nullable=False),
    CheckConstraint("single", name="single"),
)

llm_usage_events = Table(
    "llm_usage_events",
    metadata,
    Column("id", Ordered, nullable=False),
    Column("day", Date, nullable=False),
    Column("request_id", Ordered, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("tenant", Ordered, nullable=False),
    Column("agent", Ordered, nullable=False),
    Column("provider", Ordered, nullable=False),
    Column("provider_id", Ordered, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("model", Ordered, nullable=False),
    Column("response_model", Text),
    Column("outcome", Text, nullable=False),
    Column("error_code", Text),
    Column("started_at", Time, nullable=False),
    Column("finished_at", Time, nullable=False),
    Column("time_to_first_token_s", Double),
    Column("duration_s", Double, nullable=False),
    Column("queued_s", Double, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cache_read_tokens", BigInteger, nullable=False),
    Column("cache_write_tokens", BigInteger, nullable=False),
    # The part of them that is kept for an hour, at a higher price.
    Column("cache_write_1h_tokens", BigInteger, nullable=False, server_default=ZERO),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("usage_source", Text, nullable=False),
    Column("cost", Money),
    Column("price_source", Text, nullable=False),
    # The rates that the cost was computed with (contracts.usage.UsedPrice).
    Column("price", JSONB(none_as_null=True)),
    Column("service_tier", Text),
    # What of the tokens has a price of its own (contracts.usage.UsagePart).
    Column("usage_parts", JSONB(none_as_null=True)),
    Column("metadata", JSONB, nullable=False, server_default=EMPTY_OBJECT),
    Column("booked_at", Time, nullable=False, server_default=NOW),
    PrimaryKeyConstraint("id", "day"),
    Index(None, "tenant", "day"),
    postgresql_partition_by="RANGE (day)",
)

alerts = Table(
    "alerts",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant", Ordered, nullable=False),
    Column("kind", Text, nullable=False),
    # What of the tenant: a provider, provider/model or provider/endpoint; empty: all of it.
    Column("about", Ordered, nullable=False, server_default=text("''")),
    Column("window_start", Time, nullable=False, server_default=NOW),
    Column("day", Date, nullable=False),
    Column("threshold_usd", Money),
    Column("amount_usd", Money),
    # Of kinds that are not about money: a share of attempts, or seconds.
    Column("threshold", Double),
    Column("measured", Double),
    Column("message", Text, nullable=False),
    Column("created_at", Time, nullable=False, server_default=NOW),
    Column("resolved_at", Time),
    Column("acknowledged_at", Time),
    Column("acknowledged_by", Text),
    # One alert of a condition and window, however many consumers evaluate it.
    UniqueConstraint("tenant", "kind", "about", "window_start"),
    Index(None, "created_at"),
    Index("ix_alerts_unresolved", "tenant", "kind", "about", postgresql_where=text("resolved_at IS NULL")),
)

# What a booked batch counted towards alerts, until it is evaluated.
alert_pulses = Table(
    "alert_pulses",
    metadata,
    Column("seq", BigInteger, Identity(always=False), primary_key=True),
    Column("counted", JSONB, nullable=False),
)

_Counts = ARRAY(BigInteger)

# Attempts by when they ended, for an hour; the buckets of the histograms are those of workers.usage.alerts.sketch.
alert_windows = Table(
    "alert_windows",
    metadata,
    Column("tenant", Ordered, nullable=False),
    Column("provider", Ordered, nullable=False),
    Column("model", Ordered, nullable=False),
    Column("start", Time, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    Column("refused_at", Time),
    Column("succeeded_at", Time),
    Column("first_token", _Counts, nullable=False),
    Column("duration", _Counts, nullable=False),
    PrimaryKeyConstraint("tenant", "provider", "model", "start"),
    Index(None, "start"),
)

# What alert_windows' histograms are folded into: how fast the last days were.
latency_days = Table(
    "latency_days",
    metadata,
    Column("tenant", Ordered, nullable=False),
    Column("provider", Ordered, nullable=False),
    Column("model", Ordered, nullable=False),
    Column("day", Date, nullable=False),
    Column("first_token", _Counts, nullable=False),
    Column("duration", _Counts, nullable=False),
    PrimaryKeyConstraint("tenant", "provider", "model", "day"),
    Index(None, "day"),
)

# The outbox: written in the transaction of what a notice tells of.
notices = Table(
    "notices",
    metadata,
    Column("seq", BigInteger, Identity(always=False), primary_key=True),
    Column("id", Uuid, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    # Null: it concerns no single tenant.
    Column("tenant", Ordered),
    # The CloudEvent, byte for byte as it leaves.
    Column("event", Text, nullable=False),
    Column("created_at", Time, nullable=False, server_default=NOW),
    # When its deliveries were written.
    Column("routed_at", Time),
    Index("ix_notices_unrouted", "seq", postgresql_where=text("routed_at IS NULL")),
    Index(None, "created_at"),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", Uuid, primary_key=True),
    # Null: all tenants.
    Column("tenant", Ordered, ForeignKey("tenants.slug"), index=True),
    Column("url", Text, nullable=False),
    # Empty: every kind.
    Column("kinds", JSONB, nullable=False, server_default=EMPTY_ARRAY),
    # Opened by LLM_ENCRYPTION_KEY, for this row's id only.
    Column("sealed_secret", Text, nullable=False),
    Column("created_at", Time, nullable=False, server_default=NOW),
    Column("last_success_at", Time),
    Column("last_failure_at", Time),
    Column("last_error", Text),
)

notice_deliveries = Table(
    "notice_deliveries",
    metadata,
    Column("id", BigInteger, Identity(always=False), primary_key=True),
    Column("notice", BigInteger, ForeignKey("notices.seq", ondelete="CASCADE"), nullable=False, index=True),
    Column("channel", Text, nullable=False),
    # Of the channel `webhook`.
    Column("webhook", Uuid, ForeignKey("webhooks.id", ondelete="CASCADE"), index=True),
    Column("attempts", Integer, nullable=False, server_default=ZERO),
    Column("next_at", Time, nullable=False, server_default=NOW),
    Column("delivered_at", Time),
    Column("dead_at", Time),
    Column("last_error", Text),
    Index("ix_notice_deliveries_due", "next_at", postgresql_where=text("delivered_at IS NULL AND dead_at IS NULL")),
)

audit_log = Table(
    "audit_log",
    metadata,
    # Assigned by the writer under the chain's lock, so that it has no gaps and follows the chain.
    Column("seq", BigInteger, Identity(always=False), primary_key=True),
    Column("at", Time, nullable=False),
    Column("actor", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("object_type", Text, nullable=False),
    Column("object_id", Text, nullable=False),
    Column("tenant", Ordered),
    Column("before", JSONB),
    Column("after", JSONB),
    # What was answered; null: the change was made.
    Column("refusal", JSONB),
    Column("prev_hash", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    UniqueConstraint("prev_hash"),
    Index(None, "tenant", "seq"),
)

# The last row of each chain of the audit log, as its writer left it.
audit_heads = Table(
    "audit_heads",
    metadata,
    Column("chain", Ordered, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("hash", LargeBinary, nullable=False),
)

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("token_hash", LargeBinary, nullable=False, unique=True),
    Column("role", Text, nullable=False),
    # Null: all tenants.
    Column("tenant", Ordered, ForeignKey("tenants.slug")),
    Column("expires_at", Time),
    Column("created_at", Time, nullable=False, server_default=NOW),
    Column("revoked_at", Time),
    Column("last_used_at", Time),
    CheckConstraint("role IN ('admin', 'tenant_admin', 'viewer')", name="role"),
)
