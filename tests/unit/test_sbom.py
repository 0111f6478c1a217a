"""The bill of materials says what is installed."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path


def test_every_locked_package_is_in_it_with_its_version_and_hashes(repository: Path, tmp_path: Path) -> None:
    target = tmp_path / "sbom.json"
    # The environment is there already.
    subprocess.run(["make", "-s", "-o", "setup-dev", "sbom", f"SBOM={target}"], cwd=repository, check=True)
    bill = json.loads(target.read_text())
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "iotplatform"
    found = {
        (component["name"], component["version"]): sum(
            len(reference.get("hashes", ())) for reference in component.get("externalReferences", ())
        )
        for component in bill["components"]
    }
    lock = (repository / "requirements.txt").read_text()
    locked = set(re.findall(r"^([\w.-]+)==([^\s;\\]+)", lock, re.MULTILINE))
    assert len(locked) > 30
    assert set(found) == locked
    assert sum(found.values()) == lock.count("--hash=sha256:")
