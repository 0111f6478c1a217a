"""What the alarm history knows of an alarm: where in the stream it was raised, and where it was cleared."""

from __future__ import annotations

import msgspec

from iotplatform.domain.alarm import Evidence


class Episode(msgspec.Struct, frozen=True):
    """Positions are stream sequences; `cleared_position` and `cleared_at` (microseconds) are None while active."""

    alarm_id: str
    rule_id: str
    device_id: str
    sensor: str
    position: int
    cleared_position: int | None
    cleared_at: int | None
    evidence: tuple[Evidence, ...]

    def is_active_at(self, position: int) -> bool:
        """Whether it is active when everything up to and including `position` has happened."""
        return self.position <= position and (self.cleared_position is None or self.cleared_position > position)
