"""Quotas of people, keys, mappings and windows; versions that don't begin where those of a predecessor did.

Revision ID: 0014
Revises: 0013
"""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

# `condition`: of the rows that count.
CHECK_QUOTA = """
    CREATE OR REPLACE FUNCTION check_quota() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        what text := TG_ARGV[0];
        condition text := coalesce(TG_ARGV[1], 'true');
        made record;
        given jsonb;
        most bigint;
        used bigint;
    BEGIN
        FOR made IN SELECT n.epoch, count(*) AS number FROM added n WHERE n.epoch IS NOT NULL GROUP BY n.epoch LOOP
            SELECT definition -> what INTO given FROM limits l WHERE l.epoch = made.epoch;
            most := CASE
                WHEN given IS NULL THEN (SELECT q.most FROM quota_defaults q WHERE q.what = TG_ARGV[0])
                WHEN jsonb_typeof(given) = 'number' THEN given::bigint
            END;
            CONTINUE WHEN most IS NULL;
            PERFORM pg_advisory_xact_lock(hashtextextended('quota.' || what || '.' || made.epoch, 0));
            EXECUTE format('SELECT count(*) FROM %I WHERE epoch = $1 AND ' || condition, TG_TABLE_NAME)
                INTO used USING made.epoch;
            IF used > most THEN
                RAISE EXCEPTION USING ERRCODE = 'IPQ01', MESSAGE = format(
                    'the organization may have %s %s, and has %s', most, replace(what, '_', ' '), used - made.number
                );
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
"""

LIVE = "revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())"
COUNTED = (
    ("user_roles", "users", "true"),
    ("api_keys", "api_keys", LIVE),
    ("provisioning_keys", "provisioning_keys", LIVE),
    ("mappings", "mappings", "true"),
    ("maintenance_windows", "maintenance_windows", "true"),
)
# Whose versions are ETags, and whose ids can be used again.
VERSIONED = (
    "organizations", "devices", "channels", "limits", "device_limits", "mappings", "maintenance_windows", "users"
)  # fmt: skip


def upgrade() -> None:
    op.execute(CHECK_QUOTA)
    for table, what, condition in COUNTED:
        op.execute(
            f"CREATE TRIGGER {table}_quota AFTER INSERT ON {table} REFERENCING NEW TABLE AS added "
            f"FOR EACH STATEMENT EXECUTE FUNCTION check_quota('{what}', '{condition}')"
        )
    # Somewhere in the lower half of an integer: two that meet are one chance in a billion.
    op.execute(
        "CREATE FUNCTION first_version() RETURNS integer LANGUAGE sql VOLATILE AS "
        "$$ SELECT 1 + floor(random() * 1073741823)::integer $$"
    )
    for table in VERSIONED:
        op.execute(f"ALTER TABLE {table} ALTER COLUMN version SET DEFAULT first_version()")


def downgrade() -> None:
    for table in VERSIONED:
        op.execute(f"ALTER TABLE {table} ALTER COLUMN version SET DEFAULT 1")
    op.execute("DROP FUNCTION first_version")
    # The function takes a condition, or none: as it is now, it serves the triggers of before too.
    for table, _, _ in COUNTED:
        op.execute(f"DROP TRIGGER {table}_quota ON {table}")
