"""Log lines: one JSON object a line, or a console format for people; the rate of every action is bounded."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from iotplatform.observability.instruments import QueueState
from iotplatform.observability.log_level import Level, LogLevel
from iotplatform.observability.log_writer import MAX_LINES, LineWriter
from iotplatform.observability.metrics import Metrics
from iotplatform.observability.secrecy import hide_secrets

LINES_PER_SECOND: Final = 50
BURST: Final = 200

Format = Literal["json", "console"]


class RateLimit:
    """A token bucket for each action. What it drops is counted, and the next line of that action says how many."""

    def __init__(self, metrics: Metrics, now: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._now = now
        self._buckets: dict[str, tuple[float, float]] = {}
        self._left_out: dict[str, int] = {}

    def __call__(self, _: WrappedLogger, method: str, event: EventDict) -> EventDict:
        if method in {"error", "critical", "exception"}:
            return event
        action = str(event.get("event", ""))
        now = self._now()
        tokens, at = self._buckets.get(action, (float(BURST), now))
        tokens = min(float(BURST), tokens + (now - at) * LINES_PER_SECOND)
        if tokens < 1:
            self._buckets[action] = (tokens, now)
            self._left_out[action] = self._left_out.get(action, 0) + 1
            self._metrics.log_lines_left_out.add(1, action)
            raise structlog.DropEvent
        self._buckets[action] = (tokens - 1, now)
        if left_out := self._left_out.pop(action, 0):
            event["left_out"] = left_out
        return event


def _shape(_: WrappedLogger, method: str, event: EventDict) -> EventDict:
    now = time.time()
    shaped: EventDict = {
        "ts": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1e6):06d}Z",
        "level": "error" if method == "exception" else method,
        "role": event.pop("role", "app"),
        "action": event.pop("event", ""),
    }
    shaped.update(event)
    return shaped


def _render_json(_: WrappedLogger, __: str, event: EventDict) -> bytes:
    try:
        return hide_secrets(msgspec.json.encode(event, enc_hook=str))
    except (ValueError, OverflowError, TypeError, RecursionError):
        # Text that is no Unicode, a number beyond 64 bits: a log line must never be what fails.
        return hide_secrets(json.dumps({key: str(value) for key, value in event.items()}).encode())


class _Console:
    """For people. `coloured`: a terminal reads along, and nobody has said NO_COLOR."""

    _COLOURS: Final = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m", "debug": "\x1b[2m"}

    def __init__(self, *, coloured: bool) -> None:
        self._colours = self._COLOURS if coloured else {}

    def __call__(self, _: WrappedLogger, __: str, event: EventDict) -> bytes:
        ts, level, role, action = (str(event.pop(key)) for key in ("ts", "level", "role", "action"))
        blocks = [event.pop(name, None) for name in ("mail", "exception")]
        fields = " ".join(f"{key}={_shown(value)}" for key, value in event.items() if value is not None)
        line = f"{ts[11:23]} {level:<7} {role:<12} {action:<24} {fields}".rstrip()
        if colour := self._colours.get(level):
            line = f"{colour}{line}\x1b[0m"
        for block in blocks:
            if block:
                line += "\n" + "\n".join(f"    {_printable(part)}" for part in str(block).splitlines())
        return hide_secrets(line.encode("utf-8", "backslashreplace"))


def _shown(value: object) -> str:
    """What holds blanks is in quotes, so that it can be told where it ends."""
    text = _printable(str(value))
    return f'"{text}"' if isinstance(value, str) and (not text or " " in text) else text


def _printable(text: str) -> str:
    """A terminal obeys control characters, whoever has sent them."""
    return text if text.isprintable() else "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


class _ForeignRecords(logging.Handler):
    """Lets what libraries log by the standard library come out in our shape."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        try:
            detail = record.getMessage()
        except (TypeError, ValueError):  # the library's own mistake
            detail = str(record.msg)
        fields: dict[str, Any] = {"logger": record.name, "detail": detail}
        if record.exc_info and record.exc_info[0] is not None:
            fields["exc_info"] = record.exc_info
        log.log(min(record.levelno, logging.ERROR), "library.log", **fields)


def _is_coloured(out: TextIO) -> bool:
    return out.isatty() and not os.environ.get("NO_COLOR")


def configure_quiet() -> None:
    """For commands that answer on standard output: warnings and errors only, for people, on standard error."""
    structlog.configure(
        processors=[structlog.processors.format_exc_info, _shape, _Console(coloured=_is_coloured(sys.stderr))],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.BytesLoggerFactory(file=sys.stderr.buffer),
    )


class Logging(NamedTuple):
    """`writer` is to be closed at the end, so that the last lines get out."""

    writer: LineWriter
    level: LogLevel


def configure(metrics: Metrics, *, format_: Format | None, level: Level) -> Logging:
    """Set up logging for the process; `format_` None means console on a terminal, else JSON."""
    writer = LineWriter(sys.stdout.buffer, lambda: metrics.log_lines_left_out.add(1, "unread"))
    metrics.watch_queue("log_lines", lambda: QueueState(writer.waiting, MAX_LINES))
    chosen = format_ or ("console" if sys.stdout.isatty() else "json")
    log_level = LogLevel(level)
    processors: list[Processor] = [
        log_level,
        RateLimit(metrics),
        structlog.contextvars.merge_contextvars,
        structlog.processors.format_exc_info,
        _shape,
        _render_json if chosen == "json" else _Console(coloured=_is_coloured(sys.stdout)),
    ]
    structlog.configure(
        processors=processors,
        # The level is looked at by each line: loggers that exist follow when it changes.
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_ForeignRecords()], level=logging.WARNING, force=True)
    logging.captureWarnings(capture=True)
    return Logging(writer, log_level)
