"""What the servers print: one file each, bounded."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

LONGEST_LOG: Final = 10 * 1024 * 1024
_TAIL: Final = 4096


def keep_bounded(log: Path) -> None:
    """Begin a long file anew; what it held goes to `<name>.1`.

    The server may hold it open: it appends, so it goes on at the beginning of the emptied file.
    """
    if log.exists() and log.stat().st_size > LONGEST_LOG:
        shutil.copyfile(log, log.with_name(f"{log.name}.1"))
        os.truncate(log, 0)


def open_log(log: Path) -> int:
    """A descriptor to give to the server. It appends."""
    keep_bounded(log)
    return os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def last_words(log: Path) -> str:
    """Its last line, for a message."""
    try:
        with log.open("rb") as reader:
            reader.seek(max(0, log.stat().st_size - _TAIL))
            lines = reader.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1].strip() if lines else ""
