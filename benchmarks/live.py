"""What live streams cost: `python benchmarks/live.py [--streams 0 1 10 100] [--rate 5000] [--seconds 6]`.

One organization, `--rate` readings a second of 100 devices, and so many clients of `…/live`: of one device each, and of
everything. Management is a process of its own. Prints what it spends of a core, what each client is told a second, how
many were left as too slow, and what ingestion accepted meanwhile; the clients share the machine.
"""

from __future__ import annotations

import argparse
import http.client
import json
import selectors
import socket
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

from stack import Stack, say, stack

DEVICES = 100
BATCH = 100


class Load:
    """Batches at a fixed rate; what falls behind is not made up for."""

    def __init__(self, url: str, rate: int) -> None:
        self._url = urlsplit(url)
        self._pause = BATCH / rate
        self._ending = threading.Event()
        self.accepted = 0
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(4)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        connection = http.client.HTTPConnection(self._url.hostname or "", self._url.port)
        body = json.dumps(
            [
                {
                    "organization_id": "acme",
                    "device_id": f"d{device}",
                    "sensor_name": "temp",
                    "value": 20.5 + device / 100,
                }
                for device in range(BATCH)
            ]
        )
        pause = self._pause * len(self._threads)
        due = time.perf_counter() + number * self._pause
        while not self._ending.is_set():
            time.sleep(max(0.0, due - time.perf_counter()))
            connection.request("POST", "/ingest", body, {"Content-Type": "application/json"})
            if (answer := connection.getresponse()).status == 202:
                self.accepted += BATCH
            answer.read()
            due = max(due + pause, time.perf_counter())

    def stop(self) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()


def read_streams(url: str, query: str, count: int, seconds: float) -> None:
    """In a process of its own: opens them, says so, and prints what came in that time."""
    address = urlsplit(url)
    selector = selectors.DefaultSelector()
    for number in range(count):
        client = socket.create_connection((address.hostname or "", address.port or 0))
        path = f"/organizations/acme/live?event=reading{query.format(number % DEVICES)}"
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
        if b" 200 " not in client.recv(200):
            raise SystemExit("no live stream")
        client.settimeout(0)
        selector.register(client, selectors.EVENT_READ)
    print("open", flush=True)
    events, received, slow, ends_at = 0, 0, 0, time.monotonic() + seconds
    while (left := ends_at - time.monotonic()) > 0:
        for key, _ in selector.select(left):
            part = key.fileobj.recv(1 << 18)  # type: ignore[union-attr]
            if not part:
                slow += 1
                selector.unregister(key.fileobj)
            events += part.count(b"event: reading")
            received += len(part)
    print(json.dumps({"events": events, "bytes": received, "slow": slow}), flush=True)


def measure(management: Stack, load: Load, kind: str, query: str, count: int, seconds: float) -> None:
    flags = ["--clients", management.urls["management"], query, str(count), str(seconds)]
    clients = subprocess.Popen([sys.executable, __file__, *flags], stdout=subprocess.PIPE, text=True)
    assert clients.stdout is not None
    clients.stdout.readline()
    before, accepted, began = management.cpu_s(), load.accepted, time.perf_counter()
    told = json.loads(clients.stdout.readline())
    took = time.perf_counter() - began
    after = management.cpu_s()
    clients.wait()
    say(
        streams=count,
        of=kind,
        management_cores=round(sum(after.values()) / took - sum(before.values()) / took, 3),
        events_per_s_each=round(told["events"] / took / max(count, 1)),
        megabytes_per_s=round(told["bytes"] / took / 1e6, 2),
        left_as_slow=told["slow"],
        accepted_per_s=round((load.accepted - accepted) / took),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=[0, 1, 10, 100])
    parser.add_argument("--rate", type=int, default=5_000)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--clients", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.clients:
        url, query, count, seconds = options.clients
        read_streams(url, query, int(count), float(seconds))
        return
    with stack(roles="ingest,analysis,persistence,notification") as rest:
        servers = {f"{name}__url": rest.urls[name] for name in ("nats", "postgres", "redis")}
        live = {"live__per_organization": "1000", "live__in_process": "1000"}
        with stack(roles="management", **servers, **live) as management:
            management.organizations("acme", 1)
            load = Load(rest.urls["ingest"], options.rate)
            try:
                time.sleep(1)
                for kind, query in (("one device", "&device_id=d{}"), ("everything", "")):
                    for count in options.streams:
                        measure(management, load, kind, query, count, options.seconds)
            finally:
                load.stop()


if __name__ == "__main__":
    main()
