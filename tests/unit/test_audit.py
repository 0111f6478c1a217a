"""The audit of dependencies fails by what is found, and says so when it could look at nothing."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", Path(__file__).parents[2] / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GOOD = {"name": "good", "version": "1.0", "vulns": []}
UNKNOWN = {"name": "unknown", "skip_reason": "not found"}
WEAK = {"name": "weak", "version": "2.0", "vulns": [{"id": "CVE-1", "fix_versions": ["2.1"]}]}


@pytest.mark.parametrize(
    ("packages", "code", "said"),
    [
        ([GOOD, UNKNOWN], 0, "audited 1 of the 2 packages"),
        ([GOOD, WEAK, UNKNOWN], 1, "weak 2.0: CVE-1, fixed in 2.1"),
        ([UNKNOWN, UNKNOWN], 0, "SKIPPED"),
        ([], 0, "SKIPPED"),
    ],
)
def test_the_verdict(audit: ModuleType, packages: list[object], code: int, said: str) -> None:
    assert audit.verdict(json.dumps({"dependencies": packages}))[0] == code
    assert said in audit.verdict(json.dumps({"dependencies": packages}))[1]


@pytest.mark.parametrize("report", ["", "Traceback", "[]", "{}"])
def test_no_report_is_no_verdict(audit: ModuleType, report: str) -> None:
    code, said = audit.verdict(report)
    assert (code, "SKIPPED" in said) == (0, True)
