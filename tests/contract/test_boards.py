"""What Grafana's role may read: what its boards need, and nothing else, however often it is given."""

from __future__ import annotations

import asyncpg

from iotplatform.adapters.postgres.boards import READABLE, ROLE, grant_boards

COLUMNS = """
SELECT table_name AS relation, column_name AS name FROM information_schema.columns
WHERE table_schema = 'public' AND has_column_privilege($1, format('%I', table_name), column_name, 'SELECT')
"""
WRITABLE = """
SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v')
AND has_table_privilege($1, oid, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
"""


async def test_the_role_reads_what_the_boards_need_and_nothing_else(database_url):
    connection = await asyncpg.connect(database_url)
    try:
        # Without the role it is nobody's.
        await grant_boards(connection)
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(f"CREATE ROLE {ROLE} NOLOGIN")
        # What it was given before is taken back.
        await connection.execute(f"GRANT SELECT ON users TO {ROLE}")
        for _ in range(2):
            await grant_boards(connection)
            found = {(row["relation"], row["name"]) for row in await connection.fetch(COLUMNS, ROLE)}
            assert found == {(table, column) for table, columns in READABLE.items() for column in columns}
            assert await connection.fetchval(WRITABLE, ROLE) == 0
        await transaction.rollback()
    finally:
        await connection.close()
