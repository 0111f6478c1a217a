"""Load of POSTs to /ingest over kept-alive connections, each with one request in flight. Prints one JSON line.

    python benchmarks/load.py --url http://127.0.0.1:8080 --connections 64 --seconds 10 --batch 1

The organizations must exist. Without `--rate` every connection sends its next request when the last one is answered;
with it, requests are due at fixed times, and a late one's latency counts from when it was due. Readings carry no time
stamps, so every one is a new row. The generator shares the machine's cores with what it measures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Iterator
from itertools import count, cycle
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

# So that analysis has a rule to evaluate for each reading, and raises nothing.
SENSOR = "temp1"


class Tally:
    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.statuses: dict[str, int] = {}
        self.readings = 0


class Sender(asyncio.Protocol):
    """One connection. `gap_s` is the time between the moments at which its requests are due; 0 has none."""

    def __init__(
        self, requests: Iterator[bytes], batch: int, due_at: float, gap_s: float, until: float, tally: Tally
    ) -> None:
        self._requests = requests
        self._batch = batch
        self._due_at = due_at
        self._gap_s = gap_s
        self._until = until
        self._tally = tally
        self._buffer = b""
        self._loop = asyncio.get_running_loop()
        self.ended = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._next()

    def _next(self) -> None:
        now = time.perf_counter()
        if max(now, self._due_at) >= self._until:
            self._transport.close()
        elif self._due_at > now:
            self._loop.call_later(self._due_at - now, self._send)
        else:
            self._send()

    def _send(self) -> None:
        if not self._gap_s:
            self._due_at = time.perf_counter()
        self._transport.write(next(self._requests))  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, rest = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(rest) < length:
            return
        self._buffer = b""
        status = head[9:12].decode()
        tally = self._tally
        tally.latencies.append(time.perf_counter() - self._due_at)
        tally.statuses[status] = tally.statuses.get(status, 0) + 1
        if status == "202":
            tally.readings += self._batch
        self._due_at += self._gap_s
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if not self.ended.done():
            self.ended.set_result(None)


def request(host: str, readings: list[dict[str, object]], token: str | None = None) -> bytes:
    body = json.dumps(readings[0] if len(readings) == 1 else readings).encode()
    bearer = f"Authorization: Bearer {token}\r\n" if token else ""
    head = (
        f"POST /ingest HTTP/1.1\r\nHost: {host}\r\n{bearer}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def organization(prefix: str, number: int, organizations: int) -> str:
    return prefix if organizations == 1 else f"{prefix}-{number}"


def bulk(host: str, arguments: argparse.Namespace, connection: int) -> Iterator[bytes]:
    """Requests of one connection, over and over: for each of its organizations a few, with `batch` readings each."""
    total = arguments.organizations
    tokens = json.loads(Path(arguments.tokens).read_text()) if arguments.tokens else None
    own = range(connection % total, total, min(arguments.connections, total))
    made = []
    for variant in range(max(1, 8 // len(own))):
        for number in own:
            first = (connection * 8 + variant) * arguments.batch
            readings = [
                {
                    "organization_id": organization(arguments.organization, number, total),
                    "device_id": f"device-{(first + index) % arguments.devices}",
                    "sensor_name": SENSOR,
                    "value": 20.0 + index % 7,
                }
                for index in range(arguments.batch)
            ]
            made.append(request(host, readings, tokens[first % arguments.devices] if tokens else None))
    return cycle(made)


def episodes(host: str, arguments: argparse.Namespace) -> Iterator[bytes]:
    """Requests with one reading each: three breaches that raise an alarm, and a good reading that clears it."""
    for number in count():
        for value in (90.0, 91.0, 92.0, 20.0):
            reading = {
                "organization_id": organization(
                    arguments.organization, number % arguments.organizations, arguments.organizations
                ),
                "device_id": f"alarming-{number % 500}",
                "sensor_name": SENSOR,
                "value": value,
            }
            yield request(host, [reading])


def percentile(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))] if values else float("nan")


async def run(arguments: argparse.Namespace) -> dict[str, object]:
    parts = urlsplit(arguments.url)
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    until = began + arguments.seconds
    gap_s = arguments.connections / arguments.rate if arguments.rate else 0.0
    tally, alarming = Tally(), Tally()
    ended = []

    async def connect(requests: Iterator[bytes], batch: int, due_at: float, gap: float, into: Tally) -> None:
        _, sender = await loop.create_connection(
            lambda: Sender(requests, batch, due_at, gap, until, into), parts.hostname, parts.port
        )
        ended.append(sender.ended)

    for number in range(arguments.connections):
        due_at = began + gap_s * number / arguments.connections
        await connect(bulk(parts.netloc, arguments, number), arguments.batch, due_at, gap_s, tally)
    if arguments.alarms:
        await connect(episodes(parts.netloc, arguments), 1, began, 1 / (4 * arguments.alarms), alarming)
    await asyncio.gather(*ended)
    took = time.perf_counter() - began
    tally.latencies.sort()
    return {
        "benchmark": "load",
        "connections": arguments.connections,
        "batch": arguments.batch,
        "organizations": arguments.organizations,
        "seconds": round(took, 1),
        "requests_per_s": round(len(tally.latencies) / took),
        "readings": tally.readings + alarming.readings,
        "readings_per_s": round((tally.readings + alarming.readings) / took),
        "alarms_per_s": arguments.alarms,
        "p50_ms": round(percentile(tally.latencies, 0.5) * 1e3, 2),
        "p99_ms": round(percentile(tally.latencies, 0.99) * 1e3, 2),
        "p999_ms": round(percentile(tally.latencies, 0.999) * 1e3, 2),
        "statuses": {**tally.statuses, **{f"alarming_{key}": value for key, value in alarming.statuses.items()}},
        "shares_cores": True,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--organization", default="bench", help="its id, or the prefix of several")
    parser.add_argument("--organizations", type=int, default=1)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--devices", type=int, default=1_000)
    parser.add_argument("--tokens", help="JSON file with the token of each device; then a batch is of one reading")
    parser.add_argument("--rate", type=float, default=0, help="requests a second of all connections together")
    parser.add_argument("--alarms", type=float, default=0, help="alarms a second, raised and cleared beside the rest")
    print(json.dumps(uvloop.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()
