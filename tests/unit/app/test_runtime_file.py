"""`runtime.json`: how other commands find a running platform."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys

import pytest

from iotplatform.app.runtime_file import NAME, RuntimeFile, read_runtime_file, remove_runtime_file
from iotplatform.errors import ConfigError

NATS = "nats://platform:secret@127.0.0.1:4222"


def test_what_was_written_is_found(tmp_path):
    file = RuntimeFile(pid=os.getpid(), ingest="http://127.0.0.1:8080", nats=NATS)
    file.write(tmp_path)
    assert read_runtime_file(tmp_path) == file


def test_scripts_read_it_as_plain_json_with_every_key(tmp_path):
    RuntimeFile(pid=1, nats=NATS).write(tmp_path)
    assert json.loads((tmp_path / NAME).read_text()) == {
        "pid": 1,
        "ingest": None,
        "management": None,
        "operations": None,
        "nats": NATS,
        "nats_monitor": None,
        "mqtt": None,
        "mqtt_websocket": None,
        "postgres": None,
        "redis": None,
        "certificate": None,
    }


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_nobody_else_can_read_its_passwords(tmp_path, mask):
    before = os.umask(mask)
    try:
        RuntimeFile(pid=1, nats=NATS).write(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o600


def test_a_draft_that_was_left_readable_is_not_written_on(tmp_path):
    draft = tmp_path / f"{NAME}.new"
    draft.write_text("")
    draft.chmod(0o644)
    RuntimeFile(pid=1, nats=NATS).write(tmp_path)
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o600


def test_writing_again_replaces_it_and_leaves_nothing_beside(tmp_path):
    RuntimeFile(pid=os.getpid(), nats="x" * 1_000).write(tmp_path)
    RuntimeFile(pid=os.getpid()).write(tmp_path)
    assert read_runtime_file(tmp_path) == RuntimeFile(pid=os.getpid())
    assert [entry.name for entry in tmp_path.iterdir()] == [NAME]


def test_a_process_that_is_gone_is_not_running(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    RuntimeFile(pid=process.pid).write(tmp_path)
    assert read_runtime_file(tmp_path) is None


def test_a_process_of_somebody_else_is_running(tmp_path):
    RuntimeFile(pid=os.getppid()).write(tmp_path)
    assert read_runtime_file(tmp_path) is not None


def test_nothing_there(tmp_path):
    assert read_runtime_file(tmp_path) is None
    assert read_runtime_file(tmp_path / "no" / "such") is None
    remove_runtime_file(tmp_path)


def test_removed_is_gone(tmp_path):
    RuntimeFile(pid=os.getpid()).write(tmp_path)
    remove_runtime_file(tmp_path)
    assert read_runtime_file(tmp_path) is None


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"pid": "x"}', b"{}", b'{"pid":1,"nats":"\xff"}', b'{"pid":-1}']
)
def test_a_damaged_one_is_named(tmp_path, content):
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(ConfigError, match=NAME):
        read_runtime_file(tmp_path)


def test_a_later_version_may_know_more(tmp_path):
    (tmp_path / NAME).write_text(json.dumps({"pid": os.getpid(), "grpc": "x"}))
    assert read_runtime_file(tmp_path) == RuntimeFile(pid=os.getpid())
