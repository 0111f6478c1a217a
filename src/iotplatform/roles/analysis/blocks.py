"""What a partition's stream holds for analysis, decoded: blocks of readings, and control messages among them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from iotplatform.domain.control import ClearAlarm, Control
from iotplatform.domain.reading import Reading
from iotplatform.roles.analysis.rule_index import RuleIndex
from iotplatform.roles.analysis.states import series_key


class DecodedBlock(msgspec.Struct, frozen=True):
    """`stored_at` is the stream's time, the clock of what falls silent; `arrived_at` the door's."""

    position: int
    arrived_at: int
    readings: Sequence[Reading]
    stored_at: int = 0


class DecodedControl(msgspec.Struct, frozen=True):
    position: int
    arrived_at: int
    control: Control


Piece = DecodedBlock | DecodedControl


def wanted_series(pieces: Iterable[Piece], index: RuleIndex) -> set[bytes]:
    """The series in there that at least one rule looks at, or a hand has something to do with.

    Those of a device to be forgotten, only the store knows.
    """
    pairs: set[tuple[str, str]] = set()
    named: set[bytes] = set()
    for piece in pieces:
        if isinstance(piece, DecodedBlock):
            pairs.update([(reading.device_id, reading.sensor) for reading in piece.readings])
        elif isinstance(piece.control, ClearAlarm):
            named.add(series_key(piece.control.device_id, piece.control.sensor))
    matching = index.matching
    named.update([series_key(device_id, sensor) for device_id, sensor in pairs if matching(device_id, sensor)])
    return named
