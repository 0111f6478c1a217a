"""Files that come back: whole ones as they were, and hostile ones not at all."""

from __future__ import annotations

import asyncio
import errno
import gzip
import hashlib
import io
import json
import os
import tarfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iotplatform.adapters.webhook.addresses import Destinations, WebhookSettings
from iotplatform.app.transfer import readings as transferred
from iotplatform.app.transfer.archive import MANIFEST, MOST_LINE_BYTES, Archive, ArchiveWriter, Manifest
from iotplatform.app.transfer.importing import check_channels, look_through
from iotplatform.app.transfer.kinds import KINDS, part_path, path_of
from iotplatform.app.transfer.lines import Destination
from iotplatform.domain.reading import Reading
from iotplatform.errors import ConfigError

AT = "2026-01-02T03:04:05.000006+00:00"
ALARM = str(uuid.uuid4())
CONDITION = {"type": "threshold", "operator": ">", "value": 80.0}
RULE = {"id": "hot", "organization_id": "acme", "name": "Hot", "sensor": "temp*", "condition": CONDITION}
PACKED = {**RULE, "id": "wet", "organization_id": ""}
WHOLE: dict[str, list[dict[str, Any]]] = {
    "organization": [{"id": "acme", "name": "Acme", "partitions": 2, "created_at": AT}],
    "packs": [{"id": "basics", "name": "Basics", "rules": [PACKED]}],
    "limits": [{"definition": {"requests": "10:1", "devices": 5}}],
    "retention": [{"definition": {"days": 400, "sensors": {"temp*": None}}}],
    "devices": [{"id": "oven", "name": "Oven", "tags": ["hot"], "metadata": {"a": [1, {}]}, "created_at": AT}],
    "device_limits": [{"device_id": "oven", "definition": {"requests": "1:1"}}],
    "device_retention": [{"device_id": "oven", "definition": {"days": None}}],
    "device_presence": [{"device_id": "oven", "last_seen_at": AT, "disconnected_at": None}],
    "series_units": [{"device_id": "oven", "sensor": "temp", "unit": "°C"}],
    "pack_applications": [{"pack_id": "basics", "version": 3, "tried": 3, "fault": None}],
    "rule_versions": [
        {"rule_id": "hot", "version": 1, "definition": RULE, "pack_id": None, "changed_at": AT, "changed_by": "eva"},
        {"rule_id": "old", "version": 2, "definition": None, "pack_id": None, "changed_at": AT, "changed_by": None},
    ],
    "rules": [
        {
            "id": "hot",
            "version": 1,
            "definition": RULE,
            "pack_id": "basics",
            "switched_off": False,
            "created_at": AT,
            "updated_at": AT,
            "changed_by": None,
        }
    ],
    "channels": [
        {
            "id": "hook",
            "name": "Hook",
            "type": "webhook",
            "enabled": True,
            "severities": ["major"],
            "config": {"to": [], "url": "https://93.184.216.34/a", "secret": True, "headers": {"X-Key": True}},
            "created_at": AT,
            "updated_at": AT,
        }
    ],
    "maintenance_windows": [
        {
            "id": "later",
            "name": "Later",
            "starts_at": AT,
            "ends_at": "2026-01-03T00:00:00+00:00",
            "device_ids": ["oven"],
            "device_tags": [],
            "rule_ids": [],
            "created_at": AT,
            "created_by": "eva",
        }
    ],
    "mappings": [
        {
            "id": "zigbee",
            "definition": {"id": "zigbee", "name": "Zigbee", "rules": [{"topic": "zigbee/{device}"}]},
            "created_at": AT,
            "updated_at": AT,
        }
    ],
    "alarms": [
        {
            "id": ALARM,
            "rule_id": "hot",
            "rule_name": "Hot",
            "device_id": "oven",
            "sensor": "temp",
            "severity": "major",
            "state": "active",
            "condition": "> 80",
            "raised_at": AT,
            "first_breach_at": AT,
            "cleared_at": None,
            "clear_reason": None,
            "acknowledged_at": None,
            "acknowledged_by": None,
            "assigned_to": None,
            "trigger_value": 90.0,
            "readings": [[1_700_000_000_000_000, 90.0]],
            "created_at": AT,
            "latched": False,
            "snoozed_until": None,
            "reminders": 0,
        }
    ],
    "alarm_events": [{"alarm_id": ALARM, "kind": "raised", "at": AT, "who": None, "detail": {}}],
    "deliveries": [
        {
            "id": str(uuid.uuid4()),
            "alarm_id": ALARM,
            "channel_id": "hook",
            "transition": "raised",
            "number": 0,
            "state": "pending",
            "attempts": [{"at": AT, "outcome": "retry", "detail": "refused"}],
            "created_at": AT,
        }
    ],
    "commands": [
        {
            "id": str(uuid.uuid4()),
            "device_id": "oven",
            "name": "reboot",
            "payload": {"a": 1},
            "state": "queued",
            "created_at": AT,
            "created_by": "eva",
            "expires_at": AT,
            "sent_at": None,
            "acknowledged_at": None,
            "ended_at": None,
            "times_sent": 0,
            "answer": None,
        }
    ],
    "audit": [
        {
            "at": AT,
            "actor": "eva",
            "actor_kind": "user",
            "address": "127.0.0.1",
            "request": None,
            "action": "created",
            "kind": "rule",
            "subject": "hot",
            "old": None,
            "new": {"id": "hot"},
        }
    ],
}
READINGS = [["oven", "temp", 21.5, 1_700_000_000_000_000], ["oven", "door", True, 1], ["oven", "state", "öpen", 2]]


