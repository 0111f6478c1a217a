"""The steps of the Dockerfile, run in a clean directory: no container can be built where the tests run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.compose import REPOSITORY, image_environment

pytestmark = [
    pytest.mark.skipif(not os.environ.get("CI_STRICT"), reason="installs everything anew for a minute; set CI_STRICT"),
    pytest.mark.timeout(600),
]


def stage(number: int) -> str:
    text = (REPOSITORY / "Dockerfile").read_text().replace("\\\n", " ")
    return re.split(r"^FROM .*$", text, flags=re.MULTILINE)[number]


def context(folder: Path) -> None:
    """What .dockerignore lets through."""
    for line in (REPOSITORY / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            source = REPOSITORY / line[1:]
            if source.is_dir():
                shutil.copytree(source, folder / line[1:], ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, folder / line[1:])


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that becomes /opt/iotplatform."""
    folder = tmp_path_factory.mktemp("image")
    build, installed = folder / "build", folder / "opt"
    build.mkdir()
    context(build)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for step in re.findall(r"^RUN (.*)$", stage(1), re.MULTILINE):
        command = step.replace("/opt/iotplatform", str(installed)).replace("/build", str(build))
        ran = subprocess.run(
            ["sh", "-e", "-c", command],
            cwd=build,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout[-2_000:] + ran.stderr[-2_000:]
    return installed


def run(image: Path, data_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = image_environment() | {"IOTPLATFORM_DATA_DIR": str(data_dir), "PATH": f"{image}/bin:/nowhere"}
    return subprocess.run(
        [str(image / "bin" / "iotplatform"), *arguments],
        env=environment,
        cwd=data_dir,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_has_the_platform_and_no_servers(image: Path, tmp_path: Path) -> None:
    version = run(image, tmp_path, "--version")
    assert (version.returncode, version.stdout.strip()) == (0, "0.1.0")
    served = run(image, tmp_path, "serve")
    assert served.returncode == 78
    assert "is not installed" in served.stderr


def test_what_runs_is_nobody_in_particular() -> None:
    last = stage(2)
    assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)
    assert "HEALTHCHECK" in last
    assert last.rstrip().endswith('ENTRYPOINT ["iotplatform"]\nCMD ["serve"]')
