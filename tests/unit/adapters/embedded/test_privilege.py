import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from iotplatform.adapters.embedded import DataDirectory, privilege
from iotplatform.adapters.embedded.unprivileged import LAUNCHER, REFUSED, UNREACHABLE
from iotplatform.errors import ConfigError

TRUE = Path("/bin/true")
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="about root")


def launch(*arguments):
    command = [sys.executable, "-I", "-S", LAUNCHER, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def no_namespaces(monkeypatch):
    """As in a container whose seccomp profile refuses them."""
    launch = privilege._launch

    def refused(way, user):
        command = launch(way, user)
        return (*command[:-2], "-5", "-5") if way == "namespace" else command

    monkeypatch.setattr(privilege, "_launch", refused)


@pytest.fixture
def open_directory():
    """One that every user can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="iot-") as path:
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="about everybody else")
async def test_an_ordinary_user_stays_who_he_is(tmp_path):
    with DataDirectory.open(tmp_path) as directory:
        identity = await privilege.choose_identity(directory, TRUE, [directory.postgres])
    assert identity == privilege.Identity((), os.geteuid(), os.getegid())


@root_only
def test_the_launcher_becomes_the_program_as_somebody_else():
    user = privilege._ordinary_user()
    answer = launch("user", user.pw_uid, user.pw_gid, "/usr/bin/id", "-u")
    assert (answer.returncode, answer.stdout.strip()) == (0, str(user.pw_uid))


@root_only
def test_the_launcher_says_that_it_was_refused():
    answer = launch("namespace", -5, -5, "/bin/true")
    assert answer.returncode == REFUSED
    assert answer.stderr.startswith("namespace: ")


@root_only
def test_the_launcher_says_what_can_not_be_reached(tmp_path):
    user = privilege._ordinary_user()
    tmp_path.chmod(0o700)
    answer = launch("user", user.pw_uid, user.pw_gid, "--reach", "/bin/true", tmp_path)
    assert (answer.returncode, answer.stdout) == (UNREACHABLE, str(tmp_path))


@root_only
async def test_without_namespaces_another_user_gets_the_cluster_and_nothing_else(no_namespaces, open_directory):
    with DataDirectory.open(open_directory / "data") as directory:
        (directory.postgres / "below").mkdir()
        identity = await privilege.choose_identity(directory, TRUE, [directory.postgres])
        assert identity.uid != 0
        assert directory.postgres.stat().st_uid == identity.uid
        assert (directory.postgres / "below").stat().st_uid == identity.uid
        others = [directory.secrets, directory.nats, directory.redis, directory.logs]
        assert {path.stat().st_mode & 0o077 for path in others} == {0}
        # Passing through, not looking inside.
        assert directory.path.stat().st_mode & 0o077 == 0o001


@root_only
async def test_no_way_at_all_is_one_line_that_says_what_to_do(no_namespaces, tmp_path):
    tmp_path.chmod(0o700)
    with DataDirectory.open(tmp_path / "data") as directory, pytest.raises(ConfigError) as refused:
        await privilege.choose_identity(directory, TRUE, [directory.postgres])
    message = str(refused.value)
    assert "ordinary user" in message
    assert "--data-dir" in message
    assert "\n" not in message