def write(target: Path, lines: dict[str, list[Any]], stored: list[Any], **said: Any) -> Path:
    """A file with right checksums, whatever is in it."""
    with ArchiveWriter(target) as archive:
        for kind in KINDS:
            with archive.lines(path_of(kind)) as member:
                member.write([each if isinstance(each, bytes) else json.dumps(each).encode() for each in lines[kind]])
        with archive.lines(part_path(1)) as member:
            member.write([each if isinstance(each, bytes) else msgspec.json.encode(each) for each in stored])
        about = {"format": 1, "version": "0", "created_at": AT, "organization_id": "acme", "readings": len(stored)}
        archive.finish(msgspec.convert({**about, "left_out": {}, "members": archive.members, **said}, Manifest))
    return target


def look(path: Path) -> None:
    archive = Archive(path)
    try:
        to = Destination("other", lambda own: uuid.uuid5(own, "x"))
        look_through(archive, to)
        asyncio.run(check_channels(archive, Destinations(WebhookSettings())))
    finally:
        archive.close()


def test_a_whole_one_is_taken(tmp_path: Path) -> None:
    look(write(tmp_path / "a", WHOLE, READINGS))


def test_what_it_becomes() -> None:
    """Ids are new, secrets are gone and their channel is off, nothing is sent or carried out a second time."""
    to = Destination("other", lambda own: uuid.uuid5(own, "x"), pack_versions={"basics": 7})
    made = {kind: msgspec.convert(WHOLE[kind][0], type_).arranged(to) for kind, type_ in KINDS.items()}
    row = {kind: msgspec.to_builtins(line) for kind, line in made.items()}
    assert row["alarms"]["id"] == row["alarm_events"]["alarm_id"] == row["deliveries"]["alarm_id"] != ALARM
    assert row["deliveries"]["state"] == "suppressed"
    assert (row["commands"]["state"], row["commands"]["ended_at"]) == ("expired", row["commands"]["expires_at"])
    assert row["rules"]["definition"]["organization_id"] == "other"
    assert (row["pack_applications"]["version"], row["pack_applications"]["tried"]) == (7, 7)
    hook = row["channels"]
    assert (hook["enabled"], hook["config"]["secret"], hook["config"]["headers"]) == (False, False, {})


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


