"""Publishing control messages, each to the partition of the device that it is about."""

from __future__ import annotations

import secrets
from typing import Final

from iotplatform.adapters.nats.headers import CONTROL, MSG_ID
from iotplatform.adapters.nats.publisher import Publisher, PublishRefused, StreamFull
from iotplatform.adapters.nats.subjects import readings_subject
from iotplatform.domain.control import ClearAlarm, Control, encode_control
from iotplatform.domain.identifiers import partition_of
from iotplatform.domain.organization import Organization
from iotplatform.errors import Unavailable

PUBLISH_TIMEOUT_S: Final = 5.0
CONTROL_FORMAT: Final = "1"


class Controls:
    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    async def publish(self, organization: Organization, control: Control) -> None:
        """Returns when it is stored; analysis does what it says when its turn has come.

        Clearing one alarm twice within two minutes is one message.

        Raises:
            Unavailable: it may or may not be stored; publish it again.
        """
        partition = partition_of(control.device_id, organization.partitions)
        subject = readings_subject(organization.id, organization.epoch, partition, "control")
        headers = {CONTROL: CONTROL_FORMAT, MSG_ID: _message_id(control)}
        try:
            await self._publisher.publish(subject, encode_control(control), headers, timeout_s=PUBLISH_TIMEOUT_S)
        except (StreamFull, PublishRefused) as error:
            raise Unavailable(f"the organization's stream: {error}", retry_after_s=5) from error


def _message_id(control: Control) -> str:
    if isinstance(control, ClearAlarm):
        return f"clear.{control.alarm_id}"
    return f"control.{secrets.token_hex(16)}"
