"""How long readings are kept: as an organization says, or a device of it, for everything or for some sensors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Final

import msgspec

from iotplatform.domain.globs import glob_pattern

Days = Annotated[int, msgspec.Meta(ge=1, le=36_500)]
# As names of sensors are: without control characters.
Glob = Annotated[str, msgspec.Meta(min_length=1, max_length=512, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*\Z")]

DAY_US: Final = 86_400_000_000
_special: Final = re.compile(r"[*?\[]")


class Retention(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Days after which a reading may go, by its own time; None: never. `sensors` are globs of names.

    What is left out is as elsewhere: a device's as its organization says, an organization's: kept for ever.
    """

    days: Days | msgspec.UnsetType | None = msgspec.UNSET
    sensors: Annotated[dict[Glob, Days | None], msgspec.Meta(max_length=50)] = {}

    def of_sensor(self, sensor: str) -> int | msgspec.UnsetType | None:
        """Of the globs that match the longest head without a `*`, `?` or `[` counts, an exact name before all."""
        matching = [glob for glob in self.sensors if glob_pattern(glob).match(sensor)]
        return self.sensors[max(matching, key=_preciseness)] if matching else self.days

    def all_days(self) -> Iterator[int]:
        """Those that are said somewhere in here."""
        yield from (days for days in (self.days, *self.sensors.values()) if isinstance(days, int))


def days_of(organization: Retention, device: Retention | None, sensor: str) -> int | None:
    """The device's word counts before the organization's, and in either a sensor's before the rest; None: for ever."""
    for one in (device, organization):
        if one is not None and (days := one.of_sensor(sensor)) is not msgspec.UNSET:
            return days
    return None


def _preciseness(glob: str) -> tuple[bool, int, int, str]:
    special = _special.search(glob)
    return special is None, len(glob) if special is None else special.start(), len(glob), glob