HOSTILE: list[tuple[str, Callable[[dict[str, Any]], object], str]] = [
    ("organization", lambda line: line.update(id="../x"), "pattern|regex"),
    ("organization", lambda line: line.update(partitions=65), "<= 64"),
    ("devices", lambda line: line.update(id="a.b.>"), "regex"),
    ("devices", lambda line: line.update(epoch=1), "unknown field"),
    ("devices", lambda line: line.update(metadata={"a": "\0"}), "NUL"),
    ("devices", lambda line: line.update(metadata={"a": 1 << 70}), "2\\^63|out of range"),
    ("devices", lambda line: line.update(created_at="2026-01-02T03:04:05"), "RFC3339|timezone"),
    ("limits", lambda line: line["definition"].update(requests="many"), "rates such as"),
    ("series_units", lambda line: line.update(sensor=""), "length >= 1"),
    ("packs", lambda line: line["rules"].append(PACKED), "twice"),
    ("rules", lambda line: line["definition"].update(sensor=""), "sensor: must not be empty"),
    ("rules", lambda line: line["definition"].update(condition={"type": "eval", "code": "1"}), "condition"),
    ("rules", lambda line: line["definition"].update(id="cold"), "id in the path"),
    ("rules", lambda line: line.update(pack_id="other"), "and not the pack"),
    ("rule_versions", lambda line: line["definition"]["condition"].update(value=float("inf")), "line 1"),
    ("channels", lambda line: line.update(config={"url": "http://127.0.0.1/x"}), "private|not allowed|inner"),
    ("channels", lambda line: line.update(config={"url": "file:///etc/passwd"}), "url"),
    ("channels", lambda line: line.update(type="email", config={"to": ["a@b.org\nBcc: c@d.org"]}), "mail address"),
    ("maintenance_windows", lambda line: line.update(ends_at=AT), "ends before"),
    ("mappings", lambda line: line["definition"].update(id="other"), "id of its line"),
    ("mappings", lambda line: line["definition"]["rules"][0].update(topic="a/{b"), "topic"),
    ("alarms", lambda line: line.update(state="cleared"), "a time at which it was cleared"),
    ("alarms", lambda line: line.update(readings=[[1 << 62, 1.0]]), "no time"),
    ("alarm_events", lambda line: line.update(kind="raised'; DROP"), "regex"),
    ("deliveries", lambda line: line["attempts"][0].update(detail="\0"), "regex"),
    ("commands", lambda line: line.update(name="a b"), "regex"),
    ("audit", lambda line: line.update(old={"a": {"b": "\0"}}), "NUL"),
    ("audit", lambda line: line.update(new=nested(300)), "deeper than 200"),
]


@pytest.mark.parametrize(("kind", "spoil", "said"), HOSTILE)
def test_what_the_api_would_not_take(
    tmp_path: Path, kind: str, spoil: Callable[[dict[str, Any]], object], said: str
) -> None:
    lines = json.loads(json.dumps(WHOLE))
    spoil(lines[kind][0])
    with pytest.raises(ConfigError, match=said):
        look(write(tmp_path / "a", lines, READINGS))


@pytest.mark.parametrize(
    ("reading", "said"),
    [
        (["oven.>", "temp", 1.0, 1], "the device must be"),
        (["oven", "", 1.0, 1], "the sensor must not be empty"),
        (["oven", "a\nb", 1.0, 1], "control characters"),
        (["oven", "temp", "x" * 257, 1], "at most 256 bytes"),
        (["oven", "temp", "\0", 1], "NUL"),
        (["oven", "temp", 1.0, -1], "before 1970"),
        (["oven", "temp", 1.0, 1 << 62], "24 hours ahead"),
        (["oven", "temp", 1.0, 1 << 80], "line 1"),
        (["oven", "temp", [1.0], 1], "line 1"),
        (["oven", "temp", 1.0], "line 1"),
        (b'["oven","temp",1e999,1]', "line 1"),
        (b'["oven","temp",NaN,1]', "line 1"),
        (b'["oven","\xff",1.0,1]', "line 1"),
        (b"[" * 100_000, "line 1"),
        (b'["oven","' + b"x" * MOST_LINE_BYTES + b'",1.0,1]', "too long"),
    ],
)
def test_readings_that_could_not_have_come_in(tmp_path: Path, reading: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        look(write(tmp_path / "a", WHOLE, [reading]))


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"format": 2, "version": "9.0"}, "format 2, made by iotplatform 9.0"),
        ({"readings": 4}, "3 readings, and 4"),
        ({"organization_id": "globex"}, "of which organization"),
        ({"members": []}, "does not hold what its manifest says"),
    ],
)
def test_manifests_that_lie(tmp_path: Path, about: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        look(write(tmp_path / "a", WHOLE, READINGS, **about))


def rewritten(path: Path, change: Callable[[str, bytes], list[tuple[tarfile.TarInfo, bytes]]]) -> Path:
    """The same members, each replaced by what `change` makes of it."""
    with tarfile.open(path) as tar:
        members = []
        for member in tar.getmembers():
            reader = tar.extractfile(member)
            assert reader is not None
            members.append((member.name, reader.read()))
    with tarfile.open(path, "w") as tar:
        for name, text in members:
            for info, content in change(name, text):
                info.size = len(content) if info.isfile() else 0
                tar.addfile(info, io.BytesIO(content))
    return path


def plain(name: str, text: bytes) -> tuple[tarfile.TarInfo, bytes]:
    return tarfile.TarInfo(name), text


def linked(name: str, kind: bytes) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info, b""


def audit_as(kind: bytes, name: str, text: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [linked(name, kind) if name == "audit.ndjson.gz" else plain(name, text)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda name, text: audit_as(tarfile.SYMTYPE, name, text), "no plain file"),
        (lambda name, text: audit_as(tarfile.LNKTYPE, name, text), "no plain file"),
        (lambda name, text: audit_as(tarfile.CHRTYPE, name, text), "no plain file"),
        (lambda name, text: [plain("../" + name, text), plain(name, text)], "nothing that an export holds"),
        (lambda name, text: [plain("/etc/cron.d/x", b""), plain(name, text)], "nothing that an export holds"),
        (lambda name, text: [plain(name, text), plain(name, text)], "twice"),
        (lambda name, text: [plain("more.ndjson.gz", b""), plain(name, text)], "twice|does not hold what"),
        (lambda name, text: [] if name == "rules.ndjson.gz" else [plain(name, text)], "does not hold what"),
        (lambda name, text: [] if name == MANIFEST else [plain(name, text)], "cut short"),
        (lambda name, text: [plain(name, text[::-1] if "rules" in name else text)], "damaged"),
        (lambda name, text: [plain(name, text + b" " if "rules" in name else text)], "not as long"),
        (lambda name, text: [plain("x" * 300, b""), plain(name, text)], "no plain file|nothing that"),
    ],
)  # fmt: skip
def test_members_that_do_not_belong(
    tmp_path: Path, change: Callable[[str, bytes], list[tuple[tarfile.TarInfo, bytes]]], said: str
) -> None:
    path = rewritten(write(tmp_path / "a", WHOLE, READINGS), change)
    with pytest.raises(ConfigError, match=said):
        look(path)


