"""What hostile clients cost: memory and time of the process at the door, while others go on being served.

    python benchmarks/hostile.py --connections 2000 --seconds 5

Each attack runs for some seconds beside a load of honest requests; printed are the memory (RSS) of the platform's own
process before, at its highest and after, and what the honest ones got meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import socket
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import psutil
from stack import Stack, result, say, stack

HOST = b"Host: localhost\r\n"
JSON = b"Content-Type: application/json\r\n"
MIB = 1 << 20


def connect(platform: Stack, port: str = "ingest") -> socket.socket:
    parts = urlsplit(platform.urls[port])
    connection = socket.create_connection((parts.hostname, parts.port), timeout=10)
    connection.settimeout(0)
    return connection


def post(path: bytes, length: int) -> bytes:
    return b"POST %s HTTP/1.1\r\n%s%sContent-Length: %d\r\n\r\n" % (path, HOST, JSON, length)


class Attack:
    """Connections that send a head, and then go on with `drip` until the time is over."""

    def __init__(self, platform: Stack, number: int, head: bytes, drip: Callable[[int], bytes], port: str) -> None:
        self.opened = self.refused = self.cut = 0
        self._connections: list[socket.socket] = []
        self._drip = drip
        for _ in range(number):
            with contextlib.suppress(OSError):
                connection = connect(platform, port)
                connection.send(head)
                self._connections.append(connection)
                self.opened += 1

    def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        turn = 0
        while time.monotonic() < until:
            for connection in list(self._connections):
                self._go_on(connection, self._drip(turn))
            turn += 1
            time.sleep(0.2)

    def _go_on(self, connection: socket.socket, piece: bytes) -> None:
        try:
            with contextlib.suppress(BlockingIOError):
                if connection.recv(4_096):
                    self.refused += 1
                self._end(connection)
                return
            with contextlib.suppress(BlockingIOError):
                connection.send(piece)
        except OSError:
            self._end(connection)

    def _end(self, connection: socket.socket) -> None:
        self.cut += 1
        self._connections.remove(connection)
        connection.close()

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=2_000)
    parser.add_argument("--seconds", type=float, default=5)
    arguments = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 20_000)), hard))
    number = arguments.connections
    attacks: dict[str, tuple[int, bytes, Callable[[int], bytes], str]] = {
        "nothing is sent": (number, b"", lambda _: b"", "ingest"),
        "heads in drops": (number, b"POST /ingest HTTP/1.1\r\n", lambda turn: b"X-%d: y\r\n" % turn, "ingest"),
        "bodies in drops": (number, post(b"/ingest", MIB), lambda _: b"[", "ingest"),
        "bodies of 1 MiB that don't end": (number, post(b"/ingest", MIB), lambda _: b" " * 65_536, "ingest"),
        "the same to management": (
            number,
            post(b"/organizations", MIB),
            lambda _: b" " * 65_536,
            "management",
        ),
        "nested bodies": (64, b"", lambda _: post(b"/ingest", 200_000) + nested(100_000), "ingest"),
    }
    with stack() as platform:
        platform.organizations("bench", 1)
        process = psutil.Process(platform.process.pid)
        result(platform.load(connections=16, seconds=2))
        alone = result(platform.load(connections=16, seconds=3))
        say(benchmark="hostile", attack="none", honest_per_s=round(alone["requests_per_s"]), p99_ms=alone["p99_ms"])
        for name, (count, head, drip, port) in attacks.items():
            say(**measured(platform, process, name, Attack(platform, count, head, drip, port), arguments.seconds))


def measured(platform: Stack, process: psutil.Process, name: str, attack: Attack, seconds: float) -> dict[str, Any]:
    before = process.memory_info().rss
    highest = before
    load = platform.load(connections=16, seconds=seconds)
    running = threading.Thread(target=attack.run, args=(seconds,))
    running.start()
    while running.is_alive():
        highest = max(highest, process.memory_info().rss)
        time.sleep(0.1)
    running.join()
    honest = result(load)
    attack.close()
    time.sleep(1)
    return {
        "benchmark": "hostile",
        "attack": name,
        "connections": attack.opened,
        "answered": attack.refused,
        "cut": attack.cut,
        "memory_mb": {
            "before": round(before / 1e6),
            "highest": round(highest / 1e6),
            "after": round(process.memory_info().rss / 1e6),
        },
        "honest_per_s": round(honest["requests_per_s"]),
        "honest_p99_ms": honest["p99_ms"],
        "honest_statuses": honest["statuses"],
    }


if __name__ == "__main__":
    main()
