"""Control messages in their partition."""

from __future__ import annotations

from iotplatform.adapters.nats.controls import Controls
from iotplatform.adapters.nats.headers import CONTROL
from iotplatform.domain.control import ClearAlarm, ForgetDevice, decode_control
from iotplatform.domain.identifiers import partition_of


async def test_they_stand_in_the_partition_of_their_device(client):
    organization = await client.organization(partitions=4)
    controls = Controls(client.publisher)
    clear, forget = ClearAlarm("alarm-1", "r", "m", "temp", "ann", 5), ForgetDevice("n", "ann", 6)
    await controls.publish(organization, clear)
    await controls.publish(organization, clear)
    await controls.publish(organization, forget)
    # A device that was deleted can be made and deleted again.
    await controls.publish(organization, forget)
    stored = await client.stored(organization)
    assert [decode_control(message.data) for message in stored] == [clear, forget, forget]
    assert [int(message.subject.split(".")[3]) for message in stored[:2]] == [
        partition_of("m", 4),
        partition_of("n", 4),
    ]
    assert all(message.subject.endswith(".control") and CONTROL in message.headers for message in stored)
