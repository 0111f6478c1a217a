"""A notification that says it is a test: by the channel's own way, once, now."""

from __future__ import annotations

import asyncio
import uuid
from typing import Final, Literal

import msgspec

from iotplatform.adapters.postgres.channels import channel_of
from iotplatform.adapters.postgres.models import ChannelRow
from iotplatform.domain.notification import Notification, PartlySent
from iotplatform.domain.organization import Organization
from iotplatform.domain.timestamps import format_timestamp
from iotplatform.errors import Rejected, Unavailable
from iotplatform.roles.management.channel_secrets import target_of
from iotplatform.roles.management.context import ManagementContext
from iotplatform.runtime.clock import now_us

WITHIN_S: Final = 20.0


class TestAttempt(msgspec.Struct, frozen=True):
    """As in `attempts` of a delivery."""

    at: str
    outcome: Literal["sent", "failed"]
    detail: str


async def send_test(context: ManagementContext, organization: Organization, row: ChannelRow) -> TestAttempt:
    """Raises:
    Rejected: too many tests.
    """
    context.test_turns.take(organization.epoch)
    async with context.test_turns.room:
        at = now_us()
        try:
            async with asyncio.timeout(WITHIN_S):
                await context.channels[row.type].send(_notification(context, organization, row, at))
        except (Rejected, Unavailable, PartlySent) as error:
            return TestAttempt(format_timestamp(at), "failed", error.detail)
        except TimeoutError:
            return TestAttempt(format_timestamp(at), "failed", f"no answer within {WITHIN_S:g} s")
        return TestAttempt(format_timestamp(at), "sent", "")


def _notification(context: ManagementContext, organization: Organization, row: ChannelRow, at: int) -> Notification:
    delivery_id = str(uuid.uuid4())
    subject = f"Test of the channel {row.id} ({organization.id})"
    body = "This is a test. No alarm was raised.\n"
    return Notification(
        organization_id=organization.id,
        channel_id=row.id,
        alarm_id="test",
        transition="test",
        to=channel_of(row).config.to,
        subject=subject,
        body=body,
        message_id=f"<{delivery_id}@iotplatform>",
        created_at=at,
        delivery_id=delivery_id,
        payload=msgspec.json.encode(
            {
                "delivery_id": delivery_id,
                "organization_id": organization.id,
                "channel_id": row.id,
                "transition": "test",
                "subject": subject,
                "alarm": None,
            }
        ),
        target=target_of(context.vault, organization.epoch, row),
    )
