"""What became of dead letters that are no more: replayed, or dropped by a stream that was full."""

from __future__ import annotations

from collections.abc import Mapping

from iotplatform.adapters.nats.dead_letters import DeadLetters
from iotplatform.adapters.postgres.replayed_letters import ReplayedLetters
from iotplatform.domain.organization import Organization


async def dropped_letters(letters: DeadLetters, replayed: ReplayedLetters, organization: Organization) -> int:
    """How many letters of the organization's stream have gone without having been replayed.

    Raises:
        Unavailable: a server is away.
    """
    removed = await letters.removed(organization.id)
    # In this order: a replay is written down before its letter goes.
    return max(0, removed - await replayed.count(organization.epoch)) if removed else 0


class DroppedLetters:
    """The same for all organizations, out of looks at streams and at the database that are not of the same moment."""

    def __init__(self) -> None:
        self._removed: dict[str, int] = {}
        self.is_known = False
        self._dropped: dict[str, int] = {}

    def saw_removed(self, removed: Mapping[str, int]) -> None:
        """What each organization's stream lacks; one that lacks less than before is another."""
        self._dropped = {
            organization: dropped
            for organization, dropped in self._dropped.items()
            if removed.get(organization, 0) >= self._removed.get(organization, 0)
        }
        self._removed = dict(removed)
        self.is_known = True

    def count(self, replayed: Mapping[str, int]) -> int:
        """Of all together. A replay that is written down and not seen in the stream yet takes nothing back."""
        for organization, removed in self._removed.items():
            dropped = removed - replayed.get(organization, 0)
            if dropped > self._dropped.get(organization, 0):
                self._dropped[organization] = dropped
        return sum(self._dropped.values())
