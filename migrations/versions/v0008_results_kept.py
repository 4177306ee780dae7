"""For how long the ends of a tenant's requests are kept at most.

Revision ID: 0008
Create Date: 2026-12-01
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tenants", sa.Column("max_keep_s", sa.BigInteger()))


def downgrade() -> None:
    op.drop_column("tenants", "max_keep_s")
