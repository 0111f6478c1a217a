"""The delivery core: members of roles, gaps of the ledger, bounded tries, clears by position, removals.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

UPGRADE = (
    # Which processes of a role are alive.
    """
    CREATE TABLE members (
        role text NOT NULL,
        id text NOT NULL,
        joined_at timestamptz NOT NULL DEFAULT now(),
        seen_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT members_pkey PRIMARY KEY (role, id)
    )
    """,
    # What went missing from a stream: numbers of a lane, or a sequence of the stream itself.
    """
    CREATE TABLE gaps (
        id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT gaps_pkey PRIMARY KEY,
        epoch bigint NOT NULL
            CONSTRAINT gaps_epoch_fkey REFERENCES organizations (epoch) ON DELETE CASCADE,
        partition integer,
        lane text,
        first_number bigint,
        last_number bigint,
        readings bigint,
        sequence bigint,
        found_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT gaps_what_key UNIQUE NULLS NOT DISTINCT (epoch, partition, lane, first_number, sequence)
    )
    """,
    """
    ALTER TABLE partitions
        ADD COLUMN folded bigint NOT NULL DEFAULT 0,
        ADD COLUMN trimmed bigint NOT NULL DEFAULT 0,
        ADD COLUMN tries integer NOT NULL DEFAULT 0,
        ADD COLUMN suspect bigint NOT NULL DEFAULT 0,
        ADD COLUMN suspect_tries integer NOT NULL DEFAULT 0
    """,
    "ALTER TABLE alarms ADD COLUMN cleared_position bigint",
    # What a deleted organization left outside of its own rows, until all of it is removed.
    """
    CREATE TABLE removals (
        epoch bigint NOT NULL CONSTRAINT removals_pkey PRIMARY KEY,
        organization_id text NOT NULL,
        partitions integer NOT NULL,
        requested_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    # The series of a deleted organization name the readings that are still to be removed.
    "ALTER TABLE series DROP CONSTRAINT series_epoch_fkey",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DELETE FROM series WHERE epoch NOT IN (SELECT epoch FROM organizations)")
    op.execute(
        "ALTER TABLE series ADD CONSTRAINT series_epoch_fkey "
        "FOREIGN KEY (epoch) REFERENCES organizations (epoch) ON DELETE CASCADE"
    )
    op.execute("ALTER TABLE alarms DROP COLUMN cleared_position")
    op.execute(
        "ALTER TABLE partitions DROP COLUMN folded, DROP COLUMN trimmed, DROP COLUMN tries, DROP COLUMN suspect, "
        "DROP COLUMN suspect_tries"
    )
    op.execute("DROP TABLE removals, gaps, members")
