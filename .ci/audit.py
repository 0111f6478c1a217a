"""Known weaknesses of the locked packages, where there is somebody to ask: a finding ends in failure.

Without an answer nothing was examined, and that is said; it is no failure, because CI must be able to run without a
network.
"""

# ruff: noqa: INP001, T201 - a program, not a package; it is there to print

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

LOCK = "requirements.txt"
WITHIN_S = 120


def verdict(report: str) -> tuple[int, str]:
    """An exit code and what to say, by what `pip-audit --format json` has printed."""
    try:
        packages = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return 0, f"SKIPPED the audit of {LOCK}: nobody who knows of weaknesses answers from here"
    found = [
        f"{package['name']} {package['version']}: {weakness['id']}, fixed in {', '.join(weakness['fix_versions'])}"
        for package in packages
        for weakness in package.get("vulns", ())
    ]
    examined = sum("vulns" in package for package in packages)
    if found:
        return 1, "\n".join([f"known weaknesses in {LOCK}:", *found])
    if not examined:
        return (
            0,
            f"SKIPPED the audit of {LOCK}: none of its {len(packages)} packages is known to whoever answers from here",
        )
    return 0, f"audited {examined} of the {len(packages)} packages in {LOCK}: no known weakness"


def main() -> int:
    command = ["pip-audit", "-r", LOCK, "--require-hashes", "--disable-pip", "--progress-spinner", "off", "-f", "json"]
    program = Path(sys.executable).with_name(command[0])
    try:
        report = subprocess.run(  # noqa: S603 - nothing of it comes from outside
            [program, *command[1:]], check=False, capture_output=True, text=True, timeout=WITHIN_S
        ).stdout
    except subprocess.TimeoutExpired:
        report = ""
    code, said = verdict(report)
    print(said)
    return code


if __name__ == "__main__":
    sys.exit(main())
