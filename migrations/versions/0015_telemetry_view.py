"""Readings under their names, for Grafana and other readers of SQL.

Revision ID: 0015
Revises: 0014
"""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

# Only of organizations that are there: what is left of a deleted one is nobody's.
VIEW = """
CREATE VIEW telemetry AS
SELECT o.id AS organization, s.device_id AS device, s.sensor, r.at AS time,
    CASE r.kind WHEN 0 THEN 'number' WHEN 1 THEN 'boolean' ELSE 'text' END AS kind, r.value, r.text
FROM organizations o JOIN series s ON s.epoch = o.epoch JOIN readings r ON r.series_id = s.id
"""


def upgrade() -> None:
    op.execute(VIEW)


def downgrade() -> None:
    op.execute("DROP VIEW telemetry")
