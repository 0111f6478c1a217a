"""Load of POSTs to /ingest over kept-alive connections, each with one request in flight. Prints one JSON line.

    python benchmarks/http_load.py --url http://127.0.0.1:8080 --connections 64 --seconds 10 --batch 1

The organization must exist. The generator shares the machine's cores with what it measures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from urllib.parse import urlsplit

import uvloop


class Sender(asyncio.Protocol):
    """One connection: sends the next request when the answer to the last one is complete."""

    def __init__(self, requests: list[bytes], until: float, latencies: list[float], statuses: dict[str, int]) -> None:
        self._requests = requests
        self._until = until
        self._latencies = latencies
        self._statuses = statuses
        self._next = 0
        self._buffer = b""
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(self._requests[self._next % len(self._requests)])  # type: ignore[attr-defined]
        self._next += 1

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, rest = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(rest) < length:
            return
        now = time.perf_counter()
        self._latencies.append(now - self._sent_at)
        status = head[9:12].decode()
        self._statuses[status] = self._statuses.get(status, 0) + 1
        self._buffer = b""
        if now < self._until:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if not self.ended.done():
            self.ended.set_result(None)


def requests_of(connection: int, *, host: str, organization: str, batch: int, devices: int) -> list[bytes]:
    """A few requests, reused: readings without time stamps, so that every one is a new row."""
    made = []
    for number in range(8):
        readings = [
            {
                "organization_id": organization,
                "device_id": f"device-{(connection * 8 + number * batch + index) % devices}",
                "sensor_name": "pressure",
                "value": 20.0 + index % 7,
            }
            for index in range(batch)
        ]
        body = json.dumps(readings[0] if batch == 1 else readings).encode()
        head = (
            f"POST /ingest HTTP/1.1\r\nHost: {host}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        made.append(head.encode() + body)
    return made


async def run(arguments: argparse.Namespace) -> None:
    parts = urlsplit(arguments.url)
    until = time.perf_counter() + arguments.seconds
    latencies: list[float] = []
    statuses: dict[str, int] = {}
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    senders = []
    for connection in range(arguments.connections):
        requests = requests_of(
            connection,
            host=parts.netloc,
            organization=arguments.organization,
            batch=arguments.batch,
            devices=arguments.devices,
        )
        _, sender = await loop.create_connection(
            lambda requests=requests: Sender(requests, until, latencies, statuses),  # type: ignore[misc]
            parts.hostname,
            parts.port,
        )
        senders.append(sender.ended)
    await asyncio.gather(*senders)
    took = time.perf_counter() - began
    latencies.sort()
    print(
        json.dumps(
            {
                "benchmark": "http_load",
                "connections": arguments.connections,
                "batch": arguments.batch,
                "requests_per_s": round(len(latencies) / took),
                "readings_per_s": round(len(latencies) * arguments.batch / took),
                "p50_ms": round(latencies[len(latencies) // 2] * 1e3, 2),
                "p99_ms": round(latencies[int(len(latencies) * 0.99)] * 1e3, 2),
                "statuses": statuses,
                "shares_cores": True,
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--organization", default="bench")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--devices", type=int, default=1_000)
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
