"""The file: a plain tar of gzipped lines of JSON, and at its end the manifest, which names every member before it.

Nothing of a file is believed. Members are read here, block by block, rather than by `tarfile`, which follows links and
holds headers of any size; whoever reads lines gets no longer ones than are ever written, and no more than were said.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Annotated, Final, Self

import msgspec

from iotplatform.adapters.embedded.directory import sync_directory
from iotplatform.errors import ConfigError

MANIFEST: Final = "manifest.json"
FORMAT: Final = 1
MEMBER: Final = re.compile(r"(?:[a-z_]{1,40}|readings/[0-9]{5})\.ndjson\.gz")
MOST_MEMBERS: Final = 100_000
MOST_MANIFEST_BYTES: Final = 64 << 20
# The audit of a large rule pack: what it was, and what it became.
MOST_LINE_BYTES: Final = 8 << 20
_BLOCK: Final = 512
_CHUNK: Final = 1 << 20

Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 53))]


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: str
    lines: Count
    bytes: Count
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`left_out`: how many things of each kind are not in the file, because they open doors."""

    format: int
    version: str
    created_at: str
    organization_id: str
    readings: Count
    left_out: dict[str, Count]
    members: list[Member]


class _Head(msgspec.Struct, frozen=True):
    format: int
    version: str = "unknown"


