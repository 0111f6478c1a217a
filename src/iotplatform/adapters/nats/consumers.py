"""Durable consumers: made idempotently, by whoever needs them first, and made anew by whoever finds them gone.

Those of a partition live in the server's memory. With `sync_interval: always` nats-server writes, renames and syncs a
file for every consumer that delivers or is acknowledged, which was nearly half of its work with 2,000 of them. Nothing
rests on that file: where to go on is told by the position that was stored with the effect. A restart of the server
takes them along, and their readers make them anew.
"""

from __future__ import annotations

from typing import Final

from iotplatform.adapters.nats import subjects
from iotplatform.adapters.nats.api import JetStreamApi
from iotplatform.domain.organization import Organization

PARTITION_ROLES: Final = ("analysis", "persistence")
NOTIFICATION_ROLES: Final = ("notification", "persistence")
PRIORITY_TIMEOUT_S: Final = 20
# A reader resets its consumer at every start and after every fault, so redelivery by time is never wanted: it would
# only put old messages behind newer ones.
_ACK_WAIT_S: Final = 24 * 3_600
_SECOND: Final = 1_000_000_000


class Consumers:
    def __init__(self, api: JetStreamApi) -> None:
        self._api = api

    async def create_of_notifications(self, role: str) -> None:
        await self._create(subjects.NOTIFICATIONS, role, "notifications.>", in_memory=False)

    async def create_of_partition(self, organization: Organization, partition: int, role: str) -> None:
        """Raises:
        Unavailable: JetStream is away.
        ApiError: the organization has no stream (any more).
        """
        await self._create(
            subjects.organization_stream(organization.id),
            subjects.partition_consumer(role, organization.epoch, partition),
            subjects.partition_subjects(organization.id, organization.epoch, partition),
            in_memory=True,
        )

    async def create_of_intake(self, organization: Organization) -> None:
        """What reads an organization's messages of MQTT.

        Raises:
            Unavailable, ApiError: JetStream is away, or INTAKE is.
        """
        await self._create(
            subjects.INTAKE,
            subjects.intake_consumer(organization.epoch),
            subjects.intake_subjects(organization.id),
            in_memory=True,
        )

    async def _create(self, stream: str, name: str, filter_subject: str, *, in_memory: bool) -> None:
        config = {
            "name": name,
            "durable_name": name,
            "filter_subject": filter_subject,
            "deliver_policy": "all",
            "ack_policy": "all",
            "ack_wait": _ACK_WAIT_S * _SECOND,
            "max_ack_pending": -1,
            "max_deliver": -1,
            "mem_storage": in_memory,
            "priority_groups": [subjects.PRIORITY_GROUP],
            "priority_policy": "pinned_client",
            "priority_timeout": PRIORITY_TIMEOUT_S * _SECOND,
        }
        await self._api.call(
            f"CONSUMER.CREATE.{stream}.{name}.{filter_subject}", {"stream_name": stream, "config": config}, timeout_s=30
        )
