"""Which dead letters were replayed, so that what a full stream has dropped can be told.

Revision ID: 0016
Revises: 0015
"""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE replayed_letters (
            epoch bigint NOT NULL
                CONSTRAINT replayed_letters_epoch_fkey REFERENCES organizations (epoch) ON DELETE CASCADE,
            place bigint NOT NULL,
            CONSTRAINT replayed_letters_pkey PRIMARY KEY (epoch, place)
        )
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE replayed_letters")
