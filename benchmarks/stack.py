"""What the benchmarks share: a platform of their own on free ports, its process tree, its metrics, its load."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).parent.parent
PORTS = (
    "INGEST__PORT",
    "MANAGEMENT__PORT",
    "OPERATIONS__PORT",
    "EMBEDDED__NATS_PORT",
    "EMBEDDED__NATS_MONITOR_PORT",
    "EMBEDDED__MQTT_PORT",
)
READY_S = 60.0


class Stack:
    """A process of `iotplatform serve` and everything below it."""

    def __init__(self, process: subprocess.Popen[bytes], data_dir: Path) -> None:
        self.process = process
        self.data_dir = data_dir
        self.urls: dict[str, str] = json.loads((data_dir / "runtime.json").read_text())
        self._tree = psutil.Process(process.pid)

    def processes(self) -> list[psutil.Process]:
        return [self._tree, *self._tree.children(recursive=True)]

    def cpu_s(self) -> dict[str, float]:
        """Seconds of CPU so far, user and system, by program."""
        spent: dict[str, float] = {}
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                name = process.name().split(":")[0]
                used = times.user + times.system + times.children_user + times.children_system
                spent[name] = spent.get(name, 0.0) + used
        return spent

    def memory_mb(self) -> dict[str, float]:
        """Unique memory (USS) by program. What PostgreSQL's processes share is counted for none of them."""
        held: dict[str, float] = {}
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                name = process.name().split(":")[0]
                held[name] = held.get(name, 0.0) + process.memory_full_info().uss / 1e6
        return {name: round(size, 1) for name, size in held.items()}

    def make(self, path: str, body: dict[str, object], headers: dict[str, str] | None = None) -> dict[str, Any]:
        sent = {"Content-Type": "application/json", **(headers or {})}
        request = urllib.request.Request(self.urls["management"] + path, json.dumps(body).encode(), sent)
        with urllib.request.urlopen(request, timeout=60) as answer:
            made: dict[str, Any] = json.loads(answer.read())
        return made

    def organizations(self, prefix: str, count: int, partitions: int = 1) -> None:
        for number in range(count):
            name = prefix if count == 1 else f"{prefix}-{number}"
            self.make("/organizations", {"id": name, "name": name, "partitions": partitions})

    def metrics(self) -> dict[str, float]:
        """Samples by name and labels, as they stand in the exposition text."""
        with urllib.request.urlopen(self.urls["operations"] + "/metrics", timeout=60) as answer:
            text = answer.read().decode()
        samples = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        return {name.removeprefix("iotplatform_"): float(value) for name, value in samples}

    def load(self, **options: object) -> subprocess.Popen[bytes]:
        flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        return subprocess.Popen(
            [sys.executable, str(REPOSITORY / "benchmarks" / "load.py"), "--url", self.urls["ingest"], *flags],
            stdout=subprocess.PIPE,
        )

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(120)


def result(load: subprocess.Popen[bytes]) -> dict[str, Any]:
    output, _ = load.communicate()
    if load.returncode:
        raise SystemExit("the load generator failed")
    found: dict[str, Any] = json.loads(output)
    return found


@contextlib.contextmanager
def stack(roles: str | None = None, data_dir: Path | None = None, **settings: str) -> Iterator[Stack]:
    """Started in a folder of its own and ready; `settings` such as `embedded__nats_sync="2m"`."""
    with tempfile.TemporaryDirectory() as temporary:
        place = data_dir or Path(temporary) / "data"
        environment = {
            **os.environ,
            **{f"IOTPLATFORM_{name}": "0" for name in PORTS},
            "IOTPLATFORM_LOG__FORMAT": "json",
            "IOTPLATFORM_DATA_DIR": str(place),
            **{f"IOTPLATFORM_{name.upper()}": value for name, value in settings.items()},
        }
        (place / "runtime.json").unlink(missing_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-m", "iotplatform", "serve", *(["--roles", roles] if roles else [])],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + READY_S
        while not (place / "runtime.json").exists():
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit("the platform did not become ready")
            time.sleep(0.05)
        running = Stack(process, place)
        try:
            yield running
        finally:
            running.stop()


def quantile(before: dict[str, float], after: dict[str, float], name: str, share: float) -> float:
    """Of the observations between two scrapes, interpolated inside the histogram's bucket; in seconds."""
    buckets = sorted(
        (float(key.split('le="')[1].split('"')[0]), value - before.get(key, 0.0))
        for key, value in after.items()
        if key.startswith(f"{name}_bucket")
    )
    if not buckets or not buckets[-1][1]:
        return float("nan")
    wanted = share * buckets[-1][1]
    lower, below = 0.0, 0.0
    for bound, upto in buckets:
        if upto >= wanted:
            return lower + (bound - lower) * (wanted - below) / (upto - below) if bound != float("inf") else lower
        lower, below = bound, upto
    return lower


def say(**figure: object) -> None:
    print(json.dumps(figure), flush=True)
