"""What a backup says of itself: who made it, and every file that is in it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Final

import msgspec

from iotplatform.adapters.embedded.directory import DataDirectory
from iotplatform.errors import ConfigError

NAME: Final = "manifest.json"
FORMAT: Final = 1
# What a data directory holds that a start does not make anew.
KEPT: Final = ("nats", "postgres", "redis", "secrets")
CONFIG: Final = "config.toml"
# Written at every start, for the place and the process of that start.
_OF_ONE_START: Final = frozenset(
    {
        "nats/nats-server.conf",
        "nats/nats-server.conf.new",
        "redis/redis.conf",
        "redis/redis.conf.new",
        "postgres/cluster/postmaster.pid",
        "postgres/cluster/postmaster.opts",
    }
)
# More than a million files.
MOST_BYTES: Final = 256 << 20
CHUNK: Final = 1 << 20


class File(msgspec.Struct, frozen=True):
    path: str
    bytes: Annotated[int, msgspec.Meta(ge=0, le=(1 << 62))]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`servers` are the versions that wrote the files, `schema` the newest migration that the program knew."""

    format: int
    version: str
    schema: str
    created_at: str
    servers: dict[str, str]
    directories: list[str]
    files: list[File]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


class _Head(msgspec.Struct, frozen=True):
    format: int
    version: str = "unknown"


def read_manifest(text: bytes, where: str) -> Manifest:
    """What a backup says of itself, none of it leading out of a data directory.

    Raises:
        ConfigError: it is none, of a format that this version doesn't know, or forged.
    """
    try:
        head = msgspec.json.decode(text, type=_Head)
        if head.format != FORMAT:
            raise ConfigError(
                f"{where}: is a backup of format {head.format}, made by iotplatform {head.version}; this version reads"
                f" format {FORMAT}: restore with the version that made it"
            )
        manifest = msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: is no backup of iotplatform: its {NAME} can't be read: {error}") from error
    names = [*manifest.directories, *(file.path for file in manifest.files)]
    for name in names:
        if not _stays_inside(name):
            raise ConfigError(
                f"{where}: names {name!r}, which is no place in a data directory: it has been tampered with"
            )
    if len(set(names)) != len(names):
        raise ConfigError(f"{where}: names a file twice: it has been tampered with")
    return manifest


def _stays_inside(name: str) -> bool:
    parts = name.split("/")
    if "\0" in name or "\\" in name or any(part in {"", ".", ".."} for part in parts):
        return False
    return parts[0] in KEPT or name == CONFIG


def contents(data: DataDirectory, config: Path | None) -> tuple[list[str], dict[str, Path]]:
    """The directories, from the top down, and the files with where they are.

    Raises:
        ConfigError: there is something in it that is neither.
    """
    directories: list[str] = []
    files: dict[str, Path] = {}
    for kept in KEPT:
        for folder, names, leaves in os.walk(data.path / kept, onerror=_raise):
            place = Path(folder)
            directories.append(place.relative_to(data.path).as_posix())
            for name in (*names, *leaves):
                path = place / name
                relative = path.relative_to(data.path).as_posix()
                mode = path.lstat().st_mode
                if stat.S_ISREG(mode):
                    if relative not in _OF_ONE_START:
                        files[relative] = path
                elif not stat.S_ISDIR(mode):
                    raise ConfigError(f"{path}: is neither a file nor a folder, and can't be backed up: remove it")
    if config is not None:
        files[CONFIG] = config
    return directories, files


def _raise(error: OSError) -> None:
    raise error


def chunks(reader: IO[bytes]) -> Iterator[bytes]:
    while chunk := reader.read(CHUNK):
        yield chunk


def look_at(name: str, path: Path) -> File:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as reader:
        for chunk in chunks(reader):
            digest.update(chunk)
            size += len(chunk)
    return File(name, size, digest.hexdigest())
