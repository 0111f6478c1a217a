"""Writing log lines from a thread: a pipe that nobody reads must not stop the platform."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO, Final

MAX_LINES: Final = 10_000
FLUSH_S: Final = 2.0


class LineWriter:
    """A logger for structlog: takes whole lines, writes them in order, and leaves out what does not fit in memory."""

    def __init__(self, file: BinaryIO, on_left_out: Callable[[], None], max_lines: int = MAX_LINES) -> None:
        self._file = file
        self._on_left_out = on_left_out
        self._lines: queue.Queue[bytes | None] = queue.Queue(max_lines)
        self._thread = threading.Thread(target=self._write, name="log-writer", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        return self._lines.qsize()

    def msg(self, line: bytes) -> None:
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._on_left_out()

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg

    def close(self, deadline_s: float = FLUSH_S) -> None:
        """Write what is left, as far as somebody reads it in time."""
        with suppress(queue.Full):
            self._lines.put(None, timeout=deadline_s)
        self._thread.join(deadline_s)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._file.write(line + b"\n")
                if self._lines.empty():
                    self._file.flush()
            except (OSError, ValueError):
                # The reader is gone. There is nobody left to tell.
                continue
        with suppress(OSError, ValueError):
            self._file.flush()
