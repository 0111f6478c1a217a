"""Since when, and until when, readings could arrive: nobody is silent whom nobody could have heard."""

from __future__ import annotations

from typing import Final

import msgspec

# An absence that is shorter is none; what is known of the presence is always a moment old.
MOMENT_US: Final = 3_000_000


class Presence(msgspec.Struct, frozen=True):
    """Microseconds; without interruption in between."""

    since: int
    until: int

    def clock(self, at: int) -> int:
        """How far time has passed for those who listen, when it is `at`."""
        return at if at <= self.until + MOMENT_US else self.until


NEVER: Final = Presence(0, 0)
ALWAYS: Final = Presence(0, 1 << 62)
