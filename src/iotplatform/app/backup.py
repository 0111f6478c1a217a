"""Backup and restore of a platform whose servers are embedded: all of them are stopped, so their files fit together."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from iotplatform import __version__
from iotplatform.adapters.embedded import DataDirectory, EmbeddedServers
from iotplatform.adapters.embedded.backup import opened, put_back, take
from iotplatform.adapters.embedded.manifest import FORMAT, KEPT, Manifest
from iotplatform.adapters.embedded.programs import find_postgres, versions
from iotplatform.adapters.postgres.migrations import is_known, newest
from iotplatform.app.settings import Settings
from iotplatform.errors import ConfigError

# What may stand in the settings, and then is nowhere in the data directory.
_ELSEWHERE: Final[tuple[tuple[str, Callable[[Settings], str | None]], ...]] = (
    ("secrets.key", lambda settings: settings.secrets.key),
    ("auth.signing_keys", lambda settings: settings.auth.signing_keys),
    ("nats.callout_seed", lambda settings: settings.nats.callout_seed),
    ("influx.url (the readings)", lambda settings: settings.influx.url),
)


async def back_up(settings: Settings, target: Path, config: Path | None) -> Manifest:
    """Write a backup of the data directory.

    Raises:
        ConfigError: it can't be backed up, or not now, or not there.
    """
    _check_embedded(settings)
    path = settings.data_path
    if not await asyncio.to_thread((path / "postgres" / "cluster").is_dir):
        raise ConfigError(f"{path} holds no platform: name its data directory with --data-dir")
    data = await _take(path, "a backup is taken of a platform that is stopped: stop it, and start it again afterwards")
    try:
        # One that was killed has left them running.
        await EmbeddedServers(data, settings.embedded_settings, nats=False, postgres=False, redis=False).start()
        return await asyncio.to_thread(_back_up, data, target, config)
    except OSError as error:
        raise ConfigError(f"{error.filename or target}: {error.strerror or error}") from error
    finally:
        await asyncio.to_thread(data.close)


def _back_up(data: DataDirectory, target: Path, config: Path | None) -> Manifest:
    cluster = (data.postgres / "cluster" / "PG_VERSION").read_text(encoding="ascii").strip()
    about = Manifest(
        format=FORMAT,
        version=__version__,
        schema=newest(),
        created_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        servers={**versions(), "postgres": cluster},
        directories=[],
        files=[],
    )
    return take(data, target, about, config)


async def restore(settings: Settings, source: Path) -> Manifest:
    """Fill the data directory, which must be empty, from a backup.

    Raises:
        ConfigError: the backup is none, damaged, or made by what is newer; or the directory is not empty.
    """
    _check_embedded(settings)
    path = settings.data_path
    existed = await asyncio.to_thread(path.is_dir)
    if await asyncio.to_thread(_is_occupied, path):
        raise ConfigError(f"{path} is not empty: a backup is only put into an empty folder; name one with --data-dir")
    return await asyncio.to_thread(_restore, path, source, existed=existed)


def _restore(path: Path, source: Path, *, existed: bool) -> Manifest:
    with opened(source) as (manifest, files):
        _check_versions(manifest, source)
        data = DataDirectory.open(path)
        try:
            put_back(data, manifest, files)
        except BaseException:
            data.close()
            _clear(path, existed=existed)
            raise
        data.close()
        return manifest


def left_out(settings: Settings) -> list[str]:
    """The settings whose values are not in a backup."""
    return [name for name, value in _ELSEWHERE if value(settings) is not None]


async def _take(path: Path, what_to_do: str) -> DataDirectory:
    try:
        return await asyncio.to_thread(DataDirectory.open, path)
    except ConfigError as error:
        if "is in use by" in str(error):
            raise ConfigError(f"{str(error).partition(': stop that one')[0]}: {what_to_do}") from error
        raise


def _check_embedded(settings: Settings) -> None:
    for name, server in (("nats", settings.nats), ("postgres", settings.postgres), ("redis", settings.redis)):
        if server.url is not None:
            raise ConfigError(
                f"{name}.url is set, so not all of the platform is in its data directory: back it up with"
                " the tools of that server"
            )


def _check_versions(manifest: Manifest, source: Path) -> None:
    if not is_known(manifest.schema):
        raise ConfigError(
            f"{source}: was made by iotplatform {manifest.version}, whose schema ({manifest.schema}) this version"
            f" ({__version__}) does not know: restore with that version or a later one"
        )
    here = versions()
    for name in ("nats", "redis"):
        theirs, ours = manifest.servers.get(name, "0"), here[name]
        if _numbers(theirs) > _numbers(ours):
            raise ConfigError(
                f"{source}: was written by {name} {theirs}, and {ours} is installed here: install {theirs} or later"
            )
    major = manifest.servers.get("postgres", "")
    if not major.isascii() or not major.isdigit():
        raise ConfigError(f"{source}: does not say which PostgreSQL made it: it has been tampered with")
    find_postgres(int(major[:9]))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]{1,9}", version)[:2])


def _is_occupied(path: Path) -> bool:
    if not os.path.lexists(path):
        return False
    return not path.is_dir() or next(path.iterdir(), None) is not None


def _clear(path: Path, *, existed: bool) -> None:
    """As it was before: nothing in there was anybody's."""
    for name in (*KEPT, "logs", "run"):
        with contextlib.suppress(OSError):
            (path / name).rmdir()
    (path / "lock").unlink(missing_ok=True)
    if not existed:
        with contextlib.suppress(OSError):
            path.rmdir()
