"""Gaps: what vanished between the door and the store, told from a lane's numbers and a stream's sequences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

import msgspec

MOST_SENTENCES: Final = 100


class LanePlace(msgspec.Struct, frozen=True):
    """How far a lane is known: its last block's number and running total, and when that block was stored (us)."""

    number: int = 0
    total: int = 0
    seen_at: int = 0


class LaneGap(msgspec.Struct, frozen=True, order=True):
    """Blocks `first_number` to `last_number` of a lane are missing, with so many readings.

    With `last_number` below `first_number` no block is missing, but the lane has counted `readings` more before its
    block `first_number` than its blocks hold.
    """

    partition: int
    lane: str
    first_number: int
    last_number: int
    readings: int


class SequenceGap(msgspec.Struct, frozen=True, order=True):
    """Sequences of an organization's stream that nobody of ours has trimmed; both ends belong to it."""

    first: int
    last: int


class LostPosition(msgspec.Struct, frozen=True, order=True):
    """The stream ends below what was handled already: it was lost, or is another one."""

    partition: int
    position: int


Gap = LaneGap | SequenceGap | LostPosition

NOTHING_KNOWN: Final[Mapping[str, LanePlace]] = MappingProxyType({})
_START: Final = LanePlace()


class LaneFollower:
    """The lanes of one partition, block by block in stream order. `known` is where they stood before."""

    def __init__(self, partition: int, known: Mapping[str, LanePlace] = NOTHING_KNOWN) -> None:
        self._partition = partition
        self._known = known
        self.places: dict[str, LanePlace] = {}
        self.gaps: list[LaneGap] = []

    def follow(self, lane: str, number: int, count: int, total: int, stored_at: int) -> LanePlace:
        """Where the lane stands after this block; a number that is known already takes it nowhere."""
        known = self.places.get(lane) or self._known.get(lane, _START)
        if number <= known.number:
            return known
        missing = total - count - known.total
        if number > known.number + 1 or missing:
            self.gaps.append(LaneGap(self._partition, lane, known.number + 1, number - 1, missing))
        place = self.places[lane] = LanePlace(number, total, stored_at)
        return place


class StreamState(msgspec.Struct, frozen=True):
    """What a stream says of itself; `deleted` lies between its first and its last sequence, in order."""

    first: int
    last: int
    deleted: tuple[int, ...] = ()


def vanished(state: StreamState, trimmed: int) -> list[SequenceGap]:
    """What is missing from a stream although trimming has cut only below the sequence `trimmed`."""
    start = max(trimmed, 1)
    gaps = [SequenceGap(start, state.first - 1)] if state.first > start else []
    gaps += [SequenceGap(sequence, sequence) for sequence in state.deleted if sequence >= start]
    return join_sequences(gaps)


def join_sequences(gaps: Iterable[SequenceGap]) -> list[SequenceGap]:
    """The same sequences in as few gaps as possible, in order."""
    joined: list[SequenceGap] = []
    for gap in sorted(gaps):
        if joined and gap.first <= joined[-1].last + 1:
            joined[-1] = SequenceGap(joined[-1].first, max(joined[-1].last, gap.last))
        else:
            joined.append(gap)
    return joined


def join_gaps(gaps: Iterable[Gap]) -> list[Gap]:
    """Each thing that is missing once, whoever found it and how often: lanes first, then the stream."""
    once = set(gaps)
    return [
        *sorted(gap for gap in once if isinstance(gap, LaneGap)),
        *sorted(gap for gap in once if isinstance(gap, LostPosition)),
        *join_sequences(gap for gap in once if isinstance(gap, SequenceGap)),
    ]


def describe_gaps(stream: str, gaps: Iterable[Gap], *, unread: int = 0) -> tuple[str, ...]:
    """A sentence for each; beyond a hundred, and for `unread` ones that were not even loaded, only their number."""
    sentences = [_describe(stream, gap) for gap in gaps]
    more = max(0, len(sentences) - MOST_SENTENCES) + unread
    return (*sentences[:MOST_SENTENCES], f"and {more} more") if more else tuple(sentences)


def _describe(stream: str, gap: Gap) -> str:
    match gap:
        case LaneGap(partition, lane, first, last, readings) if last < first:
            return f"lane {lane} counts {readings} readings too many before block {first} in partition {partition}"
        case LaneGap(partition, lane, first, last, readings) if first == last:
            return f"lane {lane} block {first} ({readings} readings) is missing in partition {partition}"
        case LaneGap(partition, lane, first, last, readings):
            return f"lane {lane} blocks {first} to {last} ({readings} readings) are missing in partition {partition}"
        case SequenceGap(first, last) if first == last:
            return f"sequence {first} of stream {stream} was deleted"
        case SequenceGap(first, last):
            return f"sequences {first} to {last} of stream {stream} were deleted"
        case LostPosition(partition, position):
            return f"stream {stream} ends below sequence {position}, to which partition {partition} was handled already"
