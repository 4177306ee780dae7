"""Limits and budgets that a tenant has lowered for itself.

Revision ID: 0007
Create Date: 2026-11-30
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tenants", sa.Column("may_lower", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("tenants", sa.Column("lowered", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False))


def downgrade() -> None:
    for column in ("may_lower", "lowered"):
        op.drop_column("tenants", column)
