"""Values in the configuration files of nats-server and Redis."""

from __future__ import annotations

import os


def quoted(value: str | os.PathLike[str]) -> str:
    r"""The value in double quotes, for both grammars: they share `\xHH`, and neither expands anything in there."""
    text = "".join(
        chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else f"\\x{byte:02x}" for byte in os.fsencode(value)
    )
    return f'"{text}"'
