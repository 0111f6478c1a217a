"""Backups as files: what is put back, and what is refused."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iotplatform.adapters.embedded import DataDirectory
from iotplatform.adapters.embedded.backup import opened, put_back, take
from iotplatform.adapters.embedded.manifest import FORMAT, Manifest
from iotplatform.errors import ConfigError

ABOUT = Manifest(FORMAT, "0.1.0", "0001", "2026-11-26T00:00:00Z", {}, [], [])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    with DataDirectory.open(tmp_path / "data") as data:
        (data.postgres / "cluster" / "empty").mkdir(parents=True)
        (data.postgres / "cluster" / "PG_VERSION").write_text("18\n")
        (data.postgres / "cluster" / "postmaster.pid").write_text("1")
        (data.nats / "blk").write_bytes(os.urandom(3 << 20))
        (data.nats / "nats-server.conf").write_text("port: 1")
        (data.secrets / "wörd").write_text("secret")
    return tmp_path / "data"


def back_up(source: Path, target: Path) -> Manifest:
    with DataDirectory.open(source) as data:
        return take(data, target, ABOUT)


def restore(backup: Path, target: Path) -> None:
    with opened(backup) as (manifest, files), DataDirectory.open(target) as data:
        put_back(data, manifest, files)


def files_of(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for top in ("nats", "postgres", "redis", "secrets")
        for path in (folder / top).rglob("*")
    }


@pytest.mark.parametrize("name", ["b.tar", "b"])
def test_there_and_back(source: Path, tmp_path: Path, name: str) -> None:
    back_up(source, tmp_path / name)
    restore(tmp_path / name, tmp_path / "restored")
    expected = files_of(source)
    for of_one_start in ("postgres/cluster/postmaster.pid", "nats/nats-server.conf"):
        del expected[of_one_start]
    assert files_of(tmp_path / "restored") == expected
    assert not (tmp_path / "restored" / "restoring").exists()
    loose = [path for top in (tmp_path / name, tmp_path / "restored") for path in (top, *top.rglob("*"))]
    assert [path for path in loose if path.stat().st_mode & 0o077] == []


def test_targets_that_are_none(source: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for target, why in (
        (tmp_path / "there", "exists"),
        (tmp_path / "no" / "b.tar", "is no folder"),
        (source / "b.tar", "lies in the data directory"),
    ):
        with pytest.raises(ConfigError, match=why):
            back_up(source, target)
    (source / "nats" / "pipe").symlink_to("/etc/passwd")
    with pytest.raises(ConfigError, match="neither a file nor a folder"):
        back_up(source, tmp_path / "b.tar")
    assert [path.name for path in tmp_path.iterdir() if path.name not in {"data", "there"}] == []


def rewritten(
    backup: Path,
    *,
    manifest: Callable[[dict[str, Any]], None] = lambda _: None,
    members: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None] = lambda _: None,
) -> None:
    """As somebody might who wants more from a restore than it gives."""
    with tarfile.open(backup) as tar:
        found = [(member, (tar.extractfile(member) or io.BytesIO()).read()) for member in tar]
    document = json.loads(found[0][1])
    manifest(document)
    text = json.dumps(document).encode()
    found[0][0].size = len(text)
    found[0] = (found[0][0], text)
    members(found)
    with tarfile.open(backup, "w") as tar:
        for member, content in found:
            tar.addfile(member, io.BytesIO(content))


def _named(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    member.size = 4 if kind == tarfile.REGTYPE else 0
    return member, b"evil" if kind == tarfile.REGTYPE else b""


@pytest.mark.parametrize(
    "name", ["../evil", "/tmp/evil", "nats/../../evil", "nats//evil", "evil", "nats/./evil", "lock", "nats\\evil", ""]
)
@pytest.mark.parametrize("where", ["files", "directories"])
def test_paths_that_lead_elsewhere(source: Path, tmp_path: Path, name: str, where: str) -> None:
    back_up(source, tmp_path / "b.tar")
    entry = name if where == "directories" else {"path": name, "bytes": 4, "sha256": "0" * 64}
    rewritten(
        tmp_path / "b.tar",
        manifest=lambda document: document[where].append(entry),
        members=lambda found: found.append(_named(name)) if where == "files" and name else None,
    )
    with pytest.raises(ConfigError, match="tampered with"):
        restore(tmp_path / "b.tar", tmp_path / "restored")


@pytest.mark.parametrize(
    ("member", "why"),
    [
        (_named("../evil"), "not in its manifest"),
        (_named("nats/blk"), "not in its manifest"),
        (_named("nats/link", tarfile.SYMTYPE, "/etc"), "no plain file"),
        (_named("nats/link", tarfile.LNKTYPE, "nats/blk"), "no plain file"),
        (_named("nats/device", tarfile.CHRTYPE), "no plain file"),
    ],
)
def test_members_that_nobody_asked_for(
    source: Path, tmp_path: Path, member: tuple[tarfile.TarInfo, bytes], why: str
) -> None:
    back_up(source, tmp_path / "b.tar")
    rewritten(tmp_path / "b.tar", members=lambda found: found.append(member))
    with pytest.raises(ConfigError, match=why):
        restore(tmp_path / "b.tar", tmp_path / "restored")
    # All of it or nothing.
    assert set(files_of(tmp_path / "restored")) == set()
    assert not (tmp_path / "restored" / "restoring").exists()


def test_what_is_damaged(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "b"
    back_up(source, target)
    (target / "nats" / "blk").write_bytes(b"other")
    with pytest.raises(ConfigError, match="nats/blk: is not what the manifest says"):
        restore(target, tmp_path / "restored")
    (target / "nats" / "blk").unlink()
    with pytest.raises(ConfigError, match="No such file"):
        restore(target, tmp_path / "restored")
    (target / "nats" / "blk").symlink_to("/etc/passwd")
    with pytest.raises(ConfigError):
        restore(target, tmp_path / "restored")

    back_up(source, tmp_path / "b.tar")
    rewritten(tmp_path / "b.tar", members=lambda found: found.pop())  # type: ignore[arg-type,return-value]
    with pytest.raises(ConfigError, match="is not complete"):
        restore(tmp_path / "b.tar", tmp_path / "restored")
    whole = (tmp_path / "b.tar").read_bytes()
    (tmp_path / "b.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"cut short|damaged|unexpected"):
        restore(tmp_path / "b.tar", tmp_path / "restored")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"format": 2}, "is a backup of format 2"),
        ({"format": "x"}, "is no backup"),
        ({"files": 1}, "is no backup"),
        ({"more": 1}, "is no backup"),
    ],
)
def test_manifests_that_are_none(source: Path, tmp_path: Path, change: dict[str, Any], why: str) -> None:
    back_up(source, tmp_path / "b.tar")
    rewritten(tmp_path / "b.tar", manifest=lambda document: document.update(change))
    with pytest.raises(ConfigError, match=why):
        restore(tmp_path / "b.tar", tmp_path / "restored")


def test_what_is_no_backup_at_all(tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_text("hello")
    (tmp_path / "folder").mkdir()
    for name in ("text.tar", "folder", "nothing"):
        with pytest.raises(ConfigError):
            restore(tmp_path / name, tmp_path / "restored")


def test_a_restore_that_did_not_end_is_not_started_on(tmp_path: Path) -> None:
    (tmp_path / "data" / "restoring").mkdir(parents=True)
    with pytest.raises(ConfigError, match="did not come to its end"):
        DataDirectory.open(tmp_path / "data")