def test_a_bomb_ends_at_the_line_that_was_not_said(tmp_path: Path) -> None:
    """A member of a few bytes with a right checksum, and more lines than the manifest says."""
    bomb = gzip.compress(b'["oven","temp",1.0,1]\n' * 2_000_000, 9)

    def change(name: str, text: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
        if name == MANIFEST:
            manifest = json.loads(text)
            for member in manifest["members"]:
                if member["path"] == part_path(1):
                    member.update(bytes=len(bomb), sha256=hashlib.sha256(bomb).hexdigest())
            return [plain(name, json.dumps(manifest).encode())]
        return [plain(name, bomb if name == part_path(1) else text)]

    with pytest.raises(ConfigError, match="more lines than the manifest says"):
        look(rewritten(write(tmp_path / "a", WHOLE, READINGS), change))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("whole") / "a", WHOLE, READINGS)


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_whatever_becomes_of_the_bytes(whole: Path, data: st.DataObject) -> None:
    """It is refused with a sentence, or the change was in what nobody reads."""
    text = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(text) - 1))
        text[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(text))))
    broken = whole.with_name("broken")
    broken.write_bytes(bytes(text[:cut]))
    try:
        archive = Archive(broken)
    except ConfigError:
        return
    try:
        for member in archive.manifest.members:
            archive.check(member)
            assert len(list(archive.lines(member))) == member.lines
    except ConfigError:
        pass
    finally:
        archive.close()


names = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=40)
values = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.booleans(), names)


@given(st.lists(st.builds(Reading, st.just("oven"), names, values, st.integers(0, 1_700_000_000_000_000)), max_size=20))
@settings(max_examples=60, deadline=None)
def test_readings_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, readings: list[Reading]) -> None:
    path = write(tmp_path_factory.mktemp("a") / "a", WHOLE, list(readings))
    archive = Archive(path)
    try:
        [member] = [each for each in archive.manifest.members if each.path == part_path(1)]
        found = list(transferred.readings_of(archive, member))
    finally:
        archive.close()
    assert [(r, type(r.value), str(r.value)) for r in found] == [(r, type(r.value), str(r.value)) for r in readings]


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="a: can't be written: No space left on device"):
        write(tmp_path / "a", WHOLE, READINGS)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="File name too long"):
        write(tmp_path / ("a" * 300), WHOLE, READINGS)


def test_an_export_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), ArchiveWriter(tmp_path / "a") as archive, archive.lines("rules.ndjson.gz"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
