"""Devices that were deleted, and whose readings may still be on their way into the store.

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE device_removals (
            epoch bigint NOT NULL
                CONSTRAINT device_removals_epoch_fkey REFERENCES organizations (epoch) ON DELETE CASCADE,
            device_id text NOT NULL,
            cut bigint NOT NULL,
            settled boolean NOT NULL DEFAULT false,
            requested_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT device_removals_pkey PRIMARY KEY (epoch, device_id)
        )
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE device_removals")
