"""The level of the log while the process runs: it is looked at by every line, whoever holds the logger."""

from __future__ import annotations

import logging
from typing import Final, Literal

import structlog
from structlog.typing import EventDict, WrappedLogger

Level = Literal["debug", "info", "warning", "error"]
LEVELS: Final[tuple[Level, ...]] = ("debug", "info", "warning", "error")

_NUMBERS: Final = {"exception": logging.ERROR, "critical": logging.CRITICAL} | {
    level: logging.getLevelNamesMapping()[level.upper()] for level in LEVELS
}


class LogLevel:
    """A processor, the first of all: what is below the level goes no further."""

    def __init__(self, configured: Level) -> None:
        self._configured = configured
        self.level: Level = configured
        self._number = _NUMBERS[configured]

    def __call__(self, _: WrappedLogger, method: str, event: EventDict) -> EventDict:
        if _NUMBERS.get(method, logging.INFO) < self._number:
            raise structlog.DropEvent
        return event

    def say_more(self) -> None:
        """One level further down, as far as `debug`."""
        self._set(LEVELS[max(0, LEVELS.index(self.level) - 1)])

    def reset(self) -> None:
        """Back to what the settings say."""
        self._set(self._configured)

    def _set(self, level: Level) -> None:
        # Said at a level that is shown before and after it.
        shown = max(level, self.level, key=LEVELS.index)
        self.level, self._number = level, _NUMBERS[level]
        say = structlog.get_logger()
        getattr(say, shown)("log.level_changed", log_level=level)
