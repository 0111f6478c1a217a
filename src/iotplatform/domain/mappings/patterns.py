"""Patterns of topics and of paths inside payloads, and templates that are filled with what they caught.

A topic has levels between slashes: a word stands for itself, `+` for any one level, `{name}` for one level that is
caught, `{name*}` for one or more, `#` at the end for whatever follows. A path has dots: `*` is any one part, `**` one
or more, and what they stand for is caught as `{1}`, `{2}` in their order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Final

MAX_PATTERN: Final = 512
# Of a topic, below `iot/{org}/{gateway}`: more than any fleet has.
MAX_LEVELS: Final = 32
_level = re.compile(r"\{([a-z][a-z0-9_]{0,31})(\*?)\}")
_slot = re.compile(r"\{([a-z0-9_]+)\}")


class WrongPattern(ValueError):
    """The message is a sentence for the one who wrote the pattern."""


class _Row:
    """Parts in a row: words that must stand where they do, and places for any one part, whose texts are not empty."""

    __slots__ = ("_texts", "_words", "_words_at", "length", "places")

    def __init__(self, parts: Sequence[str | None]) -> None:
        self.length = len(parts)
        self.places = [at for at, part in enumerate(parts) if part is None]
        words = [(at, part) for at, part in enumerate(parts) if part is not None]
        # With two indexes or more it gives a tuple: an index twice changes nothing.
        self._words_at = itemgetter(*(2 * [at for at, _ in words])) if words else None
        self._words = tuple(2 * [part for _, part in words])
        self._texts = itemgetter(*(2 * self.places)) if self.places else None

    def fits(self, parts: Sequence[str]) -> bool:
        """Whether these parts, as many as there are in the row, are what it says."""
        if self._words_at is not None and self._words_at(parts) != self._words:
            return False
        return self._texts is None or all(self._texts(parts))


class _Pattern:
    """A row, and perhaps any number of parts (one at the least) between it and a second row.

    No regular expression: with some of those, a text could be made on which they take seconds. This takes one look at
    each part, and with `open_end`, one at each place where the second row could stand.
    """

    __slots__ = ("_before", "_behind", "_open_end", "_separator")

    def __init__(
        self, before: Sequence[str | None], behind: Sequence[str | None] | None, separator: str, *, open_end: bool
    ) -> None:
        self._before = _Row(before)
        self._behind = None if behind is None else _Row(behind)
        self._separator = separator
        self._open_end = open_end

    def caught(self, parts: Sequence[str]) -> list[str] | None:
        """What its places stand for, in their order; None when it does not fit."""
        before, behind = self._before, self._behind
        length = before.length
        if behind is None:
            if len(parts) < length or (len(parts) > length and not self._open_end):
                return None
            head = parts[:length]
            return [head[at] for at in before.places] if before.fits(head) else None
        last = len(parts) - behind.length
        if last <= length or not before.fits(parts[:length]):
            return None
        # The more it can stand for, the more it does.
        for end in range(last, length if self._open_end else last - 1, -1):
            tail = parts[end : end + behind.length]
            between = self._separator.join(parts[length:end])
            if between and behind.fits(tail):
                return [*(parts[at] for at in before.places), between, *(tail[at] for at in behind.places)]
        return None


class TopicPattern:
    """A pattern of topics, see `compile_topic`."""

    __slots__ = ("_names", "_pattern")

    def __init__(self, pattern: _Pattern, names: Sequence[str | None]) -> None:
        self._pattern = pattern
        # Of its places, in their order; None for what is not caught.
        self._names = names

    def caught(self, levels: Sequence[str]) -> dict[str, str] | None:
        """What the names stand for; None when it does not fit."""
        found = self._pattern.caught(levels)
        if found is None:
            return None
        return {name: text for name, text in zip(self._names, found, strict=True) if name is not None}


class PathPattern:
    """A pattern of paths, see `compile_path`. `groups`: how many places it has."""

    __slots__ = ("_pattern", "groups")

    def __init__(self, pattern: _Pattern, groups: int) -> None:
        self._pattern = pattern
        self.groups = groups

    def caught(self, parts: Sequence[str]) -> list[str] | None:
        """What its places stand for, in their order; None when it does not fit."""
        return self._pattern.caught(parts)


def compile_topic(pattern: str) -> TopicPattern:
    """Raises:
    WrongPattern: it is none.
    """
    levels = _parts(pattern, "/")
    if len(levels) > MAX_LEVELS:
        raise WrongPattern(f"must have at most {MAX_LEVELS} levels")
    open_end = levels[-1] == "#"
    names: list[str | None] = []
    rows: list[list[str | None]] = [[]]
    for level in levels[:-1] if open_end else levels:
        caught = _level.fullmatch(level)
        if caught and caught[1] in names:
            raise WrongPattern(f"catches {caught[1]!r} twice")
        if caught and caught[2]:
            rows.append([])
        elif caught or level == "+":
            rows[-1].append(None)
        elif any(character in level for character in "+#{}"):
            raise WrongPattern("has a level that is neither a word nor +, {name}, {name*}, or # at the end")
        else:
            rows[-1].append(level)
            continue
        names.append(caught[1] if caught else None)
    if len(rows) > 2:
        raise WrongPattern("catches several levels more than once")
    return TopicPattern(_made(rows, "/", open_end=open_end), names)


def compile_path(pattern: str) -> PathPattern:
    """Raises:
    WrongPattern: it is none.
    """
    rows: list[list[str | None]] = [[]]
    groups = 0
    for part in _parts(pattern, "."):
        groups += part in {"*", "**"}
        if part == "**":
            rows.append([])
        elif part == "*":
            rows[-1].append(None)
        elif "*" in part:
            raise WrongPattern("has a part that is neither a word nor * nor **")
        else:
            rows[-1].append(part)
    if len(rows) > 2:
        raise WrongPattern("has ** more than once")
    return PathPattern(_made(rows, ".", open_end=False), groups)


def _made(rows: Sequence[Sequence[str | None]], separator: str, *, open_end: bool) -> _Pattern:
    return _Pattern(rows[0], rows[1] if len(rows) > 1 else None, separator, open_end=open_end)


def _parts(pattern: str, separator: str) -> list[str]:
    if not pattern:
        raise WrongPattern("must not be empty")
    if len(pattern) > MAX_PATTERN:
        raise WrongPattern(f"must be at most {MAX_PATTERN} characters")
    parts = pattern.split(separator)
    if not all(parts):
        raise WrongPattern(f"has nothing between two {separator!r}, or begins or ends with one")
    return parts


def names_caught(pattern: str) -> set[str]:
    """By a pattern of topics."""
    return {found[1] for level in pattern.split("/") if (found := _level.fullmatch(level))}


def slots_of(template: str) -> set[str]:
    """Raises:
    WrongPattern: it has braces that are no slot.
    """
    if "{" in _slot.sub("", template) or "}" in _slot.sub("", template):
        raise WrongPattern("has a brace that belongs to no {name}")
    return {found[1] for found in _slot.finditer(template)}


def fill(template: str, caught: Mapping[str, str]) -> str:
    """What has no slot of its own is left as it is."""
    return _slot.sub(lambda found: caught.get(found[1], found[0]), template) if "{" in template else template
