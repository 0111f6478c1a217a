"""The streams, with their durable consumers: made idempotently, by whoever needs them first."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from iotplatform.adapters.nats import subjects
from iotplatform.adapters.nats.api import NOT_FOUND_STREAM, ApiError, JetStreamApi
from iotplatform.adapters.nats.consumers import NOTIFICATION_ROLES, PARTITION_ROLES, Consumers
from iotplatform.domain.organization import Organization

_SECOND: Final = 1_000_000_000
DEDUP_WINDOW_S: Final = 120


class StreamLimits(msgspec.Struct, frozen=True):
    replicas: int = 1
    organization_max_bytes: int = 1 << 30
    notifications_max_bytes: int = 1 << 30
    dead_letters_per_subject: int = 100_000
    # Of one organization, which evicts nobody's letters but its own.
    dead_letters_max_bytes: int = 128 << 20
    retained: int = 100_000
    retained_max_bytes: int = 1 << 30
    retained_max_size: int = 128 << 10


class Streams:
    def __init__(self, api: JetStreamApi, limits: StreamLimits) -> None:
        self._api = api
        self._limits = limits
        self._consumers = Consumers(api)

    async def create_shared(self) -> None:
        """NOTIFICATIONS with its consumers, and what MQTT needs."""
        await self._create_stream(
            subjects.NOTIFICATIONS,
            {"subjects": ["notifications.>"], "discard": "new", "max_bytes": self._limits.notifications_max_bytes},
        )
        for role in NOTIFICATION_ROLES:
            await self._consumers.create_of_notifications(role)
        await self._create_intake()

    async def _create_intake(self) -> None:
        """Before the first device is let in: nats-server would make it itself, and keep nothing that nobody waits for.

        With retention by interest a message is kept for consumers that exist, and ours are in memory. With limits all
        is kept until it is trimmed, so the organizations' readers can go on in it wherever they stopped.
        """
        await self._create_stream(subjects.INTAKE, {"subjects": [f"{subjects.MQTT_PREFIX}>"]})
        # The copy that an earlier version has left would grow on.
        await self._delete_stream("INTAKE")
        # Without bounds of ours it would have none; what is beyond them is delivered, and not kept.
        await self._create_stream(
            subjects.RETAINED,
            {
                "subjects": [f"{subjects.RETAINED_PREFIX}>"],
                "max_msgs_per_subject": 1,
                "discard": "new",
                "max_msgs": self._limits.retained,
                "max_bytes": self._limits.retained_max_bytes,
                "max_msg_size": self._limits.retained_max_size,
            },
        )

    async def create_organization(self, organization: Organization) -> None:
        """The organization's stream, and for each partition the consumers of both roles."""
        stream = subjects.organization_stream(organization.id)
        await self._create_stream(
            stream,
            {
                "subjects": [subjects.organization_subjects(organization.id)],
                "discard": "new",
                "max_bytes": self._limits.organization_max_bytes,
            },
        )
        for partition in range(organization.partitions):
            for role in PARTITION_ROLES:
                await self._consumers.create_of_partition(organization, partition, role)

    async def create_letters(self, organization_id: str) -> None:
        """The stream of an organization's dead letters: with its first letter, because most never have one."""
        await self._create_stream(
            subjects.letters_stream(organization_id),
            {
                "subjects": [subjects.letters_subjects(organization_id)],
                "discard": "old",
                "max_msgs_per_subject": self._limits.dead_letters_per_subject,
                "max_bytes": self._limits.dead_letters_max_bytes,
            },
        )

    async def resize_organization(self, organization_id: str, max_bytes: int | None) -> None:
        """Let an organization's stream hold so much; None: what every organization's may.

        And its letters what the settings say now, if it has any.
        """
        wanted = max_bytes or self._limits.organization_max_bytes
        await self._resize(subjects.organization_stream(organization_id), wanted)
        try:
            await self._resize(subjects.letters_stream(organization_id), self._limits.dead_letters_max_bytes)
        except ApiError as error:
            if error.code != NOT_FOUND_STREAM:
                raise

    async def _resize(self, name: str, max_bytes: int) -> None:
        config = (await self._api.call(f"STREAM.INFO.{name}"))["config"]
        if config["max_bytes"] != max_bytes:
            await self._api.call(f"STREAM.UPDATE.{name}", {**config, "max_bytes": max_bytes}, timeout_s=30)

    async def last_position(self, organization_id: str) -> int:
        """The sequence of the newest message in an organization's stream.

        Raises:
            Unavailable: JetStream is away.
            ApiError: the organization is being made or deleted.
        """
        answer = await self._api.call(f"STREAM.INFO.{subjects.organization_stream(organization_id)}")
        return int(answer["state"]["last_seq"])

    async def renew_organization(self, organization: Organization) -> None:
        """The streams of a new organization, without anything that an earlier one of its id may have left.

        Only while the id is certainly this organization's.
        """
        await self.delete_organization(organization.id)
        await self.create_organization(organization)

    async def delete_organization(self, organization_id: str) -> None:
        await self._delete_stream(subjects.organization_stream(organization_id))
        await self._delete_stream(subjects.letters_stream(organization_id))

    async def _delete_stream(self, name: str) -> None:
        try:
            await self._api.call(f"STREAM.DELETE.{name}")
        except ApiError as error:
            if error.code != NOT_FOUND_STREAM:
                raise

    async def _create_stream(self, name: str, settings: dict[str, Any]) -> None:
        config = {
            "name": name,
            "retention": "limits",
            "storage": "file",
            "num_replicas": self._limits.replicas,
            "duplicate_window": DEDUP_WINDOW_S * _SECOND,
            "allow_direct": True,
            "allow_atomic": True,
            **settings,
        }
        try:
            await self._api.call(f"STREAM.UPDATE.{name}", config, timeout_s=30)
        except ApiError as error:
            if error.code != NOT_FOUND_STREAM:
                raise
            await self._api.call(f"STREAM.CREATE.{name}", config, timeout_s=30)
