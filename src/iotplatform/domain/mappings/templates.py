"""Ready-made mappings, chosen by name. Of each fleet only the base topic is set, to `iot/{org}/{gateway}`."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from iotplatform.domain.mappings.mapping import Pick, TopicRule
from iotplatform.domain.reading import Value

SWITCHED: Final[dict[str, Value]] = {"ON": True, "OFF": False}

# FullTopic: iot/{org}/{gateway}/%prefix%/%topic%/. Its times are local and say no zone, so that of arrival is taken.
_TASMOTA: Final = (
    TopicRule(topic="tele/{device}/LWT", payload="text", sensor="online", values={"Online": True, "Offline": False}),
    TopicRule(
        topic="tele/{device}/SENSOR",
        ignore=("Time", "**.Id", "TempUnit", "PressureUnit", "SpeedUnit", "**.TotalStartTime"),
        values=SWITCHED,
    ),
    TopicRule(
        topic="tele/{device}/STATE",
        pick=(
            Pick("POWER"),
            *(Pick(f"POWER{number}") for number in range(1, 9)),
            Pick("Dimmer"),
            Pick("Wifi.RSSI", "wifi.quality", "%"),
            Pick("Wifi.Signal", "wifi.signal", "dBm"),
            Pick("UptimeSec", "uptime", "s"),
        ),
        values=SWITCHED,
    ),
    TopicRule(topic="stat/{device}/RESULT", ignore=("Time",), values=SWITCHED),
    TopicRule(topic="stat/{device}/{sensor}", payload="text", sensor="{sensor}", values=SWITCHED),
    TopicRule(topic="tele/#", ignore_topic=True),
    TopicRule(topic="cmnd/#", ignore_topic=True),
)

# mqtt.base_topic: iot/{org}/{gateway}. A friendly name may have slashes.
_ZIGBEE2MQTT: Final = (
    TopicRule(topic="bridge/#", ignore_topic=True),
    TopicRule(
        topic="{device*}/availability",
        pick=(Pick("state", "online"),),
        sensor="online",
        values={"online": True, "offline": False},
    ),
    TopicRule(topic="{device*}/set", ignore_topic=True),
    TopicRule(topic="{device*}/get", ignore_topic=True),
    TopicRule(
        topic="{device*}",
        ignore=("last_seen", "update.**", "update_available", "device.**", "color_options.**", "**.id"),
        values={**SWITCHED, "LOCK": True, "UNLOCK": False, "OPEN": True, "CLOSE": False},
    ),
)

# The setting event_topic of its MQTT integration: its default behind iot/{org}/{gateway}/.
_CHIRPSTACK: Final = (
    TopicRule(
        topic="application/+/device/{device}/event/up",
        payload="json",
        time="time",
        pick=(
            Pick("object.**", "{1}"),
            Pick("fCnt", "frame_count"),
            Pick("rxInfo.0.rssi", "rssi", "dBm"),
            Pick("rxInfo.0.snr", "snr", "dB"),
        ),
        texts=True,
    ),
    TopicRule(
        topic="application/+/device/{device}/event/status",
        payload="json",
        time="time",
        pick=(
            Pick("batteryLevel", "battery", "%"),
            Pick("margin", "link_margin", "dB"),
            Pick("externalPowerSource", "external_power"),
        ),
    ),
    TopicRule(topic="application/#", ignore_topic=True),
)

# A gateway that publishes one bare value for each topic.
_PLAIN: Final = (
    TopicRule(
        topic="{device}/{sensor*}",
        sensor="{sensor}",
        pick=(Pick("**", "{sensor}.{path}"),),
        values=SWITCHED,
        texts=True,
    ),
)

TEMPLATES: Final = MappingProxyType(
    {"tasmota": _TASMOTA, "zigbee2mqtt": _ZIGBEE2MQTT, "chirpstack": _CHIRPSTACK, "plain": _PLAIN}
)
