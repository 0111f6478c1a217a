"""What a live stream of an organization shows, where in the streams it stands, and what bounds it."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Annotated, Final, Literal

import msgspec

from iotplatform.domain.alarm import Transition
from iotplatform.domain.globs import glob_pattern
from iotplatform.domain.reading import Reading
from iotplatform.domain.rule import Severity

EventKind = Literal["reading", "alarm"]
NoticeReason = Literal["gap", "slow", "ended"]

# Each is held against every reading.
MAX_GLOBS: Final = 20
_PLACE: Final = re.compile(r"(\d{1,18})-(\d{1,18})-(\d{1,9})-(\d{1,18})", re.ASCII)


class LiveLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `live` of the settings.

    One whose reader was up to date and has fallen `behind_s` behind is dropped.
    """

    per_organization: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 16
    in_process: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 256
    heartbeat_s: Annotated[float, msgspec.Meta(gt=0, le=3_600)] = 15.0
    behind_s: Annotated[float, msgspec.Meta(gt=0, le=3_600)] = 30.0


class Place(msgspec.Struct, frozen=True):
    """Up to where something was told: the id of an event, from which a stream can be resumed.

    All of the blocks up to `block`, the first `readings` of the next one, and the transitions up to `transition`. An
    organization that was made again has another epoch.
    """

    epoch: int
    block: int
    readings: int
    transition: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.block}-{self.readings}-{self.transition}"

    @classmethod
    def parse(cls, text: str) -> Place | None:
        """None when this can't be one."""
        found = _PLACE.fullmatch(text)
        return cls(*map(int, found.groups())) if found else None


class LiveFilter(msgspec.Struct, frozen=True):
    """`sensors` are globs, as in rules; nothing given means all. A severity is what alarms have, so with severities
    given readings are shown only when they are asked for by name.
    """

    device_ids: frozenset[str] = frozenset()
    sensors: tuple[str, ...] = ()
    severities: frozenset[Severity] = frozenset()
    kinds: frozenset[EventKind] = frozenset()

    def shows(self, kind: EventKind) -> bool:
        if self.kinds:
            return kind in self.kinds
        return kind == "alarm" or not self.severities

    def readings(self, block: Sequence[Reading], skip: int, upto: int) -> Sequence[int]:
        """Which of a block are wanted, beyond the first `skip` of them and no more than `upto`; counted from 1."""
        devices, sensors = self.device_ids, _matcher(self.sensors)
        counts = range(skip + 1, min(upto, len(block)) + 1)
        if not devices and sensors is None:
            return counts
        return [
            count
            for count in counts
            if (not devices or block[count - 1].device_id in devices)
            and (sensors is None or sensors.match(block[count - 1].sensor))
        ]

    def takes(self, transition: Transition) -> bool:
        sensors = _matcher(self.sensors)
        return (
            (not self.device_ids or transition.device_id in self.device_ids)
            and (sensors is None or sensors.match(transition.sensor) is not None)
            and (not self.severities or transition.severity in self.severities)
        )


@functools.lru_cache(maxsize=1_024)
def _matcher(sensors: tuple[str, ...]) -> re.Pattern[str] | None:
    if not sensors:
        return None
    return re.compile("|".join(f"(?:{glob_pattern(glob).pattern})" for glob in sensors))
