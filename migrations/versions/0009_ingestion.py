"""Since when and until when readings could arrive: rules about silence go by it.

Revision ID: 0009
Revises: 0008
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE ingestion (
            id text NOT NULL CONSTRAINT ingestion_pkey PRIMARY KEY,
            since timestamptz NOT NULL DEFAULT now(),
            until timestamptz NOT NULL DEFAULT now()
        )
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE ingestion")
