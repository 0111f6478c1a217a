"""Checkpoints of analysis: where it stood when Redis and the memory of nats-server are lost together.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE checkpoints (
            epoch bigint NOT NULL,
            partition integer NOT NULL,
            position bigint NOT NULL,
            CONSTRAINT checkpoints_pkey PRIMARY KEY (epoch, partition),
            CONSTRAINT checkpoints_epoch_fkey FOREIGN KEY (epoch) REFERENCES organizations (epoch) ON DELETE CASCADE
        )
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE checkpoints")
