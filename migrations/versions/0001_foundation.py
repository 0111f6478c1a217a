"""The foundation: organizations, devices, rules, channels, alarms, readings, positions, and the change feed.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    "CREATE SEQUENCE epochs",
    """
    CREATE TABLE organizations (
        epoch bigint NOT NULL DEFAULT nextval('epochs') CONSTRAINT organizations_pkey PRIMARY KEY,
        id text NOT NULL CONSTRAINT organizations_id_key UNIQUE,
        name text NOT NULL,
        partitions integer NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        version integer NOT NULL DEFAULT 1
    )
    """,
    """
    CREATE TABLE devices (
        epoch bigint NOT NULL
            CONSTRAINT devices_epoch_fkey REFERENCES organizations (epoch) ON DELETE CASCADE,
        id text NOT NULL,
        name text NOT NULL,
        tags text[] NOT NULL DEFAULT '{}',
        metadata jsonb NOT NULL DEFAULT '{}',
        created_at timestamptz NOT NULL DEFAULT now(),
        version integer NOT NULL DEFAULT 1,
        CONSTRAINT devices_pkey PRIMARY KEY (epoch, id)
    )
    """,
    "CREATE INDEX devices_tags ON devices USING gin (tags)",
    """
    CREATE TABLE device_tokens (
        id text NOT NULL CONSTRAINT device_tokens_pkey PRIMARY KEY,
        epoch bigint NOT NULL,
        device_id text NOT NULL,
        kind text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz NOT NULL,
        revoked_at timestamptz,
        CONSTRAINT device_tokens_device_fkey
            FOREIGN KEY (epoch, device_id) REFERENCES devices (epoch, id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX device_tokens_device ON device_tokens (epoch, device_id)",
    """
    CREATE TABLE signing_keys (
        kid text NOT NULL CONSTRAINT signing_keys_pkey PRIMARY KEY,
        public_pem text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    """
    CREATE TABLE rules (
        epoch bigint NOT NULL
            CONSTRAINT rules_epoch_fkey REFERENCES organizations (epoch) ON DELETE CASCADE,
        id text NOT NULL,
        definition jsonb NOT NULL,
        version integer NOT NULL DEFAULT 1,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT rules_pkey PRIMARY KEY (epoch, id)
    )
    """,
    """
    CREATE TABLE channels (
        epoch bigint NOT NULL
            CONSTRAINT channels_epoch_fkey REFERENCES organizations (epoch) ON DELETE CASCADE,
        id text NOT NULL,
        name text NOT NULL,
        type text NOT NULL,
        enabled boolean NOT NULL DEFAULT true,
        severities text[] NOT NULL,
        config jsonb NOT NULL DEFAULT '{}',
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        version integer NOT NULL DEFAULT 1,
        CONSTRAINT channels_pkey PRIMARY KEY (epoch, id)
    )
    """,
    """
    CREATE TABLE alarms (
        id uuid NOT NULL CONSTRAINT alarms_pkey PRIMARY KEY,
        epoch bigint NOT NULL
            CONSTRAINT alarms_epoch_fkey REFERENCES organizations (epoch) ON DELETE CASCADE,
        rule_id text NOT NULL,
        rule_name text NOT NULL,
        device_id text NOT NULL,
        sensor text NOT NULL,
        severity text NOT NULL,
        state text NOT NULL CONSTRAINT alarms_state_check CHECK (state IN ('active', 'cleared')),
        condition text NOT NULL,
        raised_at timestamptz NOT NULL,
        first_breach_at timestamptz NOT NULL,
        cleared_at timestamptz,
        clear_reason text,
        acknowledged_at timestamptz,
        acknowledged_by text,
        assigned_to text,
        trigger_value double precision NOT NULL,
        readings jsonb NOT NULL,
        position bigint NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    "CREATE UNIQUE INDEX alarms_one_active ON alarms (epoch, rule_id, device_id, sensor) WHERE state = 'active'",
    "CREATE INDEX alarms_newest ON alarms (epoch, raised_at DESC, id)",
    """
    CREATE TABLE series (
        id integer GENERATED ALWAYS AS IDENTITY CONSTRAINT series_pkey PRIMARY KEY,
        epoch bigint NOT NULL
            CONSTRAINT series_epoch_fkey REFERENCES organizations (epoch) ON DELETE CASCADE,
        device_id text NOT NULL,
        sensor text NOT NULL,
        CONSTRAINT series_epoch_device_id_sensor_key UNIQUE (epoch, device_id, sensor)
    )
    """,
    # No foreign key to series: its trigger would run for every row of a COPY.
    """
    CREATE TABLE readings (
        series_id integer NOT NULL,
        kind smallint NOT NULL,
        at timestamptz NOT NULL,
        value double precision,
        position bigint NOT NULL,
        text text,
        CONSTRAINT readings_pkey PRIMARY KEY (series_id, at)
    )
    """,
    """
    CREATE TABLE partitions (
        epoch bigint NOT NULL
            CONSTRAINT partitions_epoch_fkey REFERENCES organizations (epoch) ON DELETE CASCADE,
        number integer NOT NULL,
        position bigint NOT NULL DEFAULT 0,
        stored bigint NOT NULL DEFAULT 0,
        dead_lettered bigint NOT NULL DEFAULT 0,
        CONSTRAINT partitions_pkey PRIMARY KEY (epoch, number)
    )
    """,
    """
    CREATE TABLE lanes (
        epoch bigint NOT NULL
            CONSTRAINT lanes_epoch_fkey REFERENCES organizations (epoch) ON DELETE CASCADE,
        partition integer NOT NULL,
        id text NOT NULL,
        source text NOT NULL,
        last_number bigint NOT NULL,
        total bigint NOT NULL,
        seen_at timestamptz NOT NULL,
        CONSTRAINT lanes_pkey PRIMARY KEY (epoch, partition, id)
    )
    """,
    """
    CREATE TABLE positions (
        reader text NOT NULL CONSTRAINT positions_pkey PRIMARY KEY,
        position bigint NOT NULL DEFAULT 0
    )
    """,
    "INSERT INTO positions (reader) VALUES ('persistence'), ('notification')",
    """
    CREATE TABLE deliveries (
        id uuid NOT NULL CONSTRAINT deliveries_pkey PRIMARY KEY,
        epoch bigint NOT NULL
            CONSTRAINT deliveries_epoch_fkey REFERENCES organizations (epoch) ON DELETE CASCADE,
        alarm_id uuid NOT NULL,
        channel_id text NOT NULL,
        transition text NOT NULL,
        state text NOT NULL CONSTRAINT deliveries_state_check CHECK (state IN ('pending', 'sent', 'failed')),
        event jsonb NOT NULL,
        attempts jsonb NOT NULL DEFAULT '[]',
        next_attempt_at timestamptz,
        created_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT deliveries_alarm_id_transition_channel_id_key UNIQUE (alarm_id, transition, channel_id)
    )
    """,
    "CREATE INDEX deliveries_due ON deliveries (next_attempt_at) WHERE state = 'pending'",
    "CREATE INDEX deliveries_newest ON deliveries (epoch, created_at DESC, id)",
    """
    CREATE TABLE changes (
        id bigserial NOT NULL CONSTRAINT changes_pkey PRIMARY KEY,
        txid xid8 NOT NULL DEFAULT pg_current_xact_id(),
        kind text NOT NULL,
        epoch bigint,
        key text NOT NULL,
        at timestamptz NOT NULL DEFAULT now()
    )
    """,
    "CREATE INDEX changes_txid ON changes (txid)",
)

# The payload is only the kind, so a transaction that changes a thousand devices sends one notification.
RECORD_CHANGE = """
    CREATE FUNCTION record_change() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        changed jsonb := CASE TG_OP WHEN 'DELETE' THEN to_jsonb(OLD) ELSE to_jsonb(NEW) END;
    BEGIN
        INSERT INTO changes (kind, epoch, key)
            VALUES (TG_ARGV[0], (changed ->> 'epoch')::bigint, changed ->> TG_ARGV[1]);
        PERFORM pg_notify('iotplatform_changes', TG_ARGV[0]);
        RETURN NULL;
    END
    $$
"""

WATCHED = (
    ("organizations", "organization", "id"),
    ("devices", "device", "id"),
    ("device_tokens", "device_token", "id"),
    ("signing_keys", "signing_key", "kid"),
    ("rules", "rule", "id"),
    ("channels", "channel", "id"),
)


def upgrade() -> None:
    for statement in TABLES:
        op.execute(statement)
    op.execute(RECORD_CHANGE)
    for table, kind, key in WATCHED:
        op.execute(
            f"CREATE TRIGGER {table}_changed AFTER INSERT OR UPDATE OR DELETE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION record_change('{kind}', '{key}')"
        )


def downgrade() -> None:
    op.execute(
        "DROP TABLE changes, deliveries, positions, lanes, partitions, readings, series, alarms, channels, rules, "
        "signing_keys, device_tokens, devices, organizations"
    )
    op.execute("DROP FUNCTION record_change")
    op.execute("DROP SEQUENCE epochs")
