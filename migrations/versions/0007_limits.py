"""Limits of organizations and devices; quotas that the database itself holds.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

UPGRADE = (
    """
    CREATE TABLE limits (
        epoch bigint NOT NULL CONSTRAINT limits_pkey PRIMARY KEY
            CONSTRAINT limits_epoch_fkey REFERENCES organizations (epoch) ON DELETE CASCADE,
        definition jsonb NOT NULL,
        version integer NOT NULL DEFAULT 1
    )
    """,
    """
    CREATE TABLE device_limits (
        epoch bigint NOT NULL,
        device_id text NOT NULL,
        definition jsonb NOT NULL,
        version integer NOT NULL DEFAULT 1,
        CONSTRAINT device_limits_pkey PRIMARY KEY (epoch, device_id),
        CONSTRAINT device_limits_device_fkey
            FOREIGN KEY (epoch, device_id) REFERENCES devices (epoch, id) ON DELETE CASCADE
    )
    """,
    # Of the settings of the process that manages, so that the trigger below knows them.
    """
    CREATE TABLE quota_defaults (
        what text NOT NULL CONSTRAINT quota_defaults_pkey PRIMARY KEY,
        most bigint NOT NULL
    )
    """,
    # Behind every way in which rows are made. Of two transactions at once the second counts what the first has made.
    """
    CREATE FUNCTION check_quota() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        what text := TG_ARGV[0];
        made record;
        given jsonb;
        most bigint;
        used bigint;
    BEGIN
        FOR made IN SELECT n.epoch, count(*) AS number FROM added n GROUP BY n.epoch LOOP
            SELECT definition -> what INTO given FROM limits l WHERE l.epoch = made.epoch;
            most := CASE
                WHEN given IS NULL THEN (SELECT q.most FROM quota_defaults q WHERE q.what = TG_ARGV[0])
                WHEN jsonb_typeof(given) = 'number' THEN given::bigint
            END;
            CONTINUE WHEN most IS NULL;
            PERFORM pg_advisory_xact_lock(hashtextextended('quota.' || what || '.' || made.epoch, 0));
            EXECUTE format('SELECT count(*) FROM %I WHERE epoch = $1', TG_TABLE_NAME) INTO used USING made.epoch;
            IF used > most THEN
                RAISE EXCEPTION USING ERRCODE = 'IPQ01',
                    MESSAGE = format('the organization may have %s %s, and has %s', most, what, used - made.number);
            END IF;
            IF used >= 0.8 * most AND used - made.number < 0.8 * most THEN
                INSERT INTO audit (organization_epoch, organization_id, actor, actor_kind, action, kind, subject, new)
                    SELECT o.epoch, o.id, 'system', 'system', 'near', 'limit', what,
                        jsonb_build_object('used', used, 'most', most)
                    FROM organizations o WHERE o.epoch = made.epoch;
                INSERT INTO changes (kind, epoch, key) VALUES ('limit_near', made.epoch, what);
                PERFORM pg_notify('iotplatform_changes', 'limit_near');
            END IF;
        END LOOP;
        RETURN NULL;
    END
    $$
    """,
)

COUNTED = ("devices", "rules", "channels")


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)
    for table in COUNTED:
        op.execute(
            f"CREATE TRIGGER {table}_quota AFTER INSERT ON {table} REFERENCING NEW TABLE AS added "
            f"FOR EACH STATEMENT EXECUTE FUNCTION check_quota('{table}')"
        )
    for table, kind, key in (("limits", "limit", "epoch"), ("device_limits", "device_limit", "device_id")):
        op.execute(
            f"CREATE TRIGGER {table}_changed AFTER INSERT OR UPDATE OR DELETE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION record_change('{kind}', '{key}')"
        )
        op.execute(
            f"CREATE TRIGGER {table}_audited AFTER INSERT OR UPDATE OR DELETE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION record_audit('{kind}', '{key}')"
        )


def downgrade() -> None:
    for table in COUNTED:
        op.execute(f"DROP TRIGGER {table}_quota ON {table}")
    op.execute("DROP TABLE quota_defaults, device_limits, limits")
    op.execute("DROP FUNCTION check_quota")
