"""Publishing transitions: in order, and under ids that follow from the position, so that again changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from iotplatform.adapters.nats.headers import MSG_ID
from iotplatform.adapters.nats.publisher import Publisher, PublishRefused, StreamFull
from iotplatform.adapters.nats.subjects import notifications_subject
from iotplatform.domain.alarm import decode_transition, transition_id
from iotplatform.errors import Unavailable

PUBLISH_TIMEOUT_S: Final = 5.0


async def publish_transitions(publisher: Publisher, encoded: Sequence[bytes]) -> None:
    """One after the other: were a clearing stored before its raising, the alarm would stay active for ever.

    Raises:
        Unavailable: some of them are not stored; publish all of them again.
    """
    for packed in encoded:
        transition = decode_transition(packed)
        subject = notifications_subject(transition.organization_id, transition.epoch, transition.device_id)
        headers = {MSG_ID: transition_id(transition)}
        try:
            await publisher.publish(subject, packed, headers, timeout_s=PUBLISH_TIMEOUT_S)
        except (StreamFull, PublishRefused) as error:
            raise Unavailable(f"NOTIFICATIONS: {error}", retry_after_s=5) from error
