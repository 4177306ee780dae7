"""The first schema.

Revision ID: 0001
Create Date: 2026-11-23
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

MONEY = sa.Numeric(20, 10)
TIME = sa.DateTime(timezone=True)
ORDERED = sa.Text(collation="C")
NOW = sa.text("now()")
ZERO = sa.text("0")
EMPTY_OBJECT = sa.text("'{}'::jsonb")
EMPTY_ARRAY = sa.text("'[]'::jsonb")


def upgrade() -> None:
    op.create_table(
        "tenants",
        sa.Column("slug", ORDERED, nullable=False),
        sa.Column("requests_per_minute", sa.BigInteger()),
        sa.Column("requests_per_day", sa.BigInteger()),
        sa.Column("tokens_per_minute", sa.BigInteger()),
        sa.Column("tokens_per_day", sa.BigInteger()),
        sa.Column("daily_budget_usd", MONEY),
        sa.Column("daily_cost_alert_usd", MONEY),
        sa.Column("aliases", JSONB(), server_default=EMPTY_OBJECT, nullable=False),
        sa.Column("fallbacks", JSONB(), server_default=EMPTY_ARRAY, nullable=False),
        sa.Column("prices", JSONB(), server_default=EMPTY_OBJECT, nullable=False),
        sa.Column("revision", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("updated_at", TIME, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("slug", name=op.f("pk_tenants")),
    )

    op.create_table(
        "llm_providers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant", ORDERED, nullable=False),
        sa.Column("provider_type", ORDERED, nullable=False),
        sa.Column("config", JSONB(), server_default=EMPTY_OBJECT, nullable=False),
        sa.Column("is_active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("is_default", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("vault_path", sa.Text()),
        sa.Column("key_fingerprint", sa.Text()),
        sa.Column("key_version", sa.Integer()),
        sa.Column("revision", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("updated_at", TIME, server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.slug"], name=op.f("fk_llm_providers_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_llm_providers")),
        sa.UniqueConstraint("tenant", "provider_type", name=op.f("uq_llm_providers_tenant_provider_type")),
    )
    op.create_index(
        "uq_llm_providers_active_default",
        "llm_providers",
        ["tenant"],
        unique=True,
        postgresql_where=sa.text("is_active AND is_default"),
    )

    op.create_table(
        "llm_provider_usage",
        sa.Column("provider_id", ORDERED, nullable=False),
        sa.Column("date", sa.Date(), nullable=False),
        sa.Column("model", ORDERED, nullable=False),
        sa.Column("provider", ORDERED, nullable=False),
        sa.Column("tenant", ORDERED, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), server_default=ZERO, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), server_default=ZERO, nullable=False),
        sa.Column("cache_read_tokens", sa.BigInteger(), server_default=ZERO, nullable=False),
        sa.Column("cache_write_tokens", sa.BigInteger(), server_default=ZERO, nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger(), server_default=ZERO, nullable=False),
        sa.Column("total_cost", MONEY, server_default=ZERO, nullable=False),
        sa.Column("unpriced_count", sa.BigInteger(), server_default=ZERO, nullable=False),
        sa.Column("request_count", sa.BigInteger(), server_default=ZERO, nullable=False),
        sa.Column("error_count", sa.BigInteger(), server_default=ZERO, nullable=False),
        sa.UniqueConstraint("provider_id", "date", "model", name=op.f("uq_llm_provider_usage_provider_id_date_model")),
    )
    op.create_index(op.f("ix_llm_provider_usage_date"), "llm_provider_usage", ["date"], unique=False)
    op.create_index(op.f("ix_llm_provider_usage_tenant_date"), "llm_provider_usage", ["tenant", "date"], unique=False)

    op.create_table(
        "llm_usage_events",
        sa.Column("id", ORDERED, nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("request_id", ORDERED, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("tenant", ORDERED, nullable=False),
        sa.Column("agent", ORDERED, nullable=False),
        sa.Column("provider", ORDERED, nullable=False),
        sa.Column("provider_id", ORDERED, nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("model", ORDERED, nullable=False),
        sa.Column("response_model", sa.Text()),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("error_code", sa.Text()),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("finished_at", TIME, nullable=False),
        sa.Column("time_to_first_token_s", sa.Double()),
        sa.Column("duration_s", sa.Double(), nullable=False),
        sa.Column("queued_s", sa.Double(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cache_read_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cache_write_tokens", sa.BigInteger(), nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=False),
        sa.Column("usage_source", sa.Text(), nullable=False),
        sa.Column("cost", MONEY),
        sa.Column("price_source", sa.Text(), nullable=False),
        sa.Column("metadata", JSONB(), server_default=EMPTY_OBJECT, nullable=False),
        sa.Column("booked_at", TIME, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", "day", name=op.f("pk_llm_usage_events")),
        postgresql_partition_by="RANGE (day)",
    )
    op.create_index(op.f("ix_llm_usage_events_tenant_day"), "llm_usage_events", ["tenant", "day"], unique=False)

    op.create_table(
        "alerts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant", ORDERED, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("threshold_usd", MONEY),
        sa.Column("amount_usd", MONEY),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("acknowledged_at", TIME),
        sa.Column("acknowledged_by", sa.Text()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alerts")),
        sa.UniqueConstraint("tenant", "kind", "day", name=op.f("uq_alerts_tenant_kind_day")),
    )
    op.create_index(op.f("ix_alerts_created_at"), "alerts", ["created_at"], unique=False)

    op.create_table(
        "audit_log",
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("object_type", sa.Text(), nullable=False),
        sa.Column("object_id", sa.Text(), nullable=False),
        sa.Column("tenant", ORDERED),
        sa.Column("before", JSONB()),
        sa.Column("after", JSONB()),
        sa.Column("prev_hash", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit_log")),
        sa.UniqueConstraint("prev_hash", name=op.f("uq_audit_log_prev_hash")),
    )
    op.create_index(op.f("ix_audit_log_tenant_seq"), "audit_log", ["tenant", "seq"], unique=False)

    op.create_table(
        "api_tokens",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("tenant", ORDERED),
        sa.Column("expires_at", TIME),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("revoked_at", TIME),
        sa.Column("last_used_at", TIME),
        sa.CheckConstraint("role IN ('admin', 'tenant_admin', 'viewer')", name=op.f("ck_api_tokens_role")),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.slug"], name=op.f("fk_api_tokens_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_tokens")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_api_tokens_token_hash")),
    )


def downgrade() -> None:
    for table in (
        "api_tokens",
        "audit_log",
        "alerts",
        "llm_usage_events",
        "llm_provider_usage",
        "llm_providers",
        "tenants",
    ):
        op.drop_table(table)
