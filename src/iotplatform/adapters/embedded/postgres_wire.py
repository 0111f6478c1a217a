"""As much of PostgreSQL's protocol as it takes to ask whether a database answers, and to create one.

The driver has its home elsewhere, and adapters are independent.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from pathlib import Path
from typing import Final

_PROTOCOL_3: Final = 196608
_READY: Final = b"Z"
_ERROR: Final = b"E"
_TERMINATE: Final = b"X\0\0\0\x04"


class PostgresError(Exception):
    """The server refused. `code` is the SQLSTATE."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code


async def connect_and_run(socket: Path, user: str, database: str, statement: str | None = None) -> None:
    """Log in without a password, run one statement if there is one, and leave.

    Raises:
        PostgresError: the server said no.
        OSError, EOFError: it did not say anything.
    """
    reader, writer = await asyncio.open_unix_connection(socket)
    try:
        parameters = "".join(
            f"{text}\0" for text in ("user", user, "database", database, "application_name", "iotplatform-supervisor")
        )
        body = struct.pack("!i", _PROTOCOL_3) + parameters.encode() + b"\0"
        writer.write(struct.pack("!i", len(body) + 4) + body)
        await _until_ready(reader)
        if statement is not None:
            body = statement.encode() + b"\0"
            writer.write(b"Q" + struct.pack("!i", len(body) + 4) + body)
            await _until_ready(reader)
        writer.write(_TERMINATE)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _until_ready(reader: asyncio.StreamReader) -> None:
    refused: PostgresError | None = None
    while True:
        kind = await reader.read(1)
        if not kind:
            break
        (length,) = struct.unpack("!i", await reader.readexactly(4))
        body = await reader.readexactly(length - 4)
        if kind == _ERROR:
            fields = {part[:1]: part[1:].decode(errors="replace") for part in body.split(b"\0") if part}
            refused = PostgresError(fields.get(b"C", ""), fields.get(b"M", ""))
        if kind == _READY:
            break
    # A refused login is followed by the end, a refused statement by "ready".
    if refused is not None:
        raise refused
    if kind != _READY:
        raise EOFError("closed without an answer")
