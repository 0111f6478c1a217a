"""What devices say of themselves and how they come in: units of series, topic mappings, provisioning keys.

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

TABLES = (
    """
    CREATE TABLE series_units (
        epoch bigint NOT NULL
            CONSTRAINT series_units_epoch_fkey REFERENCES organizations (epoch) ON DELETE CASCADE,
        device_id text NOT NULL,
        sensor text NOT NULL,
        unit text NOT NULL,
        CONSTRAINT series_units_pkey PRIMARY KEY (epoch, device_id, sensor)
    )
    """,
    """
    CREATE TABLE mappings (
        epoch bigint NOT NULL
            CONSTRAINT mappings_epoch_fkey REFERENCES organizations (epoch) ON DELETE CASCADE,
        id text NOT NULL,
        definition jsonb NOT NULL,
        version integer NOT NULL DEFAULT 1,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT mappings_pkey PRIMARY KEY (epoch, id)
    )
    """,
    # Of a key only its hash is kept.
    """
    CREATE TABLE provisioning_keys (
        epoch bigint NOT NULL
            CONSTRAINT provisioning_keys_epoch_fkey REFERENCES organizations (epoch) ON DELETE CASCADE,
        id text NOT NULL,
        name text NOT NULL,
        secret_hash text NOT NULL CONSTRAINT provisioning_keys_secret_hash_key UNIQUE,
        tags text[] NOT NULL DEFAULT '{}',
        max_uses integer,
        uses integer NOT NULL DEFAULT 0,
        created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz,
        revoked_at timestamptz,
        CONSTRAINT provisioning_keys_pkey PRIMARY KEY (epoch, id)
    )
    """,
)

AUDITED = (("mappings", "mapping", "id"), ("provisioning_keys", "provisioning_key", "id"))


def upgrade() -> None:
    for statement in TABLES:
        op.execute(statement)
    op.execute(
        "CREATE TRIGGER mappings_changed AFTER INSERT OR UPDATE OR DELETE ON mappings "
        "FOR EACH ROW EXECUTE FUNCTION record_change('mapping', 'id')"
    )
    for table, kind, key in AUDITED:
        op.execute(
            f"CREATE TRIGGER {table}_audited AFTER INSERT OR UPDATE OR DELETE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION record_audit('{kind}', '{key}')"
        )


def downgrade() -> None:
    op.execute("DROP TABLE provisioning_keys, mappings, series_units")
