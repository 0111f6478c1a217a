"""The audit's trigger costs a tenth: a fleet that registers itself is audited device by device.

Revision ID: 0013
Revises: 0012
"""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

# A function in SQL is planned anew at every call, one in PL/pgSQL once in a session.
QUICK_COLUMNS = r"""
CREATE OR REPLACE FUNCTION audited_columns(line jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN line - ARRAY(
        SELECT k FROM jsonb_object_keys(line) AS k WHERE k ~ '^(epoch|version|updated_at|last_.*|seen_at|used_at)$'
    );
END
$$
"""

# Looking into every member is worth it only where a secret may be: by a name, or in a URL.
QUICK_SECRETS = r"""
CREATE FUNCTION may_have_secrets(value jsonb) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN value::text ~* '(passw|passphrase|secret|credential|authoriz|cookie|private|hash|digest|token|key|headers|://)';
END
$$
"""

SLOW_COLUMNS = r"""
CREATE OR REPLACE FUNCTION audited_columns(line jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(jsonb_object_agg(c.key, c.value), '{}') FROM jsonb_each(line) AS c
    WHERE c.key !~ '^(epoch|version|updated_at|last_.*|seen_at|used_at)$'
$$
"""

RECORD = """
CREATE OR REPLACE FUNCTION record_audit() RETURNS trigger LANGUAGE plpgsql AS $$
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
    {was}
    {becomes}
    IF TG_OP = 'UPDATE' THEN
        SELECT coalesce(jsonb_object_agg(key, value) FILTER (WHERE value IS DISTINCT FROM becomes -> key), '{{}}')
            INTO was FROM jsonb_each(was);
        SELECT coalesce(jsonb_object_agg(key, value) FILTER (WHERE was ? key), '{{}}')
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
"""


def upgrade() -> None:
    op.execute(QUICK_COLUMNS)
    op.execute(QUICK_SECRETS)
    op.execute(
        RECORD.format(
            was="IF may_have_secrets(was) THEN was := without_secrets(was); END IF;",
            becomes="IF may_have_secrets(becomes) THEN becomes := without_secrets(becomes); END IF;",
        )
    )


def downgrade() -> None:
    op.execute(RECORD.format(was="was := without_secrets(was);", becomes="becomes := without_secrets(becomes);"))
    op.execute("DROP FUNCTION may_have_secrets")
    op.execute(SLOW_COLUMNS)
