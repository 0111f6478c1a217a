import os
import stat
import tempfile
from pathlib import Path

import pytest

from iotplatform.adapters.embedded import DataDirectory
from iotplatform.errors import ConfigError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_makes_private_folders(tmp_path):
    with DataDirectory.open(tmp_path / "a" / "b") as directory:
        assert directory.path == tmp_path / "a" / "b"
        for folder in (directory.nats, directory.postgres, directory.redis, directory.secrets, directory.logs):
            assert folder.parent == directory.path
            assert mode(folder) == 0o700


def test_a_second_one_is_refused_with_the_pid_and_the_option(tmp_path):
    with DataDirectory.open(tmp_path), pytest.raises(ConfigError) as refused:
        DataDirectory.open(tmp_path)
    message = str(refused.value)
    assert f"process {os.getpid()}" in message
    assert "--data-dir" in message
    assert "\n" not in message


def test_the_lock_ends_with_close(tmp_path):
    DataDirectory.open(tmp_path).close()
    DataDirectory.open(tmp_path).close()


def test_children_do_not_inherit_the_lock(tmp_path):
    with DataDirectory.open(tmp_path) as directory:
        assert not os.get_inheritable(directory._lock)


@pytest.mark.parametrize("blocked", ["file", "file/below"])
def test_a_path_that_can_not_be_a_directory(tmp_path, blocked):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--data-dir"):
        DataDirectory.open(tmp_path / blocked)


def test_a_failed_open_keeps_no_lock(tmp_path):
    (tmp_path / "logs").write_text("not a folder")
    with pytest.raises(ConfigError, match="logs"):
        DataDirectory.open(tmp_path)
    (tmp_path / "logs").unlink()
    DataDirectory.open(tmp_path).close()


class TestSecrets:
    def test_is_made_once_and_private(self, tmp_path):
        values = iter(["first", "second"])
        with DataDirectory.open(tmp_path) as directory:
            assert directory.secret("password", lambda: next(values)) == "first"
            assert mode(directory.secrets / "password") == 0o600
        with DataDirectory.open(tmp_path) as directory:
            assert directory.secret("password", lambda: next(values)) == "first"

    def test_a_draft_of_a_crash_is_replaced(self, tmp_path):
        with DataDirectory.open(tmp_path) as directory:
            (directory.secrets / "password.new").write_text("half")
            assert directory.secret("password", lambda: "whole") == "whole"
            assert [file.name for file in directory.secrets.iterdir()] == ["password"]


class TestSocketsOfADeepDirectory:
    @pytest.fixture
    def temp(self, monkeypatch):
        with tempfile.TemporaryDirectory(dir="/tmp", prefix="iot-") as temp:
            monkeypatch.setattr(tempfile, "tempdir", temp)
            yield Path(temp)

    @pytest.fixture
    def deep(self, tmp_path):
        return tmp_path / ("d" * 100)

    def test_are_in_a_private_place_that_stays_the_same(self, temp, deep):
        with DataDirectory.open(deep) as directory:
            first = directory.run
            assert first.parent == temp
            assert mode(first) == 0o700
            assert len(os.fsencode(first / "postgres" / ".s.PGSQL.5432")) <= 103
        assert not first.exists()
        with DataDirectory.open(deep) as directory:
            assert directory.run == first

    def test_differ_between_data_directories(self, temp, deep):
        with DataDirectory.open(deep / "1") as one, DataDirectory.open(deep / "2") as two:
            assert one.run != two.run

    @pytest.mark.parametrize("trap", ["link", "file", "open to others"])
    def test_are_not_put_where_somebody_else_prepared_the_place(self, temp, deep, trap):
        with DataDirectory.open(deep) as directory:
            place = directory.run
        if trap == "link":
            (temp / "elsewhere").mkdir(mode=0o700)
            place.symlink_to(temp / "elsewhere")
        elif trap == "file":
            place.write_text("")
        else:
            place.mkdir()
            place.chmod(0o777)
        with pytest.raises(ConfigError, match="not a private directory"):
            DataDirectory.open(deep)
