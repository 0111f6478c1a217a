"""The door: POSTs of single readings over 64 and 256 connections, synced and unsynced, and batches of 100.

    python benchmarks/door.py --rounds 3 --seconds 10

All five roles run, so what is accepted is analysed and stored by the same process on the same cores, as is the load.
Prints one JSON line a figure: medians over the rounds. Synced and unsynced take turns, so that the machine's moods hit
both.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from stack import result, say, stack

CASES = ({"connections": 64, "batch": 1}, {"connections": 256, "batch": 1}, {"connections": 64, "batch": 100})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    arguments = parser.parse_args()
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
