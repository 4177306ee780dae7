"""Alerts with their subject, window and end; what they are evaluated from; notices and where they are delivered.

Revision ID: 0005
Create Date: 2026-11-23
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
ORDERED = sa.Text(collation="C")
COUNTS = ARRAY(sa.BigInteger())
NOW = sa.text("now()")
ZERO = sa.text("0")
EMPTY_ARRAY = sa.text("'[]'::jsonb")


def upgrade() -> None:
    op.add_column("tenants", sa.Column("alert_emails", JSONB(), server_default=EMPTY_ARRAY, nullable=False))
    op.add_column("alerts", sa.Column("about", ORDERED, server_default=sa.text("''"), nullable=False))
    op.add_column("alerts", sa.Column("window_start", TIME, server_default=NOW, nullable=False))
    op.add_column("alerts", sa.Column("threshold", sa.Double()))
    op.add_column("alerts", sa.Column("measured", sa.Double()))
    op.add_column("alerts", sa.Column("resolved_at", TIME))
    op.execute("UPDATE alerts SET window_start = day::timestamp AT TIME ZONE 'UTC'")
    op.drop_constraint(op.f("uq_alerts_tenant_kind_day"), "alerts")
    op.create_unique_constraint(
        op.f("uq_alerts_tenant_kind_about_window_start"), "alerts", ["tenant", "kind", "about", "window_start"]
    )
    op.create_index(
        "ix_alerts_unresolved", "alerts", ["tenant", "kind", "about"], postgresql_where=sa.text("resolved_at IS NULL")
    )

    op.create_table(
        "alert_pulses",
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("counted", JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_alert_pulses")),
    )

    op.create_table(
        "alert_windows",
        sa.Column("tenant", ORDERED, nullable=False),
        sa.Column("provider", ORDERED, nullable=False),
        sa.Column("model", ORDERED, nullable=False),
        sa.Column("start", TIME, nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("errors", sa.BigInteger(), nullable=False),
        sa.Column("refused_at", TIME),
        sa.Column("succeeded_at", TIME),
        sa.Column("first_token", COUNTS, nullable=False),
        sa.Column("duration", COUNTS, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "provider", "model", "start", name=op.f("pk_alert_windows")),
    )
    op.create_index(op.f("ix_alert_windows_start"), "alert_windows", ["start"], unique=False)

    op.create_table(
        "latency_days",
        sa.Column("tenant", ORDERED, nullable=False),
        sa.Column("provider", ORDERED, nullable=False),
        sa.Column("model", ORDERED, nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("first_token", COUNTS, nullable=False),
        sa.Column("duration", COUNTS, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "provider", "model", "day", name=op.f("pk_latency_days")),
    )
    op.create_index(op.f("ix_latency_days_day"), "latency_days", ["day"], unique=False)

    op.create_table(
        "notices",
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("tenant", ORDERED),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("routed_at", TIME),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_notices")),
        sa.UniqueConstraint("id", name=op.f("uq_notices_id")),
    )
    op.create_index("ix_notices_unrouted", "notices", ["seq"], postgresql_where=sa.text("routed_at IS NULL"))
    op.create_index(op.f("ix_notices_created_at"), "notices", ["created_at"], unique=False)

    op.create_table(
        "webhooks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant", ORDERED),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("kinds", JSONB(), server_default=EMPTY_ARRAY, nullable=False),
        sa.Column("sealed_secret", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("last_success_at", TIME),
        sa.Column("last_failure_at", TIME),
        sa.Column("last_error", sa.Text()),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.slug"], name=op.f("fk_webhooks_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_index(op.f("ix_webhooks_tenant"), "webhooks", ["tenant"], unique=False)

    op.create_table(
        "notice_deliveries",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("notice", sa.BigInteger(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("webhook", sa.Uuid()),
        sa.Column("attempts", sa.Integer(), server_default=ZERO, nullable=False),
        sa.Column("next_at", TIME, server_default=NOW, nullable=False),
        sa.Column("delivered_at", TIME),
        sa.Column("dead_at", TIME),
        sa.Column("last_error", sa.Text()),
        sa.ForeignKeyConstraint(
            ["notice"], ["notices.seq"], name=op.f("fk_notice_deliveries_notice"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["webhook"], ["webhooks.id"], name=op.f("fk_notice_deliveries_webhook"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notice_deliveries")),
    )
    op.create_index(op.f("ix_notice_deliveries_notice"), "notice_deliveries", ["notice"], unique=False)
    op.create_index(op.f("ix_notice_deliveries_webhook"), "notice_deliveries", ["webhook"], unique=False)
    op.create_index(
        "ix_notice_deliveries_due",
        "notice_deliveries",
        ["next_at"],
        postgresql_where=sa.text("delivered_at IS NULL AND dead_at IS NULL"),
    )


def downgrade() -> None:
    for table in ("notice_deliveries", "webhooks", "notices", "latency_days", "alert_windows", "alert_pulses"):
        op.drop_table(table)
    op.drop_index("ix_alerts_unresolved", "alerts")
    op.drop_constraint(op.f("uq_alerts_tenant_kind_about_window_start"), "alerts")
    for column in ("about", "window_start", "threshold", "measured", "resolved_at"):
        op.drop_column("alerts", column)
    op.create_unique_constraint(op.f("uq_alerts_tenant_kind_day"), "alerts", ["tenant", "kind", "day"])
    op.drop_column("tenants", "alert_emails")
