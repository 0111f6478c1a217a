"""Audit: who did what to which thing, written by triggers in the transaction of the change itself.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

UPGRADE = (
    # No foreign keys: an entry outlives what it speaks of.
    """
    CREATE TABLE audit (
        id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT audit_pkey PRIMARY KEY,
        at timestamptz NOT NULL DEFAULT now(),
        organization_epoch bigint,
        organization_id text,
        actor text NOT NULL,
        actor_kind text NOT NULL,
        address text,
        request uuid,
        action text NOT NULL,
        kind text NOT NULL,
        subject text NOT NULL,
        old jsonb,
        new jsonb
    )
    """,
    "CREATE INDEX audit_organization ON audit (organization_epoch, id DESC)",
    "CREATE INDEX audit_at ON audit (at)",
    "CREATE INDEX audit_request ON audit (request) WHERE request IS NOT NULL",
    # Members are secret by their names; of a URL stays where it leads, because tokens stand in paths and queries.
    r"""
    CREATE FUNCTION without_secrets(value jsonb, name text DEFAULT '') RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN
        IF value <> 'null' AND name ~* '(passw|passphrase|secret|credential|authoriz|cookie|private|hash|digest)'
            OR value <> 'null' AND name ~* '((^|_|-)(token|key)s?$|^headers$)'
        THEN
            RETURN '"***"';
        END IF;
        RETURN CASE jsonb_typeof(value)
            WHEN 'string' THEN to_jsonb(regexp_replace(
                value #>> '{}', '([a-z][a-z0-9+.-]*://)([^/?#\s]*@)?([^/?#\s]*)[/?#][^\s]*', '\1\3/***', 'gi'))
            WHEN 'object' THEN
                (SELECT coalesce(jsonb_object_agg(m.key, without_secrets(m.value, m.key)), '{}')
                 FROM jsonb_each(value) AS m)
            WHEN 'array' THEN
                (SELECT coalesce(jsonb_agg(without_secrets(e.value, name) ORDER BY e.ordinality), '[]')
                 FROM jsonb_array_elements(value) WITH ORDINALITY AS e)
            ELSE value
        END;
    END
    $$
    """,
    # What changes by mere use is no change that somebody made.
    r"""
    CREATE FUNCTION audited_columns(line jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
        SELECT coalesce(jsonb_object_agg(c.key, c.value), '{}') FROM jsonb_each(line) AS c
        WHERE c.key !~ '^(epoch|version|updated_at|last_.*|seen_at|used_at)$'
    $$
    """,
    """
    CREATE FUNCTION record_audit() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        was jsonb := CASE WHEN TG_OP <> 'INSERT' THEN audited_columns(to_jsonb(OLD)) END;
        becomes jsonb := CASE WHEN TG_OP <> 'DELETE' THEN audited_columns(to_jsonb(NEW)) END;
        line jsonb := CASE WHEN TG_OP = 'DELETE' THEN to_jsonb(OLD) ELSE to_jsonb(NEW) END;
        who jsonb := nullif(current_setting('iotplatform.actor', true), '')::jsonb;
        of_epoch bigint := (line ->> 'epoch')::bigint;
        of_id text := CASE WHEN TG_TABLE_NAME = 'organizations' THEN line ->> 'id'
            ELSE (SELECT o.id FROM organizations o WHERE o.epoch = of_epoch) END;
    BEGIN
        -- What goes along with its parent is told by the parent's entry.
        IF pg_trigger_depth() > 1 OR was IS NOT DISTINCT FROM becomes THEN
            RETURN NULL;
        END IF;
        was := without_secrets(was);
        becomes := without_secrets(becomes);
        IF TG_OP = 'UPDATE' THEN
            SELECT coalesce(jsonb_object_agg(key, value) FILTER (WHERE value IS DISTINCT FROM becomes -> key), '{}')
                INTO was FROM jsonb_each(was);
            SELECT coalesce(jsonb_object_agg(key, value) FILTER (WHERE was ? key), '{}')
                INTO becomes FROM jsonb_each(becomes);
        END IF;
        INSERT INTO audit (
            organization_epoch, organization_id, actor, actor_kind, address, request, action, kind, subject, old, new
        ) VALUES (
            of_epoch, of_id,
            coalesce(who ->> 'name', 'system'), coalesce(who ->> 'kind', 'system'), who ->> 'address',
            (who ->> 'request')::uuid,
            CASE TG_OP WHEN 'INSERT' THEN 'created' WHEN 'UPDATE' THEN 'changed' ELSE 'deleted' END,
            TG_ARGV[0], coalesce(line ->> TG_ARGV[1], ''), was, becomes
        );
        RETURN NULL;
    END
    $$
    """,
)

AUDITED = (
    ("organizations", "organization", "id"),
    ("devices", "device", "id"),
    ("device_tokens", "device_token", "id"),
    ("signing_keys", "signing_key", "kid"),
    ("rules", "rule", "id"),
    ("channels", "channel", "id"),
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)
    for table, kind, key in AUDITED:
        op.execute(
            f"CREATE TRIGGER {table}_audited AFTER INSERT OR UPDATE OR DELETE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION record_audit('{kind}', '{key}')"
        )


def downgrade() -> None:
    for table, _, _ in AUDITED:
        op.execute(f"DROP TRIGGER {table}_audited ON {table}")
    op.execute("DROP FUNCTION record_audit, audited_columns, without_secrets")
    op.execute("DROP TABLE audit")
