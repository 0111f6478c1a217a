from __future__ import annotations

import json

import pytest

from iotplatform.errors import ConfigError
from iotplatform.simulator.endpoints import Endpoints, find_endpoints


@pytest.fixture
def write(tmp_path):
    def write(text):
        (tmp_path / "runtime.json").write_text(text)
        return tmp_path

    return write


def test_without_anything_the_default_ports(tmp_path):
    default = Endpoints("http://127.0.0.1:8080", "http://127.0.0.1:8081")
    assert find_endpoints(tmp_path) == default
    assert find_endpoints(tmp_path / "absent") == default


def test_a_running_platform_is_found(write):
    data_dir = write(json.dumps({"ingest": "http://h:1/", "management": "http://h:2", "pid": 3, "mqtt": None}))
    assert find_endpoints(data_dir) == Endpoints("http://h:1", "http://h:2")


def test_what_is_said_comes_before_what_is_found(write):
    data_dir = write(json.dumps({"ingest": "http://h:1", "management": "http://h:2"}))
    assert find_endpoints(data_dir, ingest="http://i:3/") == Endpoints("http://i:3", "http://h:2")
    assert find_endpoints(data_dir, management="http://m:4") == Endpoints("http://h:1", "http://m:4")


def test_a_process_without_the_role_writes_null(write):
    data_dir = write(json.dumps({"ingest": None, "management": "http://h:2"}))
    assert find_endpoints(data_dir) == Endpoints("http://127.0.0.1:8080", "http://h:2")


@pytest.mark.parametrize("text", ["", "[]", '{"ingest": 1}'])
def test_a_broken_file_is_named(write, text):
    data_dir = write(text)
    with pytest.raises(ConfigError, match=r"runtime\.json"):
        find_endpoints(data_dir)
    # Whoever says where the platform is does not depend on the file.
    assert find_endpoints(data_dir, ingest="http://i", management="http://m") == Endpoints("http://i", "http://m")
