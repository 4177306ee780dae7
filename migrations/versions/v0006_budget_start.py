"""When a tenant was given its budget.

Revision ID: 0006
Create Date: 2026-11-23
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tenants", sa.Column("budget_day", sa.Date()))
    op.add_column("tenants", sa.Column("budget_spent_usd", sa.Numeric(20, 10)))
    op.add_column("tenants", sa.Column("budget_revision", sa.BigInteger()))


def downgrade() -> None:
    for column in ("budget_day", "budget_spent_usd", "budget_revision"):
        op.drop_column("tenants", column)
