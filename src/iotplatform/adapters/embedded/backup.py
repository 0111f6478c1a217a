"""A data directory as a backup, in a folder or in one tar file: the manifest first, then what it names."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import msgspec

from iotplatform.adapters.embedded.directory import DRAFT, DataDirectory, sync_directory
from iotplatform.adapters.embedded.manifest import (
    CONFIG,
    KEPT,
    MOST_BYTES,
    NAME,
    File,
    Manifest,
    chunks,
    contents,
    look_at,
    read_manifest,
)
from iotplatform.errors import ConfigError

# Kept free beside what is written.
SPARE_BYTES: Final = 64 << 20


def is_tar(target: Path) -> bool:
    return target.suffix == ".tar"


def take(data: DataDirectory, target: Path, about: Manifest, config: Path | None = None) -> Manifest:
    """Write everything that lasts to `target`, readable by its owner only, and never half of it under its name.

    `about` is a manifest without files. No server may be running on the directory.

    Raises:
        ConfigError: there is something at the target, it lies inside, or there is no room.
    """
    if os.path.lexists(target):
        raise ConfigError(f"{target} exists: name a new one, since a backup overwrites nothing")
    if not target.parent.is_dir():
        raise ConfigError(f"{target.parent} is no folder: make it first")
    if target.parent.resolve().is_relative_to(data.path.resolve()):
        raise ConfigError(f"{target} lies in the data directory itself: name another place")
    directories, files = contents(data, config)
    manifest = msgspec.structs.replace(
        about, directories=directories, files=[look_at(name, path) for name, path in files.items()]
    )
    _check_room(target.parent, manifest.bytes)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    text = msgspec.json.format(msgspec.json.encode(manifest))
    try:
        if is_tar(target):
            _write_tar(draft, text, manifest, files)
        else:
            _write_folder(draft, text, manifest, files)
        os.sync()
        draft.rename(target)
        sync_directory(target.parent)
    except BaseException:
        _remove(draft)
        raise
    return manifest


def _check_room(where: Path, wanted: int) -> None:
    free = shutil.disk_usage(where).free
    if wanted + SPARE_BYTES > free:
        raise ConfigError(
            f"{where}: has room for {free >> 20} MiB, and {(wanted + SPARE_BYTES) >> 20} MiB are needed: make room, or"
            " name another place"
        )


def _write_tar(draft: Path, text: bytes, manifest: Manifest, files: dict[str, Path]) -> None:
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(_member(NAME, len(text)), io.BytesIO(text))
        for entry in manifest.files:
            with files[entry.path].open("rb") as reader:
                tar.addfile(_member(entry.path, entry.bytes), reader)


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o600
    return member


def _write_folder(draft: Path, text: bytes, manifest: Manifest, files: dict[str, Path]) -> None:
    draft.mkdir(mode=0o700)
    for directory in manifest.directories:
        (draft / directory).mkdir(mode=0o700)
    for entry in manifest.files:
        with files[entry.path].open("rb") as reader:
            _copy(reader, draft / entry.path, entry)
    with _private(draft / NAME) as writer:
        writer.write(text)


def _private(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb")


def _copy(reader: IO[bytes], to: Path, entry: File) -> None:
    digest, size = hashlib.sha256(), 0
    with _private(to) as writer:
        for chunk in chunks(reader):
            size += len(chunk)
            if size > entry.bytes:
                break
            digest.update(chunk)
            writer.write(chunk)
    if size != entry.bytes or digest.hexdigest() != entry.sha256:
        raise ConfigError(f"{entry.path}: is not what the manifest says: the backup is damaged")


@contextlib.contextmanager
def opened(source: Path) -> Iterator[tuple[Manifest, Iterator[tuple[str, IO[bytes]]]]]:
    """A backup: its manifest, and then its files one after the other, each to be read before the next one.

    Raises:
        ConfigError: it is none.
    """
    try:
        if source.is_dir():
            with (source / NAME).open("rb") as reader:
                manifest = read_manifest(_bounded(reader, source), str(source))
            yield manifest, _from_folder(source, manifest)
        else:
            with tarfile.open(source, mode="r:") as tar:
                first = tar.next()
                if first is None or first.name != NAME:
                    raise ConfigError(f"{source}: is no backup of iotplatform: it does not begin with {NAME}")
                manifest = read_manifest(_bounded(_content(tar, first, source), source), str(source))
                yield manifest, _from_tar(source, tar)
    except tarfile.TarError as error:
        raise ConfigError(f"{source}: is no backup of iotplatform, or was cut short: {error}") from error
    except OSError as error:
        raise ConfigError(f"{error.filename or source}: {error.strerror or error}") from error


def _bounded(reader: IO[bytes], source: Path) -> bytes:
    text = reader.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise ConfigError(f"{source}: its {NAME} is too large to be one")
    return text


def _from_folder(source: Path, manifest: Manifest) -> Iterator[tuple[str, IO[bytes]]]:
    for entry in manifest.files:
        with os.fdopen(os.open(source / entry.path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as reader:
            yield entry.path, reader


def _from_tar(source: Path, tar: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes]]]:
    while (member := tar.next()) is not None:
        yield member.name, _content(tar, member, source)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, source: Path) -> IO[bytes]:
    # A link would be followed, and a device opened.
    reader = tar.extractfile(member) if member.type in {tarfile.REGTYPE, tarfile.AREGTYPE} else None
    if reader is None:
        raise ConfigError(f"{source}: {member.name!r} is no plain file: it has been tampered with")
    return reader


def put_back(data: DataDirectory, manifest: Manifest, files: Iterator[tuple[str, IO[bytes]]]) -> None:
    """Fill an empty data directory. What is in it afterwards is all of the backup, or nothing.

    Raises:
        ConfigError: the backup is damaged or incomplete, or there is no room.
    """
    _check_room(data.path, manifest.bytes)
    draft = data.path / DRAFT
    draft.mkdir(mode=0o700)
    sync_directory(data.path)
    try:
        _fill(draft, manifest, files)
    except BaseException:
        _remove(draft)
        raise
    os.sync()
    for kept in (*KEPT, CONFIG):
        if (draft / kept).exists():
            place = data.path / kept
            if place.is_dir():
                place.rmdir()
            (draft / kept).rename(place)
    draft.rmdir()
    sync_directory(data.path)


def _fill(draft: Path, manifest: Manifest, files: Iterator[tuple[str, IO[bytes]]]) -> None:
    for directory in sorted(manifest.directories):
        (draft / directory).mkdir(mode=0o700)
    missing = {entry.path: entry for entry in manifest.files}
    for name, reader in files:
        entry = missing.pop(name, None)
        if entry is None:
            raise ConfigError(f"the backup holds {name!r}, which is not in its manifest: it has been tampered with")
        _copy(reader, draft / entry.path, entry)
    if missing:
        raise ConfigError(f"the backup lacks {min(missing)!r} and {len(missing) - 1} more files: it is not complete")


def _remove(draft: Path) -> None:
    if draft.is_dir():
        shutil.rmtree(draft, ignore_errors=True)
    else:
        draft.unlink(missing_ok=True)
