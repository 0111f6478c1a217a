"""Access: people, their sessions, API keys, opaque keys of devices.

Revision ID: 0012
Revises: 0011
"""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

UPGRADE = (
    """
    CREATE TABLE users (
        id text NOT NULL CONSTRAINT users_pkey PRIMARY KEY,
        email text NOT NULL CONSTRAINT users_email_key UNIQUE,
        name text NOT NULL,
        password_hash text NOT NULL,
        platform_admin boolean NOT NULL DEFAULT false,
        disabled_at timestamptz,
        created_at timestamptz NOT NULL DEFAULT now(),
        version integer NOT NULL DEFAULT 1
    )
    """,
    """
    CREATE TABLE user_roles (
        user_id text NOT NULL
            CONSTRAINT user_roles_user_id_fkey REFERENCES users (id) ON DELETE CASCADE,
        epoch bigint NOT NULL
            CONSTRAINT user_roles_epoch_fkey REFERENCES organizations (epoch) ON DELETE CASCADE,
        role text NOT NULL CONSTRAINT user_roles_role_check CHECK (role IN ('viewer', 'operator', 'admin')),
        CONSTRAINT user_roles_pkey PRIMARY KEY (user_id, epoch)
    )
    """,
    "CREATE INDEX user_roles_epoch ON user_roles (epoch)",
    """
    CREATE TABLE sessions (
        id text NOT NULL CONSTRAINT sessions_pkey PRIMARY KEY,
        user_id text NOT NULL
            CONSTRAINT sessions_user_id_fkey REFERENCES users (id) ON DELETE CASCADE,
        created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz NOT NULL,
        ended_at timestamptz
    )
    """,
    "CREATE INDEX sessions_user_id ON sessions (user_id)",
    """
    CREATE TABLE refresh_tokens (
        hash bytea NOT NULL CONSTRAINT refresh_tokens_pkey PRIMARY KEY,
        session_id text NOT NULL
            CONSTRAINT refresh_tokens_session_id_fkey REFERENCES sessions (id) ON DELETE CASCADE,
        used_at timestamptz
    )
    """,
    "CREATE INDEX refresh_tokens_session_id ON refresh_tokens (session_id)",
    """
    CREATE TABLE api_keys (
        id text NOT NULL CONSTRAINT api_keys_pkey PRIMARY KEY,
        epoch bigint
            CONSTRAINT api_keys_epoch_fkey REFERENCES organizations (epoch) ON DELETE CASCADE,
        name text NOT NULL,
        secret_hash bytea NOT NULL CONSTRAINT api_keys_secret_hash_key UNIQUE,
        scopes text[] NOT NULL,
        created_by text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz,
        revoked_at timestamptz
    )
    """,
    "CREATE INDEX api_keys_epoch ON api_keys (epoch)",
    "ALTER TABLE device_tokens ADD COLUMN secret_hash bytea CONSTRAINT device_tokens_secret_hash_key UNIQUE",
    # A login that begins concerns nobody else; one that ends does.
    """
    CREATE TRIGGER sessions_changed AFTER UPDATE OR DELETE ON sessions
    FOR EACH ROW EXECUTE FUNCTION record_change('session', 'id')
    """,
)

WATCHED = (("users", "user", "id"), ("user_roles", "user", "user_id"), ("api_keys", "api_key", "id"))


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)
    for table, kind, key in WATCHED:
        op.execute(
            f"CREATE TRIGGER {table}_changed AFTER INSERT OR UPDATE OR DELETE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION record_change('{kind}', '{key}')"
        )
        op.execute(
            f"CREATE TRIGGER {table}_audited AFTER INSERT OR UPDATE OR DELETE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION record_audit('{kind}', '{key}')"
        )


def downgrade() -> None:
    op.execute("DELETE FROM device_tokens WHERE secret_hash IS NOT NULL")
    op.execute("ALTER TABLE device_tokens DROP COLUMN secret_hash")
    op.execute("DROP TABLE refresh_tokens, sessions, user_roles, api_keys, users")
