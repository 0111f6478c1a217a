"""From `make run` to ready, first start (with database creation) and warm, and the memory of the idle process tree.

    .venv/bin/python benchmarks/startup.py --rounds 5

Prints one JSON line per figure: medians over the rounds, make, the interpreter and the three servers included.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).parent.parent
SETTLE_S = 3.0
PORTS = ("INGEST__PORT", "MANAGEMENT__PORT", "OPERATIONS__PORT", "EMBEDDED__NATS_PORT", "EMBEDDED__NATS_MONITOR_PORT")


def start(data_dir: Path) -> tuple[subprocess.Popen[str], float]:
    environment = {
        **os.environ,
        **{f"IOTPLATFORM_{name}": "0" for name in PORTS},
        "IOTPLATFORM_DATA_DIR": str(data_dir),
    }
    began = time.perf_counter()
    process = subprocess.Popen(
        ["make", "--silent", "run"],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "is ready" in line:
            return process, time.perf_counter() - began
    raise SystemExit("it did not become ready")


def stop(process: subprocess.Popen[str], data_dir: Path) -> float:
    began = time.perf_counter()
    os.kill(platform_pid(data_dir), signal.SIGTERM)
    process.wait(60)
    return time.perf_counter() - began


def platform_pid(data_dir: Path) -> int:
    return int(json.loads((data_dir / "runtime.json").read_text())["pid"])


def unique_memory_mb(pid: int) -> float:
    root = psutil.Process(pid)
    return sum(process.memory_full_info().uss for process in [root, *root.children(recursive=True)]) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    figures: dict[str, list[float]] = {
        "first_start_s": [],
        "warm_start_s": [],
        "stop_s": [],
        "idle_unique_memory_mb": [],
    }
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as temporary:
            data_dir = Path(temporary) / "data"
            process, took = start(data_dir)
            figures["first_start_s"].append(took)
            figures["stop_s"].append(stop(process, data_dir))
            process, took = start(data_dir)
            figures["warm_start_s"].append(took)
            time.sleep(SETTLE_S)
            figures["idle_unique_memory_mb"].append(unique_memory_mb(platform_pid(data_dir)))
            stop(process, data_dir)
    for name, values in figures.items():
        print(
            json.dumps(
                {
                    "benchmark": "startup",
                    "figure": name,
                    "median": round(statistics.median(values), 2),
                    "max": round(max(values), 2),
                    "rounds": rounds,
                }
            )
        )


if __name__ == "__main__":
    main()
