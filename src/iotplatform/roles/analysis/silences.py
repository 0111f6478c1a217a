"""When which series may have been silent for long enough: of one partition, for its rules about silence."""

from __future__ import annotations

import heapq

Silence = tuple[bytes, str]


class Silences:
    """A series and a rule have one entry at most, at the earliest time at which they can be due.

    It is not moved with every reading: whoever takes it sees in the state when the series was last heard of, and puts
    it back where it belongs.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, bytes, str]] = []
        self._known: set[Silence] = set()

    def __contains__(self, silence: Silence) -> bool:
        return silence in self._known

    def __len__(self) -> int:
        return len(self._known)

    def put(self, key: bytes, rule_id: str, due_at: int) -> None:
        if (key, rule_id) not in self._known:
            self._known.add((key, rule_id))
            heapq.heappush(self._heap, (due_at, key, rule_id))

    def has_due(self, now: int) -> bool:
        return bool(self._heap) and self._heap[0][0] <= now

    def due(self, now: int) -> list[Silence]:
        """Those up to `now`, which stay."""
        return [(key, rule_id) for due_at, key, rule_id in _up_to(self._heap, now)]

    def take(self, now: int) -> list[Silence]:
        """Those up to `now`, earliest first; they are no longer here."""
        taken: list[Silence] = []
        while self._heap and self._heap[0][0] <= now:
            _, key, rule_id = heapq.heappop(self._heap)
            self._known.discard((key, rule_id))
            taken.append((key, rule_id))
        return taken


def _up_to(heap: list[tuple[int, bytes, str]], now: int) -> list[tuple[int, bytes, str]]:
    """A heap's entries up to `now`, without looking at those behind."""
    found: list[tuple[int, bytes, str]] = []
    places = [0]
    while places:
        place = places.pop()
        if place < len(heap) and heap[place][0] <= now:
            found.append(heap[place])
            places += (2 * place + 1, 2 * place + 2)
    return found
