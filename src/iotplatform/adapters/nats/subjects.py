"""Names of streams, subjects and consumers. They are stored in streams, so they are for ever."""

from __future__ import annotations

from typing import Final, Literal

# Readings from `store` are stored and raise nothing.
Source = Literal["http", "mqtt", "control", "store"]
STORE_ONLY: Final[Source] = "store"

NOTIFICATIONS: Final = "NOTIFICATIONS"
# Where earlier versions kept the letters of all organizations: it is still read, and no longer written.
SHARED_LETTERS: Final = "DEADLETTER"
# nats-server's own, where it keeps what was published by MQTT with QoS 1 and 2 before it acknowledges it.
INTAKE: Final = "$MQTT_msgs"
MQTT_PREFIX: Final = "$MQTT.msgs."
# And what it hands to whoever subscribes later.
RETAINED: Final = "$MQTT_rmsgs"
RETAINED_PREFIX: Final = "$MQTT.rmsgs."
PRIORITY_GROUP: Final = "holder"


def organization_stream(organization_id: str) -> str:
    return f"ORG_{organization_id}"


def organization_subjects(organization_id: str) -> str:
    return f"readings.{organization_id}.>"


def readings_subject(organization_id: str, epoch: int, partition: int, source: Source) -> str:
    return f"readings.{organization_id}.{epoch}.{partition}.{source}"


def is_store_only(subject: str) -> bool:
    """Whether the block of this subject is for history alone: no rule looks at it."""
    return subject.endswith(".store")


def partition_subjects(organization_id: str, epoch: int, partition: int) -> str:
    return f"readings.{organization_id}.{epoch}.{partition}.>"


def partition_consumer(role: str, epoch: int, partition: int) -> str:
    """The epoch keeps a consumer of a deleted organization from being taken for one of its successor."""
    return f"{role}_{epoch}_{partition}"


def notifications_subject(organization_id: str, epoch: int, device_id: str) -> str:
    return f"notifications.{organization_id}.{epoch}.{device_id}"


def letters_stream(organization_id: str) -> str:
    return f"LETTERS_{organization_id}"


def letters_subjects(organization_id: str) -> str:
    return f"letters.{organization_id}.>"


def letter_subject(organization_id: str, epoch: int, role: str) -> str:
    return f"letters.{organization_id}.{epoch}.{role}"


def shared_letter_subject(organization_id: str, epoch: int, role: str) -> str:
    """In `SHARED_LETTERS`."""
    return f"deadletter.{organization_id}.{epoch}.{role}"


def letter_places(organization_id: str, epoch: int, role: str) -> tuple[tuple[str, str], ...]:
    """The streams that may hold an organization's letters, the older first, and their subject in each."""
    return (
        (SHARED_LETTERS, shared_letter_subject(organization_id, epoch, role)),
        (letters_stream(organization_id), letter_subject(organization_id, epoch, role)),
    )


def intake_consumer(epoch: int) -> str:
    return f"ingest_{epoch}"


def intake_subjects(organization_id: str) -> str:
    """What the devices of an organization have published by MQTT."""
    return f"{MQTT_PREFIX}iot.{organization_id}.>"


def mqtt_subjects(organization_id: str, epoch: int, partitions: int) -> list[str]:
    """Where the blocks made of it go, by partition."""
    return [readings_subject(organization_id, epoch, number, "mqtt") for number in range(partitions)]
