"""The notification role: a recorder and an announcer that write deliveries down, and a dispatcher that sends them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.nats.dead_letters import DeadLetters
from iotplatform.adapters.nats.notifications import NotificationsReader
from iotplatform.adapters.nats.readers import Readers
from iotplatform.adapters.postgres.announcements import Announcements
from iotplatform.adapters.postgres.connection import Database
from iotplatform.adapters.postgres.outgoing import OutgoingDeliveries
from iotplatform.adapters.secrets.vault import Vault
from iotplatform.domain.notification import NotificationChannel
from iotplatform.observability.metrics import Metrics
from iotplatform.roles.notification.announcer import Announcer
from iotplatform.roles.notification.dispatcher import Dispatcher, DispatchLimits
from iotplatform.roles.notification.recorder import Recorder
from iotplatform.runtime.membership import Membership
from iotplatform.runtime.tasks import Tasks

DRAIN_S: Final = 5.0


class NotificationRole:
    name = "notification"

    def __init__(
        self,
        connection: Connection,
        database: Database,
        dead_letters: DeadLetters,
        channels: Mapping[str, NotificationChannel],
        vault: Vault,
        metrics: Metrics,
        membership: Membership,
    ) -> None:
        self.readers = Readers(self.name, connection, metrics)
        self._outgoing = OutgoingDeliveries(database)
        self.notifications = NotificationsReader(self.readers, membership, self._outgoing.position)
        self._membership = membership
        self._dispatcher = Dispatcher(self._outgoing, channels, vault, metrics, DispatchLimits())
        self._recorder = Recorder(
            self.readers, self._outgoing, dead_letters, metrics, self._dispatcher.wake, self.notifications.fenced
        )
        self._announcer = Announcer(Announcements(database), self._dispatcher.wake)
        self._tasks = Tasks(self.name)

    async def start(self) -> None:
        await self.readers.start()
        await self._membership.join()
        self._tasks.start(self._membership.run(), "membership")
        self.notifications.follow()
        self._dispatcher.start()
        self._tasks.start(self._recorder.run(), "recorder")
        self._tasks.start(self._announcer.run(), "announcer")
        self._tasks.start(self.readers.wait(), "readers")
        self._tasks.start(self.notifications.wait(), "share")
        self._tasks.start(self._dispatcher.wait(), "dispatcher")

    async def wait(self) -> None:
        await self._tasks.wait()

    async def stop(self) -> None:
        """Record nothing more, and finish what is being sent."""
        await self._tasks.stop()
        await self.notifications.stop()
        await self._membership.leave()
        await self.readers.stop()
        await self._dispatcher.stop(DRAIN_S)
