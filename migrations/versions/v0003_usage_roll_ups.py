"""What repricing needs, with each event; roll-ups by hour and by agent; the day from which on events are kept.

Revision ID: 0003
Create Date: 2026-11-23
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

MONEY = sa.Numeric(20, 10)
TIME = sa.DateTime(timezone=True)
ORDERED = sa.Text(collation="C")
ZERO = sa.text("0")

AMOUNTS = (
    "prompt_tokens",
    "completion_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "total_cost",
    "unpriced_count",
    "request_count",
    "error_count",
)
# Rows of today change with every batch: free space in their pages keeps the new versions there, out of the indexes.
ROOM_FOR_UPDATES = {"fillfactor": 70}


def upgrade() -> None:
    op.add_column("llm_usage_events", sa.Column("price", JSONB()))
    op.add_column("llm_usage_events", sa.Column("service_tier", sa.Text()))
    op.add_column("llm_usage_events", sa.Column("usage_parts", JSONB()))
    op.add_column(
        "llm_usage_events",
        sa.Column("cache_write_1h_tokens", sa.BigInteger(), server_default=ZERO, nullable=False),
    )
    op.execute("ALTER TABLE llm_provider_usage SET (fillfactor = 70)")

    op.create_table(
        "llm_hourly_usage",
        sa.Column("hour", TIME, nullable=False),
        sa.Column("tenant", ORDERED, nullable=False),
        sa.Column("provider", ORDERED, nullable=False),
        sa.Column("model", ORDERED, nullable=False),
        *_amounts(),
        sa.PrimaryKeyConstraint("hour", "tenant", "provider", "model", name=op.f("pk_llm_hourly_usage")),
        postgresql_with=ROOM_FOR_UPDATES,
    )
    op.create_index(op.f("ix_llm_hourly_usage_tenant_hour"), "llm_hourly_usage", ["tenant", "hour"], unique=False)

    op.create_table(
        "llm_agent_usage",
        sa.Column("date", sa.Date(), nullable=False),
        sa.Column("tenant", ORDERED, nullable=False),
        sa.Column("agent", ORDERED, nullable=False),
        sa.Column("provider", ORDERED, nullable=False),
        sa.Column("model", ORDERED, nullable=False),
        *_amounts(),
        sa.PrimaryKeyConstraint("date", "tenant", "agent", "provider", "model", name=op.f("pk_llm_agent_usage")),
        postgresql_with=ROOM_FOR_UPDATES,
    )
    op.create_index(op.f("ix_llm_agent_usage_tenant_date"), "llm_agent_usage", ["tenant", "date"], unique=False)
    op.create_index(op.f("ix_llm_agent_usage_agent_date"), "llm_agent_usage", ["agent", "date"], unique=False)

    op.create_table(
        "llm_usage_retention",
        sa.Column("single", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("kept_from", sa.Date(), nullable=False),
        sa.CheckConstraint("single", name=op.f("ck_llm_usage_retention_single")),
        sa.PrimaryKeyConstraint("single", name=op.f("pk_llm_usage_retention")),
    )

    _fill("llm_hourly_usage", hour="date_trunc('hour', started_at, 'UTC')")
    _fill("llm_agent_usage", date="day", agent="agent")


def downgrade() -> None:
    for table in ("llm_usage_retention", "llm_agent_usage", "llm_hourly_usage"):
        op.drop_table(table)
    op.execute("ALTER TABLE llm_provider_usage RESET (fillfactor)")
    op.drop_column("llm_usage_events", "cache_write_1h_tokens")
    op.drop_column("llm_usage_events", "usage_parts")
    op.drop_column("llm_usage_events", "service_tier")
    op.drop_column("llm_usage_events", "price")


def _amounts() -> list[sa.Column[object]]:
    return [
        sa.Column(name, MONEY if name == "total_cost" else sa.BigInteger(), server_default=ZERO, nullable=False)
        for name in AMOUNTS
    ]


def _fill(table: str, **keys: str) -> None:
    """From the events that are there. Those who book meanwhile wait: adding the columns locked the events."""
    keys |= {"tenant": "tenant", "provider": "provider", "model": "model"}
    op.execute(
        sa.text(
            f"INSERT INTO {table} ({', '.join([*keys, *AMOUNTS])}) "  # noqa: S608 - names of this file
            f"SELECT {', '.join(keys.values())}, sum(input_tokens), sum(output_tokens), sum(cache_read_tokens), "
            "sum(cache_write_tokens), sum(reasoning_tokens), coalesce(sum(cost), 0), count(*) - count(cost), count(*), "
            "count(*) FILTER (WHERE outcome IN ('failed', 'abandoned')) "
            f"FROM llm_usage_events GROUP BY {', '.join(keys.values())}"
        )
    )
