"""The door: POSTs of single readings over 64 and 256 connections, synced and unsynced, and batches of 100.

    python benchmarks/door.py --rounds 3 --seconds 10

All five roles run, so what is accepted is analysed and stored by the same process on the same cores, as is the load.
Prints one JSON line a figure: medians over the rounds. Synced and unsynced take turns, so that the machine's moods hit
both.

    python benchmarks/door.py --access --rounds 20 --seconds 1

What access costs: single readings over 64 connections, synced, to an open platform without limits; to one that requires
credentials, where each request carries a device's token and all four kinds of limits hold; and to a second open one,
whose "cost" tells what the machine's noise alone makes of it. All run all the while and are loaded in turns, each of
them first, second and last equally often. A machine's moods last longer than a round, so the cost is the median of what
the rounds say, each of its own figures; the quartiles stand beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from stack import Stack, result, say, stack

CASES = ({"connections": 64, "batch": 1}, {"connections": 256, "batch": 1}, {"connections": 64, "batch": 100})


# Wide enough to refuse nothing.
LIMITS = {
    "requests": "1000000:1,100000000:60",
    "readings": "1000000:1,100000000:60",
    "device_requests": "100000:1",
    "device_readings": "100000:1",
}
CONNECTIONS = DEVICES = 64
PASSWORD = "a passphrase for the benchmark"


Ways = dict[str, tuple[Stack, dict[str, Any]]]


def in_turns(ways: Ways, rounds: int, seconds: float) -> dict[str, list[dict[str, Any]]]:
    """The figures of each platform, loaded with its options; every one of them equally often first, second and last."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for turn in range(len(ways)):
            name = list(ways)[(turn + number) % len(ways)]
            platform, options = ways[name]
            before = platform.cpu_s()
            load = platform.load(connections=CONNECTIONS, devices=DEVICES, seconds=seconds, **options)
            figures = result(load)
            requests = sum(figures["statuses"].values())
            figures["cpu_us"] = {
                program: (spent - before.get(program, 0.0)) / requests * 1e6
                for program, spent in platform.cpu_s().items()
            }
            if number:  # the first one warms up
                found[name].append(figures)
    return found


def measure_access(rounds: int, seconds: float) -> None:
    limits = {f"limits__{name}": value for name, value in LIMITS.items()}
    with (
        tempfile.TemporaryDirectory() as folder,
        stack() as free,
        stack() as control,
        stack(auth__mode="required", **limits) as walled,
    ):
        free.organizations("bench", 1)
        control.organizations("bench", 1)
        tokens = Path(folder) / "tokens.json"
        tokens.write_text(json.dumps(device_tokens(walled)))
        ways: Ways = {"open": (free, {}), "control": (control, {}), "required": (walled, {"tokens": str(tokens)})}
        found = in_turns(ways, rounds, seconds)
        # Every request was counted against its limits, and every credential was looked at.
        leases = sum(value for name, value in walled.metrics().items() if name.startswith("limit_leases"))
    costs = {
        other: [
            100 * (1 - figures["requests_per_s"] / one["requests_per_s"])
            for one, figures in zip(found["open"], found[other], strict=True)
        ]
        for other in ("control", "required")
    }
    medians = {name: statistics.median(figures["requests_per_s"] for figures in of) for name, of in found.items()}
    say(
        benchmark="access",
        connections=CONNECTIONS,
        rounds=rounds,
        requests_per_s={name: round(value) for name, value in medians.items()},
        each={name: [figures["requests_per_s"] for figures in of] for name, of in found.items()},
        cpu_us_of_a_request={
            name: {
                program: round(statistics.median(figures["cpu_us"][program] for figures in of), 1)
                for program in sorted(of[0]["cpu_us"])
            }
            for name, of in found.items()
        },
        statuses={
            name: sorted({status for figures in of for status in figures["statuses"]}) for name, of in found.items()
        },
        cost_percent={
            name: dict(zip(("lower", "median", "upper"), (round(cut, 1) for cut in cuts(of)), strict=True))
            for name, of in costs.items()
        },
        leases=leases,
        shares_cores=True,
    )


def cuts(values: list[float]) -> list[float]:
    """Quartiles."""
    return statistics.quantiles(values, n=4) if len(values) > 1 else values * 3


def device_tokens(platform: Stack) -> list[str]:
    """Of devices that are made for it, by an administrator who is made for it too."""
    command = ("users", "create-admin", "--email", "ops@example.org", "--password-stdin")
    subprocess.run(
        [sys.executable, "-m", "iotplatform", *command, "--data-dir", str(platform.data_dir)],
        input=PASSWORD.encode(),
        stdout=subprocess.DEVNULL,
        check=True,
    )
    login = platform.make("/auth/login", {"email": "ops@example.org", "password": PASSWORD})
    headers = {"Authorization": f"Bearer {login['access_token']}"}
    platform.make("/organizations", {"id": "bench", "name": "bench"}, headers)
    return [
        platform.make("/organizations/bench/devices", {"id": f"device-{number}", "name": "D"}, headers)["token"]
        for number in range(DEVICES)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--access", action="store_true", help="what credentials and limits cost, and nothing else")
    arguments = parser.parse_args()
    if arguments.access:
        measure_access(arguments.rounds, arguments.seconds)
        return
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for _ in range(arguments.rounds):
        for sync in ("always", "2m"):
            with stack(embedded__nats_sync=sync) as platform:
                platform.organizations("bench", 1)
                result(platform.load(connections=16, seconds=2))
                for number, case in enumerate(CASES):
                    before = sum(platform.cpu_s().values())
                    figures = result(platform.load(seconds=arguments.seconds, **case))
                    figures["cpu_s"] = sum(platform.cpu_s().values()) - before
                    figures["memory_mb"] = sum(platform.memory_mb().values())
                    found.setdefault((sync, number), []).append(figures)
    for (sync, number), rounds in sorted(found.items(), key=lambda item: (item[0][1], item[0][0])):
        say(
            benchmark="door",
            sync=sync,
            **CASES[number],
            rounds=len(rounds),
            **{
                name: round(statistics.median(figures[name] for figures in rounds), 2)
                for name in ("requests_per_s", "readings_per_s", "p50_ms", "p99_ms", "cpu_s", "memory_mb")
            },
            refused=sum(
                count for figures in rounds for status, count in figures["statuses"].items() if status != "202"
            ),
            shares_cores=True,
        )


if __name__ == "__main__":
    main()
