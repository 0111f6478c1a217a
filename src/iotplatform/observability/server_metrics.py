"""What persistence's process shows of the servers that the platform stands on: looked at four times a minute.

Several processes of the role show the same: whoever adds up takes the largest of a series, never the sum.
"""

from __future__ import annotations

from iotplatform.observability.instruments import Level


class ServerMetrics:
    """What is not known any more, because a server is away, is not shown: only `server_up` is always there."""

    def __init__(self) -> None:
        self.server_up = Level("server_up", "Whether a server answered when it was looked at last", ("server",))

        self.jetstream_storage = Level(
            "jetstream_storage_bytes", "Of the account's JetStream on disk; a limit only where it has one", ("state",)
        )
        self.jetstream_streams = Level("jetstream_streams", "Streams in the account")
        self.jetstream_consumers = Level("jetstream_consumers", "Consumers in the account")
        self.jetstream_api_errors = Level(
            "jetstream_api_errors", "Requests to JetStream's API that it answered with an error", grows=True
        )
        self.stream_messages = Level(
            "stream_messages", "Messages kept in a stream; those of all organizations together", ("stream",)
        )
        self.stream_bytes = Level(
            "stream_bytes", "Bytes kept in a stream; those of all organizations together", ("stream",)
        )
        self.stream_limit = Level("stream_limit_bytes", "Bytes that a stream may keep", ("stream",))
        self.fullest_ratio = Level(
            "organization_streams_fullest_ratio", "How full the fullest stream of an organization is, 1 is its limit"
        )
        self.fill_ratio = Level(
            "organization_stream_fill_ratio",
            "How full the stream of an organization is; shown from 0.8 on, for the 20 fullest",
            ("organization",),
        )

        self.dropped_letters = Level(
            "dead_letters_dropped",
            "Dead letters that the full streams of organizations have dropped, of organizations that are there",
        )

        self.postgres_connections = Level(
            "postgres_connections", "Connections to the database, and how many the server allows", ("state",)
        )
        self.postgres_database = Level("postgres_database_bytes", "Size of the database")
        self.postgres_transactions = Level(
            "postgres_transactions", "Transactions that have ended", ("outcome",), grows=True
        )
        self.postgres_blocks = Level("postgres_blocks", "Blocks that were read", ("source",), grows=True)
        self.postgres_deadlocks = Level("postgres_deadlocks", "Deadlocks that PostgreSQL has found", grows=True)
        self.postgres_oldest = Level(
            "postgres_oldest_transaction_seconds", "Age of the oldest transaction that is open; 0 when there is none"
        )

        self.rollups_behind = Level(
            "postgres_rollups_behind_seconds",
            "Age of the newest hour that rollups answer for; none while they don't",
        )
        self.rollups_waiting = Level(
            "postgres_rollups_waiting", "What is to be rolled up: hours of a series, or whole series", ("what",)
        )

        self.redis_memory = Level("redis_memory_bytes", "Memory of Redis; a limit only where it has one", ("state",))
        self.redis_keys = Level("redis_keys", "Keys in Redis")
        self.redis_clients = Level("redis_clients", "Connections to Redis")
        self.redis_commands = Level("redis_commands", "Commands that Redis has carried out", grows=True)
        self.redis_append_ok = Level("redis_append_ok", "Whether Redis could write its log when it tried last")

        self.deliveries_waiting = Level(
            "deliveries_waiting",
            "Notifications that are not delivered yet, up to 100,000; further ones are not counted",
        )
        self.deliveries_overdue = Level(
            "deliveries_overdue_seconds", "For how long the next notification to be sent has been due"
        )

    def levels(self) -> list[Level]:
        return [level for level in vars(self).values() if isinstance(level, Level)]

    def forget(self, *names: str) -> None:
        """Whatever begins with one of these names."""
        for level in self.levels():
            if level.name.startswith(names) and level is not self.server_up:
                level.clear()
