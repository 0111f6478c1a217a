"""Rollups: what the readings of a minute, an hour and a day amount to.

Revision ID: 0019
Revises: 0018
"""

from __future__ import annotations

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

# `amount` is the sum of values below 1e290, `large` that of the others times 2^-128: neither can leave the range.
ROLLUPS = """
    CREATE TABLE {name} (
        series_id integer NOT NULL,
        at timestamptz NOT NULL,
        readings bigint NOT NULL,
        numbers bigint NOT NULL,
        lowest double precision,
        highest double precision,
        amount double precision NOT NULL,
        large double precision NOT NULL,
        first_at timestamptz NOT NULL,
        last_at timestamptz NOT NULL,
        CONSTRAINT {name}_pkey PRIMARY KEY (series_id, at)
    )
"""
HOURS = """
    CREATE TABLE {name} (
        series_id integer NOT NULL,
        hour timestamptz NOT NULL,
        CONSTRAINT {name}_pkey PRIMARY KEY (series_id, hour)
    )
"""
UPGRADE = (
    *(ROLLUPS.format(name=f"rollups_{name}") for name in ("minute", "hour", "day")),
    # Whether the minutes of an hour are kept too: not where it has few readings.
    "ALTER TABLE rollups_hour ADD COLUMN by_minute boolean NOT NULL DEFAULT false",
    # Hours whose rollups may not be what their readings say: those that were written to, and those being computed.
    HOURS.format(name="rollup_marks"),
    HOURS.format(name="rollup_work"),
    # Series of which no hour was rolled up yet.
    "CREATE TABLE rollup_backlog (series_id integer NOT NULL CONSTRAINT rollup_backlog_pkey PRIMARY KEY)",
    # One row. Who writes a reading of before `closing` leaves a mark; of before `closed` rollups answer. `generation`
    # counts how often marks were taken away.
    """
    CREATE TABLE rollup_state (
        id integer NOT NULL CONSTRAINT rollup_state_pkey PRIMARY KEY,
        closing timestamptz NOT NULL,
        closed timestamptz NOT NULL,
        generation bigint NOT NULL
    )
    """,
    "INSERT INTO rollup_state (id, closing, closed, generation) VALUES (1, '-infinity', '-infinity', 0)",
    # For who writes readings, once in a transaction and before anything else of it. The second query has a snapshot of
    # its own: it sees what those have done who were waited for.
    """
    CREATE FUNCTION rollup_closing(OUT closing timestamptz, OUT generation bigint) LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock_shared(hashtextextended('rollups', 0));
        SELECT s.closing, s.generation INTO closing, generation FROM rollup_state s;
    END
    $$
    """,
    # Who changes readings and does not know of marks (an older version, somebody with psql) puts rollups out of use, in
    # its own transaction, until all of them have been computed anew.
    """
    CREATE FUNCTION reset_rollups() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF current_setting('iotplatform.rollups', true) IS DISTINCT FROM 'on' THEN
            -- Otherwise they could come into use before this transaction is over.
            PERFORM pg_advisory_xact_lock_shared(hashtextextended('rollups', 0));
            UPDATE rollup_state SET closing = '-infinity', closed = '-infinity', generation = generation + 1
                WHERE isfinite(closing);
        END IF;
        RETURN NULL;
    END
    $$
    """,
    """
    CREATE TRIGGER readings_rollups BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON readings
    FOR EACH STATEMENT EXECUTE FUNCTION reset_rollups()
    """,
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TRIGGER readings_rollups ON readings")
    op.execute("DROP FUNCTION reset_rollups")
    op.execute("DROP FUNCTION rollup_closing")
    op.execute(
        "DROP TABLE rollups_minute, rollups_hour, rollups_day, rollup_marks, rollup_work, rollup_backlog, rollup_state"
    )