class ArchiveWriter:
    """Writes beside its target, readable by its owner only, and takes the name when all of it is on the disk."""

    def __init__(self, target: Path) -> None:
        if os.path.lexists(target):
            raise ConfigError(f"{target} exists: name a new one, since an export overwrites nothing")
        if not target.parent.is_dir():
            raise ConfigError(f"{target.parent} is no folder: make it first")
        self._target = target
        self._draft = target.with_name(f".{target.name}.{os.getpid()}")
        self.members: list[Member] = []

    def __enter__(self) -> Self:
        try:
            descriptor = os.open(self._draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise self._unwritten(error) from error
        self._file = os.fdopen(descriptor, "wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        self._draft.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> ConfigError:
        return ConfigError(f"{self._target}: can't be written: {error.strerror or error}")

    @contextlib.contextmanager
    def lines(self, path: str) -> Iterator[LineWriter]:
        """A member, line by line. It lies in a file of its own until its size is known."""
        with tempfile.TemporaryFile(dir=self._target.parent) as part:
            writer = LineWriter(part)
            yield writer
            writer.close()
            size = part.tell()
            part.seek(0)
            digest = hashlib.sha256()
            while chunk := part.read(_CHUNK):
                digest.update(chunk)
            part.seek(0)
            self._tar.addfile(_named(path, size), part)
            self.members.append(Member(path, writer.count, size, digest.hexdigest()))

    def finish(self, manifest: Manifest) -> None:
        text = msgspec.json.format(msgspec.json.encode(manifest))
        self._tar.addfile(_named(MANIFEST, len(text)), io.BytesIO(text))
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        if os.path.lexists(self._target):
            raise ConfigError(f"{self._target} has come into being meanwhile: name a new one")
        self._draft.rename(self._target)
        sync_directory(self._target.parent)


class LineWriter:
    def __init__(self, file: IO[bytes]) -> None:
        # Without a time and a name: the same rows make the same bytes.
        self._gzip = gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=3, mtime=0)
        self.count = 0

    def write(self, lines: list[bytes]) -> None:
        if lines:
            self._gzip.write(b"\n".join(lines) + b"\n")
            self.count += len(lines)

    def close(self) -> None:
        self._gzip.close()


def _named(path: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path)
    member.size = size
    member.mode = 0o600
    return member


class Archive:
    """A file that was exported, or says so.

    Raises:
        ConfigError: it is none, damaged, or of a format that this version doesn't know.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, tuple[int, int]] = {}
        try:
            self._file = path.open("rb")
            try:
                self._find()
                text = self._manifest_text()
                self.manifest = self._read_manifest(text)
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror or error}") from error
        self.checksum = hashlib.sha256(text).hexdigest()

    def close(self) -> None:
        self._file.close()

    def wrong(self, what: str) -> ConfigError:
        return ConfigError(f"{self._path}: {what}")

    def _find(self) -> None:
        """Where each member begins, and how long it is."""
        size = os.fstat(self._file.fileno()).st_size
        while len(header := self._file.read(_BLOCK)) == _BLOCK and header.strip(b"\0"):
            try:
                info = tarfile.TarInfo.frombuf(header, "ascii", "strict")
            except (tarfile.HeaderError, UnicodeDecodeError) as error:
                raise self.wrong(f"is no export of iotplatform: {error}") from error
            if info.type not in {tarfile.REGTYPE, tarfile.AREGTYPE}:
                raise self.wrong(f"{info.name!r} is no plain file: it has been tampered with")
            if info.name != MANIFEST and not MEMBER.fullmatch(info.name):
                raise self.wrong(f"{info.name!r} is nothing that an export holds: it has been tampered with")
            if info.name in self._places:
                raise self.wrong(f"holds {info.name!r} twice: it has been tampered with")
            start = self._file.tell()
            if not 0 <= info.size <= size - start:
                raise self.wrong(f"is cut short: {info.name!r} is not all there")
            if len(self._places) == MOST_MEMBERS:
                raise self.wrong("holds more members than an export ever does")
            self._places[info.name] = (start, info.size)
            self._file.seek(start + -(-info.size // _BLOCK) * _BLOCK)

    def _manifest_text(self) -> bytes:
        if MANIFEST not in self._places:
            raise self.wrong(f"is no export of iotplatform, or cut short: it does not end with {MANIFEST}")
        start, size = self._places.pop(MANIFEST)
        if size > MOST_MANIFEST_BYTES:
            raise self.wrong(f"its {MANIFEST} is too large to be one")
        self._file.seek(start)
        return self._file.read(size)

    def _read_manifest(self, text: bytes) -> Manifest:
        try:
            head = msgspec.json.decode(text, type=_Head)
            if head.format != FORMAT:
                raise self.wrong(
                    f"is an export of format {head.format}, made by iotplatform {head.version}; this version reads"
                    f" format {FORMAT}: import it with the version that made it, or a later one"
                )
            manifest = msgspec.json.decode(text, type=Manifest)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self.wrong(f"is no export of iotplatform: its {MANIFEST} can't be read: {error}") from error
        names = [member.path for member in manifest.members]
        if len(set(names)) != len(names) or set(names) != set(self._places):
            raise self.wrong("does not hold what its manifest says: it is damaged, or has been tampered with")
        for member in manifest.members:
            if self._places[member.path][1] != member.bytes:
                raise self.wrong(f"{member.path}: is not as long as the manifest says: it is damaged")
        return manifest

    def check(self, member: Member) -> None:
        """Compare its checksum.

        Raises:
            ConfigError: it is another one.
        """
        start, left = self._places[member.path]
        self._file.seek(start)
        digest = hashlib.sha256()
        while left and (chunk := self._file.read(min(left, _CHUNK))):
            digest.update(chunk)
            left -= len(chunk)
        if left or digest.hexdigest() != member.sha256:
            raise self.wrong(f"{member.path}: is not what the manifest says: it is damaged")

    def lines(self, member: Member) -> Iterator[bytes]:
        """Its lines, without their ends.

        Raises:
            ConfigError: it holds more or fewer than were said, a longer one than is ever written, or is no gzip.
        """
        start, size = self._places[member.path]
        count = 0
        try:
            with gzip.GzipFile(fileobj=_Window(self._file, start, size), mode="rb") as reader:
                while line := reader.readline(MOST_LINE_BYTES + 1):
                    count += 1
                    if len(line) > MOST_LINE_BYTES or not line.endswith(b"\n"):
                        raise self.wrong(f"{member.path}: line {count} is too long, or not whole")
                    if count > member.lines:
                        raise self.wrong(f"{member.path}: holds more lines than the manifest says")
                    yield line[:-1]
        except (OSError, EOFError, zlib.error) as error:
            raise self.wrong(f"{member.path}: can't be read: {error}") from error
        if count != member.lines:
            raise self.wrong(f"{member.path}: holds {count} lines, and {member.lines} by the manifest")


class _Window(io.RawIOBase):
    """A part of a file, as a file. Each read says where, so that several may be open."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self._descriptor = file.fileno()
        self._at, self._end = start, start + size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        chunk = os.pread(self._descriptor, min(len(buffer), self._end - self._at), self._at)
        buffer[: len(chunk)] = chunk
        self._at += len(chunk)
        return len(chunk)
