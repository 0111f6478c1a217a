"""`runtime.json` in the data directory: where a running platform is. Its URLs hold credentials, so it is private."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final

import msgspec

from iotplatform.errors import ConfigError

NAME: Final = "runtime.json"


class RuntimeFile(msgspec.Struct, frozen=True):
    """URLs usable as settings of another process; None for what this process doesn't run or know.

    `certificate`: the file of the one that the HTTP ports show, by which clients on this machine can know them.
    """

    pid: Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]
    ingest: str | None = None
    management: str | None = None
    operations: str | None = None
    nats: str | None = None
    nats_monitor: str | None = None
    mqtt: str | None = None
    mqtt_websocket: str | None = None
    postgres: str | None = None
    redis: str | None = None
    certificate: str | None = None

    def write(self, data_dir: Path) -> None:
        draft = data_dir / f"{NAME}.new"
        # Made anew, so that one left behind with other permissions is not written on.
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(self)) + b"\n")
        draft.replace(data_dir / NAME)


def remove_runtime_file(data_dir: Path) -> None:
    (data_dir / NAME).unlink(missing_ok=True)


def read_runtime_file(data_dir: Path) -> RuntimeFile | None:
    """What a running platform has written; None when there is none, or one whose process is gone.

    Raises:
        ConfigError: the file is there and can't be read.
    """
    file = data_dir / NAME
    try:
        found = msgspec.json.decode(file.read_bytes(), type=RuntimeFile)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: can't be read: {error}") from error
    return found if _lives(found.pid) else None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
