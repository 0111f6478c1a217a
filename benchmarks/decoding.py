"""Decoding: how many readings a second each format gives, and what compression costs, in one process on one core.

    python benchmarks/decoding.py --readings 1000 --seconds 2

Bodies hold readings of 10 sensors each at 100 times, as a gateway sends them. Prints one JSON line a format: the median
over rounds that take turns.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import cbor2
from backports import zstd

from iotplatform.domain.mappings.extraction import Extraction
from iotplatform.domain.mappings.mapping import Mapping
from iotplatform.domain.mappings.templates import TEMPLATES
from iotplatform.domain.payloads.admission import Sender
from iotplatform.domain.payloads.compression import decompress
from iotplatform.domain.payloads.formats import BY_LEVEL, decode
from iotplatform.roles.ingest.payload import decode_plainly

NOW = 1_767_225_600_000_000
SENSORS = 10
SENDER = Sender("orgA", "pump")
LABELS = {"bn": -2, "bt": -3, "n": 0, "v": 2, "t": 6}


def values_at(moment: int) -> dict[str, float]:
    return {f"sensor{number}": 20 + number + moment % 7 / 4 for number in range(SENSORS)}


def bodies(readings: int) -> dict[str, tuple[bytes, Callable[[bytes], Any]]]:
    """For each format a body with so many readings, and what decodes it."""
    moments = range(readings // SENSORS)
    at = [1_700_000_000 + moment for moment in moments]
    one_by_one = [
        {"organization_id": "orgA", "device_id": "pump", "sensor_name": name, "value": value, "timestamp": at[moment]}
        for moment in moments
        for name, value in values_at(moment).items()
    ]
    together = [
        {"organization_id": "orgA", "device_id": "pump", "values": values_at(moment), "timestamp": at[moment]}
        for moment in moments
    ]
    flat = [{**values_at(moment), "timestamp": at[moment]} for moment in moments]
    thingsboard = [{"ts": at[moment] * 1_000, "values": values_at(moment)} for moment in moments]
    senml = [{"n": name, "v": value, "t": moment} for moment in moments for name, value in values_at(moment).items()]
    senml[0] |= {"bn": "pump:", "bt": at[0]}
    fields = [",".join(f"{name}={value}" for name, value in values_at(moment).items()) for moment in moments]
    lines = "".join(f"m,device=pump,line=4 {fields[moment]} {at[moment]}\n" for moment in moments)

    def by(level: str) -> Callable[[bytes], Any]:
        return lambda body: decode(BY_LEVEL[level], body, arrived_at=NOW, sender=SENDER).require_all()

    def plainly(body: bytes) -> None:
        assert decode_plainly(body, arrived_at=NOW)

    made: dict[str, tuple[bytes, Callable[[bytes], Any]]] = {
        "json, one reading an element": (json.dumps(one_by_one).encode(), plainly),
        "json, values": (json.dumps(together).encode(), plainly),
        "json, flat": (json.dumps(flat).encode(), by("json")),
        "json, thingsboard": (json.dumps(thingsboard).encode(), by("json")),
        "ndjson, flat": ("\n".join(json.dumps(element) for element in flat).encode(), by("ndjson")),
        "senml+json": (json.dumps(senml).encode(), by("senml")),
        "senml+cbor": (
            cbor2.dumps([{LABELS[key]: value for key, value in record.items()} for record in senml]),
            by("senml"),
        ),
        "cbor, flat": (cbor2.dumps(flat), by("cbor")),
        "line protocol": (lines.encode(), by("line")),
    }
    made["gzip + json, values"] = _compressed(made["json, values"], gzip.compress, "gzip")
    made["zstd + json, values"] = _compressed(made["json, values"], zstd.compress, "zstd")
    return made


def _compressed(
    plain: tuple[bytes, Callable[[bytes], Any]], compress: Callable[[bytes], bytes], encoding: str
) -> tuple[bytes, Callable[[bytes], Any]]:
    body, read = plain
    return compress(body), lambda packed: read(decompress(packed, encoding, 1 << 20))


def mapped() -> tuple[bytes, Callable[[bytes], Any]]:
    """A message of Zigbee2MQTT with 10 values, through its mapping."""
    extraction = Extraction([Mapping("m", "M", TEMPLATES["zigbee2mqtt"])])
    body = json.dumps({**values_at(0), "state": "ON", "last_seen": "x"}).encode()
    return body, lambda data: extraction.extract("orgA", "gw", "kitchen/lamp", data, arrived_at=NOW)


def rate(body: bytes, read: Callable[[bytes], Any], readings: int, seconds: float) -> float:
    count = 0
    began = time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        read(body)
        count += 1
    return count * readings / took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readings", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    cases = {name: (*case, arguments.readings) for name, case in bodies(arguments.readings).items()}
    cases["mapping, one message"] = (*mapped(), SENSORS + 1)
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(arguments.rounds):
        for name, (body, read, readings) in cases.items():
            found[name].append(rate(body, read, readings, arguments.seconds))
    for name, rates in found.items():
        body, _, readings = cases[name]
        figures = {
            "benchmark": "decoding",
            "format": name,
            "readings_per_s": round(statistics.median(rates)),
            "bytes_per_reading": round(len(body) / readings, 1),
            "rounds": arguments.rounds,
        }
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
