"""Imports of organizations: which file, and how far its readings have come.

Revision ID: 0017
Revises: 0016
"""

from __future__ import annotations

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE imports (
            epoch bigint NOT NULL,
            checksum text NOT NULL,
            parts integer NOT NULL DEFAULT 0,
            begun_at timestamptz NOT NULL DEFAULT now(),
            finished_at timestamptz,
            CONSTRAINT imports_pkey PRIMARY KEY (epoch),
            CONSTRAINT imports_epoch_fkey FOREIGN KEY (epoch) REFERENCES organizations (epoch) ON DELETE CASCADE
        )
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE imports")
