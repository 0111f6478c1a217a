"""Which blocking calls inside the event loop are known and allowed."""

from __future__ import annotations

from blockbuster import BlockBuster

_ALLOWED = (
    # asyncpg looks for a password file and for certificates whenever it connects.
    (
        "asyncpg/connect_utils.py",
        {"_read_password_file", "_parse_tls_file", "_dot_postgresql_path", "_parse_connect_dsn_and_args"},
    ),
    # redis-py asks for its own version with each new connection.
    ("redis/utils.py", {"get_lib_version"}),
    # The process's own metrics come from files that are no files.
    ("prometheus_client/process_collector.py", {"collect"}),
    # The size of the disk is asked for at a scrape; the kernel has it in memory.
    ("app/gauges.py", {"_disk"}),
    # A traceback shows lines of source files.
    ("linecache.py", {"updatecache", "checkcache", "lazycache"}),
    # The clock's zone database is read once.
    ("zoneinfo/_common.py", {"load_tzdata"}),
)


def allow_known(found: BlockBuster) -> None:
    for function in found.functions.values():
        for file, names in _ALLOWED:
            function.can_block_in(file, names)
