"""Patterns of topics and of paths inside payloads, and templates that are filled with what they caught.

A topic has levels between slashes: a word stands for itself, `+` for any one level, `{name}` for one level that is
caught, `{name*}` for one or more, `#` at the end for whatever follows. A path has dots: `*` is any one part, `**` one
or more, and what they stand for is caught as `{1}`, `{2}` in their order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

MAX_PATTERN: Final = 512
_level = re.compile(r"\{([a-z][a-z0-9_]{0,31})(\*?)\}")
_slot = re.compile(r"\{([a-z0-9_]+)\}")


class WrongPattern(ValueError):
    """The message is a sentence for the one who wrote the pattern."""


def compile_topic(pattern: str) -> re.Pattern[str]:
    """Raises:
    WrongPattern: it is none.
    """
    levels = _parts(pattern, "/")
    if levels[-1] == "#":
        levels = levels[:-1]
        # The level above belongs to it, as it does in a subscription.
        rest = "(?:/.*)?" if levels else ".*"
    else:
        rest = ""
    names: set[str] = set()
    several = 0
    made = []
    for level in levels:
        caught = _level.fullmatch(level)
        if caught:
            if caught[1] in names:
                raise WrongPattern(f"catches {caught[1]!r} twice")
            names.add(caught[1])
            several += bool(caught[2])
            made.append(f"(?P<{caught[1]}>.+)" if caught[2] else f"(?P<{caught[1]}>[^/]+)")
        elif level == "+":
            made.append("[^/]+")
        elif any(character in level for character in "+#{}"):
            raise WrongPattern("has a level that is neither a word nor +, {name}, {name*}, or # at the end")
        else:
            made.append(re.escape(level))
    if several > 1:
        raise WrongPattern("catches several levels more than once")
    return re.compile("/".join(made) + rest, re.DOTALL)


def compile_path(pattern: str) -> re.Pattern[str]:
    """Raises:
    WrongPattern: it is none.
    """
    made = []
    several = 0
    for part in _parts(pattern, "."):
        if part == "**":
            several += 1
            made.append("(.+)")
        elif part == "*":
            made.append(r"([^.]+)")
        elif "*" in part:
            raise WrongPattern("has a part that is neither a word nor * nor **")
        else:
            made.append(re.escape(part))
    if several > 1:
        raise WrongPattern("has ** more than once")
    return re.compile(r"\.".join(made), re.DOTALL)


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
