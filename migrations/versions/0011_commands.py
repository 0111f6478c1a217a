"""Commands to devices, and which devices are there.

Revision ID: 0011
Revises: 0010
"""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

UPGRADE = (
    # Written every few seconds for many devices at once, so nothing but its key is indexed, and updates stay in place.
    """
    CREATE TABLE device_presence (
        epoch bigint NOT NULL CONSTRAINT device_presence_epoch_fkey REFERENCES organizations (epoch) ON DELETE CASCADE,
        device_id text NOT NULL,
        connected boolean NOT NULL DEFAULT false,
        disconnected_at timestamptz,
        last_seen_at timestamptz NOT NULL,
        CONSTRAINT device_presence_pkey PRIMARY KEY (epoch, device_id)
    ) WITH (fillfactor = 70)
    """,
    # It is kept for devices that are not registered as well, so no foreign key takes it along.
    """
    CREATE FUNCTION forget_presence() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        DELETE FROM device_presence WHERE epoch = OLD.epoch AND device_id = OLD.id;
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER devices_presence AFTER DELETE ON devices FOR EACH ROW EXECUTE FUNCTION forget_presence()
    """,
    """
    CREATE TABLE commands (
        id uuid NOT NULL CONSTRAINT commands_pkey PRIMARY KEY,
        epoch bigint NOT NULL,
        device_id text NOT NULL,
        name text NOT NULL,
        payload jsonb NOT NULL,
        state text NOT NULL DEFAULT 'queued' CONSTRAINT commands_state_check
            CHECK (state IN ('queued', 'sent', 'acknowledged', 'answered', 'failed', 'expired')),
        created_at timestamptz NOT NULL DEFAULT now(),
        created_by text NOT NULL,
        expires_at timestamptz NOT NULL,
        sent_at timestamptz,
        acknowledged_at timestamptz,
        ended_at timestamptz,
        times_sent integer NOT NULL DEFAULT 0,
        next_send_at timestamptz NOT NULL DEFAULT now(),
        answer jsonb,
        idempotency_key text,
        fingerprint text NOT NULL,
        CONSTRAINT commands_device_fkey
            FOREIGN KEY (epoch, device_id) REFERENCES devices (epoch, id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX commands_newest ON commands (epoch, device_id, created_at DESC, id)",
    "CREATE INDEX commands_due ON commands (next_send_at) WHERE state IN ('queued', 'sent')",
    """
    CREATE UNIQUE INDEX commands_key ON commands (epoch, device_id, idempotency_key) WHERE idempotency_key IS NOT NULL
    """,
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TRIGGER devices_presence ON devices")
    op.execute("DROP FUNCTION forget_presence")
    op.execute("DROP TABLE commands, device_presence")
