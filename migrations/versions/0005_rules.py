"""The history of rules, and packs of rules that many organizations share.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

UPGRADE = (
    # `pack_id`: it belongs to the pack, and only `switched_off` is the organization's own affair.
    """
    ALTER TABLE rules
        ADD COLUMN pack_id text,
        ADD COLUMN switched_off boolean NOT NULL DEFAULT false,
        ADD COLUMN changed_by text
    """,
    # No foreign key to the rule: its history outlives it, and goes on when its id is used again.
    """
    CREATE TABLE rule_versions (
        epoch bigint NOT NULL
            CONSTRAINT rule_versions_epoch_fkey REFERENCES organizations (epoch) ON DELETE CASCADE,
        rule_id text NOT NULL,
        version integer NOT NULL,
        definition jsonb,
        pack_id text,
        changed_at timestamptz NOT NULL DEFAULT now(),
        changed_by text,
        CONSTRAINT rule_versions_pkey PRIMARY KEY (epoch, rule_id, version)
    )
    """,
    "CREATE INDEX rule_versions_deleted ON rule_versions (epoch, changed_at) WHERE definition IS NULL",
    """
    INSERT INTO rule_versions (epoch, rule_id, version, definition, changed_at)
    SELECT epoch, id, version, definition, updated_at FROM rules
    """,
    """
    CREATE TABLE rule_packs (
        id text NOT NULL CONSTRAINT rule_packs_pkey PRIMARY KEY,
        name text NOT NULL,
        rules jsonb NOT NULL,
        version integer NOT NULL DEFAULT 1,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        changed_by text
    )
    """,
    """
    CREATE TABLE rule_pack_versions (
        pack_id text NOT NULL
            CONSTRAINT rule_pack_versions_pack_fkey REFERENCES rule_packs (id) ON DELETE CASCADE,
        version integer NOT NULL,
        name text NOT NULL,
        rules jsonb NOT NULL,
        changed_at timestamptz NOT NULL DEFAULT now(),
        changed_by text,
        CONSTRAINT rule_pack_versions_pkey PRIMARY KEY (pack_id, version)
    )
    """,
    # `version` is the pack's that the organization has, `tried` the one that was last applied or could not be: `fault`.
    """
    CREATE TABLE rule_pack_organizations (
        pack_id text NOT NULL
            CONSTRAINT rule_pack_organizations_pack_fkey REFERENCES rule_packs (id),
        epoch bigint NOT NULL
            CONSTRAINT rule_pack_organizations_epoch_fkey REFERENCES organizations (epoch) ON DELETE CASCADE,
        version integer NOT NULL,
        tried integer NOT NULL,
        fault text,
        updated_at timestamptz NOT NULL DEFAULT now(),
        changed_by text,
        CONSTRAINT rule_pack_organizations_pkey PRIMARY KEY (pack_id, epoch)
    )
    """,
    "CREATE INDEX rule_pack_organizations_epoch ON rule_pack_organizations (epoch)",
    """
    CREATE TRIGGER rule_packs_changed AFTER INSERT OR UPDATE OR DELETE ON rule_packs
        FOR EACH ROW EXECUTE FUNCTION record_change('rule_pack', 'id')
    """,
    """
    CREATE TRIGGER rule_packs_audited AFTER INSERT OR UPDATE OR DELETE ON rule_packs
        FOR EACH ROW EXECUTE FUNCTION record_audit('rule_pack', 'id')
    """,
    """
    CREATE TRIGGER rule_pack_organizations_audited AFTER INSERT OR UPDATE OR DELETE ON rule_pack_organizations
        FOR EACH ROW EXECUTE FUNCTION record_audit('rule_pack_application', 'pack_id')
    """,
)

# Whoever writes a rule, its history is written too. A deletion is written down by who deletes: the rows of an
# organization that is being deleted must not get new company.
KEEP_VERSION = """
    CREATE FUNCTION keep_rule_version() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO rule_versions (epoch, rule_id, version, definition, pack_id, changed_by)
            VALUES (NEW.epoch, NEW.id, NEW.version, NEW.definition, NEW.pack_id, NEW.changed_by)
            ON CONFLICT ON CONSTRAINT rule_versions_pkey DO NOTHING;
        RETURN NULL;
    END
    $$
"""
TRIGGER = """
    CREATE TRIGGER rules_versions AFTER INSERT OR UPDATE OF version ON rules
        FOR EACH ROW EXECUTE FUNCTION keep_rule_version()
"""


def upgrade() -> None:
    for statement in (*UPGRADE, KEEP_VERSION, TRIGGER):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TRIGGER rules_versions ON rules")
    op.execute("DROP FUNCTION keep_rule_version")
    op.execute("DROP TABLE rule_pack_organizations, rule_pack_versions, rule_packs, rule_versions")
    op.execute("ALTER TABLE rules DROP COLUMN pack_id, DROP COLUMN switched_off, DROP COLUMN changed_by")
