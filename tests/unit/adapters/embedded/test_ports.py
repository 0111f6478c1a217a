import socket

import pytest

from iotplatform.adapters.embedded.ports import ReservedPort
from iotplatform.errors import ConfigError


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_taken_port_is_named_with_its_setting(taken):
    with pytest.raises(ConfigError, match=rf"embedded\.nats_port = {taken}: .*port {taken}"):
        ReservedPort.reserve("127.0.0.1", taken, "embedded.nats_port")


def test_a_server_can_listen_on_a_reserved_port_again_and_again():
    reserved = ReservedPort.reserve("127.0.0.1", 0, "embedded.nats_port")
    try:
        for _ in range(2):
            # create_server sets SO_REUSEADDR, as nats-server does.
            with (
                socket.create_server(("127.0.0.1", reserved.port)) as server,
                socket.create_connection((reserved.host, reserved.port)),
            ):
                server.accept()[0].close()
    finally:
        reserved.close()


def test_a_host_that_is_not_ours_is_named():
    with pytest.raises(ConfigError, match=r"embedded\.host = 192\.0\.2\.1"):
        ReservedPort.reserve("192.0.2.1", 0, "embedded.nats_port")


@pytest.mark.parametrize(("host", "authority"), [("0.0.0.0", "127.0.0.1:"), ("127.0.0.1", "127.0.0.1:")])
def test_clients_are_sent_to_an_address_that_answers(host, authority):
    reserved = ReservedPort.reserve(host, 0, "embedded.nats_port")
    assert reserved.authority == f"{authority}{reserved.port}"
    reserved.close()


def test_ipv6_goes_into_brackets():
    assert ReservedPort("::", 4222, None).authority == "[::1]:4222"
