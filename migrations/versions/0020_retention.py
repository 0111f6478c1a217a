"""How long an organization, or a device of it, keeps its readings.

Revision ID: 0020
Revises: 0019
"""

from __future__ import annotations

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

UPGRADE = (
    """
    CREATE TABLE retention (
        epoch bigint NOT NULL CONSTRAINT retention_pkey PRIMARY KEY
            CONSTRAINT retention_epoch_fkey REFERENCES organizations (epoch) ON DELETE CASCADE,
        definition jsonb NOT NULL,
        version integer NOT NULL DEFAULT first_version()
    )
    """,
    """
    CREATE TABLE device_retention (
        epoch bigint NOT NULL,
        device_id text NOT NULL,
        definition jsonb NOT NULL,
        version integer NOT NULL DEFAULT first_version(),
        CONSTRAINT device_retention_pkey PRIMARY KEY (epoch, device_id),
        CONSTRAINT device_retention_device_fkey
            FOREIGN KEY (epoch, device_id) REFERENCES devices (epoch, id) ON DELETE CASCADE
    )
    """,
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)
    for table, key in (("retention", "epoch"), ("device_retention", "device_id")):
        op.execute(
            f"CREATE TRIGGER {table}_audited AFTER INSERT OR UPDATE OR DELETE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION record_audit('{table}', '{key}')"
        )


def downgrade() -> None:
    op.execute("DROP TABLE device_retention, retention")
