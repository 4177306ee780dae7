"""Where each chain of the audit log ends, and changes that were refused.

Revision ID: 0004
Create Date: 2026-11-23
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ORDERED = sa.Text(collation="C")


def upgrade() -> None:
    # Null for a change that was made; the hash of a row covers it only when it is there, so older rows still hold.
    op.add_column("audit_log", sa.Column("refusal", JSONB()))
    op.create_table(
        "audit_heads",
        sa.Column("chain", ORDERED, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("chain", name=op.f("pk_audit_heads")),
    )
    op.execute(
        "INSERT INTO audit_heads (chain, seq, hash) "
        "SELECT DISTINCT ON (tenant) coalesce('audit:' || tenant, 'audit'), seq, hash "
        "FROM audit_log ORDER BY tenant, seq DESC"
    )


def downgrade() -> None:
    op.drop_table("audit_heads")
    op.drop_column("audit_log", "refusal")
