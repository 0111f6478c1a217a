"""What a restore asks before it writes anything, and that the settings go along."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from iotplatform.adapters.embedded import DataDirectory
from iotplatform.adapters.embedded.backup import take
from iotplatform.adapters.embedded.manifest import FORMAT, Manifest
from iotplatform.adapters.embedded.programs import versions
from iotplatform.adapters.postgres.migrations import newest
from iotplatform.app.backup import restore
from iotplatform.app.settings import Settings
from iotplatform.errors import ConfigError


@pytest.fixture
def about() -> Manifest:
    return Manifest(FORMAT, "0.1.0", newest(), "2026-11-26T00:00:00Z", {**versions(), "postgres": "18"}, [], [])


def backup(folder: Path, about: Manifest, config: Path | None = None) -> Path:
    with DataDirectory.open(folder / "data") as data:
        (data.postgres / "cluster").mkdir(parents=True)
        (data.postgres / "cluster" / "PG_VERSION").write_text("18\n")
        take(data, folder / "b.tar", about, config)
    return folder / "b.tar"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"servers": {"nats": "99.1"}}, "written by nats 99.1, and .* is installed here: install 99.1 or later"),
        ({"servers": {"redis": "99.0"}}, "written by redis 99.0"),
        ({"servers": {"postgres": "17"}}, "PostgreSQL 17"),
        ({"servers": {"postgres": "99"}}, "PostgreSQL 99"),
        ({"servers": {"postgres": "../18"}}, "which PostgreSQL made it"),
        ({"schema": "9999", "version": "7.0"}, "made by iotplatform 7.0, whose schema .9999. this version"),
        ({"format": FORMAT + 1, "version": "7.0"}, "format 2, made by iotplatform 7.0"),
    ],
)
def test_what_is_newer_is_not_put_back(tmp_path: Path, about: Manifest, change: dict[str, Any], said: str) -> None:
    servers = {**about.servers, **change.get("servers", {})}
    source = backup(tmp_path, msgspec.structs.replace(about, **{**change, "servers": servers}))
    with pytest.raises(ConfigError, match=said):
        put_back(Settings(data_dir=str(tmp_path / "new")), source)
    assert not (tmp_path / "new").exists()


def test_a_folder_with_something_in_it_stays_as_it_is(tmp_path: Path, about: Manifest) -> None:
    source = backup(tmp_path, about)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "letter").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        put_back(Settings(data_dir=str(tmp_path / "new")), source)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["letter"]


def put_back(settings: Settings, source: Path) -> None:
    asyncio.run(restore(settings, source))


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_without_room_nothing_is_begun(tmp_path: Path, about: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    source = backup(tmp_path, about)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 30, 1 << 30, 1 << 20))
    with pytest.raises(ConfigError, match="has room for 1 MiB, and 64 MiB are needed"):
        put_back(Settings(data_dir=str(tmp_path / "new")), source)
    assert not (tmp_path / "new").exists()
    with DataDirectory.open(tmp_path / "data") as data, pytest.raises(ConfigError, match="has room for 1 MiB"):
        take(data, tmp_path / "c.tar", about)
    assert not list(tmp_path.glob("*c.tar*"))


def test_the_settings_go_along(tmp_path: Path, about: Manifest) -> None:
    config = tmp_path / "mine.toml"
    config.write_text("[ingest]\nport = 0\n")
    source = backup(tmp_path, about, config)
    put_back(Settings(data_dir=str(tmp_path / "new")), source)
    restored = tmp_path / "new" / "config.toml"
    assert (restored.read_text(), restored.stat().st_mode & 0o777) == (config.read_text(), 0o600)
