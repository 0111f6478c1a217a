"""Readings in partitions by month.

Revision ID: 0018
Revises: 0017
"""

from __future__ import annotations

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

# Nothing is taken away: `readings` has the columns, the key and the name that it had, and so has the view. The rows
# stay in the files that they are in. What was one table becomes the partition of everything up to a month's end that
# lies behind all of it (found by reading it once, before it is locked; being attached, it is read once more). Readings
# are at most a day ahead of the clock; where one is far beyond that, the table becomes the default partition instead,
# and persistence makes partitions out of it.
PARTITIONED = """
DO $$
DECLARE
    newest timestamptz;
    cut timestamptz;
    month timestamptz;
BEGIN
    SELECT greatest(max(at), now()) + interval '25 hours' INTO newest FROM readings;
    ALTER TABLE readings RENAME CONSTRAINT readings_pkey TO readings_default_pkey;
    ALTER TABLE readings RENAME TO readings_default;
    CREATE TABLE readings (
        LIKE readings_default INCLUDING DEFAULTS, CONSTRAINT readings_pkey PRIMARY KEY (series_id, at)
    ) PARTITION BY RANGE (at);
    IF newest < now() + interval '60 days' AND EXISTS (SELECT FROM readings_default) THEN
        cut := (date_trunc('month', newest AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC';
        ALTER TABLE readings_default RENAME CONSTRAINT readings_default_pkey TO readings_before_pkey;
        ALTER TABLE readings_default RENAME TO readings_before;
        EXECUTE format('ALTER TABLE readings ATTACH PARTITION readings_before FOR VALUES FROM (MINVALUE) TO (%L)', cut);
        CREATE TABLE readings_default PARTITION OF readings DEFAULT;
    ELSE
        ALTER TABLE readings ATTACH PARTITION readings_default DEFAULT;
    END IF;
    IF NOT EXISTS (SELECT FROM readings_default) THEN
        month := coalesce(cut, date_trunc('month', now(), 'UTC'));
        FOR _ IN 1..2 LOOP
            cut := month;
            month := (cut AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC';
            EXECUTE format(
                'CREATE TABLE %I PARTITION OF readings FOR VALUES FROM (%L) TO (%L)',
                'readings_' || to_char(cut AT TIME ZONE 'UTC', 'YYYY_MM'), cut, month
            );
        END LOOP;
    END IF;
END
$$
"""

# A view goes by the table that it was made of, whatever that is called now.
VIEW = """
CREATE OR REPLACE VIEW telemetry AS
SELECT o.id AS organization, s.device_id AS device, s.sensor, r.at AS time,
    CASE r.kind WHEN 0 THEN 'number' WHEN 1 THEN 'boolean' ELSE 'text' END AS kind, r.value, r.text
FROM organizations o JOIN series s ON s.epoch = o.epoch JOIN readings r ON r.series_id = s.id
"""

# Which partitions have had their index packed, and how large it was then.
PACKED = """
CREATE TABLE packed_partitions (
    name text NOT NULL CONSTRAINT packed_partitions_pkey PRIMARY KEY,
    index_bytes bigint NOT NULL,
    packed_at timestamptz NOT NULL DEFAULT now()
)
"""

PLAIN = """
DO $$
BEGIN
    CREATE TABLE plain (LIKE readings INCLUDING DEFAULTS);
    INSERT INTO plain SELECT * FROM readings;
    ALTER TABLE readings RENAME TO readings_gone;
    ALTER TABLE readings_gone RENAME CONSTRAINT readings_pkey TO readings_gone_pkey;
    ALTER TABLE plain RENAME TO readings;
    ALTER TABLE readings ADD CONSTRAINT readings_pkey PRIMARY KEY (series_id, at);
END
$$
"""


def upgrade() -> None:
    op.execute(PARTITIONED)
    op.execute(VIEW)
    op.execute(PACKED)


def downgrade() -> None:
    op.execute("DROP TABLE packed_partitions")
    op.execute(PLAIN)
    op.execute(VIEW)
    op.execute("DROP TABLE readings_gone")
