import msgspec
import pytest

from iotplatform.adapters.embedded import EmbeddedSettings
from iotplatform.errors import ConfigError


@pytest.mark.parametrize("sync", ["always", "2m", "500ms", "1m30s", "10s"])
def test_accepts_always_and_durations(sync):
    assert EmbeddedSettings(nats_sync=sync).nats_sync == sync


@pytest.mark.parametrize("sync", ["", "never", "2", "0s", "-1s", "2 m", '2m"', "2m\n"])
def test_refuses_what_nats_would_misread(sync):
    with pytest.raises(ConfigError, match=r"embedded\.nats_sync"):
        EmbeddedSettings(nats_sync=sync)


@pytest.mark.parametrize("name", ["nats_port", "nats_monitor_port", "mqtt_port"])
@pytest.mark.parametrize("port", [-1, 65536])
def test_refuses_ports_that_do_not_exist(name, port):
    with pytest.raises(ConfigError, match=rf"embedded\.{name} = {port}"):
        EmbeddedSettings(**{name: port})


def test_refuses_one_port_for_two_listeners():
    with pytest.raises(ConfigError, match=r"embedded\.nats_port and embedded\.nats_monitor_port"):
        EmbeddedSettings(nats_port=4222, nats_monitor_port=4222)
    EmbeddedSettings(nats_port=0, nats_monitor_port=0)


def test_a_config_error_survives_conversion():
    with pytest.raises(ConfigError):
        msgspec.convert({"nats_sync": "sometimes"}, EmbeddedSettings)
