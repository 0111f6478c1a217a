"""The services of compose.yaml, as processes with its names, ports, environment and configuration files."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.compose import REPOSITORY, ROLES

STRICT = bool(os.environ.get("CI_STRICT"))


def why_not(*programs: str) -> str | None:
    missing = [program for program in programs if not shutil.which(program)]
    if missing:
        return f"{', '.join(missing)} missing"
    return None if os.geteuid() == 0 else "namespaces with ports of their own need root here"


async def run(module: str, folder: Path, *programs: str) -> dict[str, Any]:
    if reason := why_not("unshare", "setpriv", "ip", "curl", *programs):
        if STRICT:
            pytest.fail(f"{reason}, and CI_STRICT is set")
        pytest.skip(reason)
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--net", "--mount", sys.executable, "-m", module, str(folder)),
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode() + output.decode()
    found: dict[str, Any] = json.loads(output)
    return found


@pytest.fixture(scope="module")
async def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return await run("tests.support.compose_stack", tmp_path_factory.mktemp("stack"), "prometheus")


@pytest.fixture(scope="module")
async def split(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return await run("tests.support.split_stack", tmp_path_factory.mktemp("split"), "nsenter")


def test_the_walk_through_works_on_it(report: dict[str, Any]) -> None:
    assert len(report["walk"]) >= 9
    assert {command: wrong for command, wrong in report["walk"].items() if wrong} == {}, report["log"]


def test_a_channel_of_type_email_reaches_the_mail_catcher(report: dict[str, Any]) -> None:
    assert any("temp2" in subject for subject in report["mail"]), report["log"]


def test_prometheus_finds_the_platform_by_its_name(report: dict[str, Any]) -> None:
    assert {(entry["metric"]["job"], entry["value"][1]) for entry in report["up"]} == {
        ("iotplatform", "1"),
        ("prometheus", "1"),
    }


def test_every_panel_of_every_dashboard_shows_something(report: dict[str, Any]) -> None:
    assert report["empty_panels"] == {board: [] for board in report["empty_panels"]}
    assert {"overview", "ingestion", "pipeline", "alarms", "servers", "organization"} <= report["empty_panels"].keys()


def test_panels_that_ask_postgresql_are_answered_to_a_role_that_reads_nothing_else(report: dict[str, Any]) -> None:
    assert report["wrong_panels"] == {}


def test_everything_ends_cleanly(report: dict[str, Any]) -> None:
    assert report["migrate"] == 0
    assert set(report["exits"].values()) == {0}


class TestSplit:
    """Each role in processes of its own, nginx in front of two that take readings."""

    def test_the_walk_through_works_on_it(self, split: dict[str, Any]) -> None:
        assert len(split["walk"]) >= 9
        assert {command: wrong for command, wrong in split["walk"].items() if wrong} == {}, split["logs"]

    def test_it_needs_no_capability_and_no_writable_file_system(self, split: dict[str, Any]) -> None:
        """All of it runs so, which the other tests show; here, that it is so."""
        assert split["unconfined"] == []

    def test_nginx_uses_every_copy_and_loses_nothing_when_one_goes(self, split: dict[str, Any]) -> None:
        assert min(split["accepted_by_copies"]) >= 10
        assert split["while_one_goes"] >= 10

    def test_production_speaks_tls_from_end_to_end_and_asks_for_credentials(self, split: dict[str, Any]) -> None:
        assert split["production"] == {
            "without": 401,
            "with": [202, {"status": "accepted", "accepted": 1}],
            "latest": 7.5,
        }

    def test_promtails_pipeline_knows_every_line_by_its_role_level_and_time(self, split: dict[str, Any]) -> None:
        assert split["without_time"] == []
        for service, role in ROLES.items():
            found = {tuple(pair) for pair in split["labels"][service]}
            # Nothing that was done here makes management say anything.
            assert (role, "info") in found or role == "management"
            # `platform` is what belongs to no role, such as starting and stopping.
            assert {pair[0] for pair in found} <= {role, "platform"}
            assert {pair[1] for pair in found} <= {"info", "warning", "unknown"}

    def test_everything_ends_cleanly(self, split: dict[str, Any]) -> None:
        assert split["migrate"] == 0
        assert set(split["exits"].values()) == {0}, split["exits"]
