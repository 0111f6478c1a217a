"""Many globs and one name: which of them match, without trying each.

Every glob begins with some characters as they are, up to its first `*`, `?` or `[`. Globs are kept by that head, so a
name is tried with those alone whose head it begins with.
"""

from __future__ import annotations

import functools
import re
from fnmatch import translate
from typing import Final, Generic, TypeVar

Kept = TypeVar("Kept")

_special: Final = re.compile(r"[*?\[]")


@functools.lru_cache(maxsize=16_384)
def glob_pattern(glob: str) -> re.Pattern[str]:
    return re.compile(translate(glob))


class GlobIndex(Generic[Kept]):
    def __init__(self) -> None:
        # By the length of the head, then by the head: what is kept, and the rest of the glob as a pattern of the name;
        # None where the head alone decides.
        self._exact: dict[str, list[Kept]] = {}
        self._heads: dict[int, dict[str, list[tuple[Kept, re.Pattern[str] | None]]]] = {}

    def add(self, glob: str, kept: Kept) -> None:
        special = _special.search(glob)
        if special is None:
            self._exact.setdefault(glob, []).append(kept)
            return
        head = glob[: special.start()]
        pattern = None if glob[special.start() :] == "*" else glob_pattern(glob)
        self._heads.setdefault(len(head), {}).setdefault(head, []).append((kept, pattern))

    def find(self, name: str) -> list[Kept]:
        """In no particular order."""
        found = list(self._exact.get(name, ()))
        for length, heads in self._heads.items():
            if length <= len(name):
                found += [
                    kept
                    for kept, pattern in heads.get(name[:length], ())
                    if pattern is None or pattern.match(name) is not None
                ]
        return found
