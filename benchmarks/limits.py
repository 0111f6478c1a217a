"""What limits cost at the door: POSTs of single readings with none, and with generous ones of every kind, in turns.

    python benchmarks/limits.py --rounds 4 --seconds 4

One platform, one run: the limits are switched by `PUT …/limits` between the turns, so that the machine's moods hit
both.
The last line is what is refused, and how fast, when the limit is a hundredth of what is sent.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import urllib.request
from typing import Any

from stack import Stack, result, say, stack

GENEROUS = {
    "requests": "1000000:1,100000000:60",
    "readings": "1000000:1,100000000:60",
    "device_requests": "1000000:1",
    "device_readings": "1000000:1",
}


def limit(platform: Stack, limits: dict[str, Any]) -> None:
    request = urllib.request.Request(
        f"{platform.urls['management']}/organizations/bench/limits",
        json.dumps(limits).encode(),
        {"Content-Type": "application/json"},
        method="PUT",
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        answer.read()
    # It takes effect at once in this process; the feed that tells the others comes by as well.
    time.sleep(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--connections", type=int, default=64)
    arguments = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {"none": [], "generous": []}
    with stack() as platform:
        platform.organizations("bench", 1)
        result(platform.load(connections=16, seconds=2))
        for _ in range(arguments.rounds):
            for name, limits in (("none", {}), ("generous", GENEROUS)):
                limit(platform, limits)
                found[name].append(result(platform.load(connections=arguments.connections, seconds=arguments.seconds)))
        leases = {name: value for name, value in platform.metrics().items() if name.startswith("limit_leases")}
        limit(platform, {"requests": "100:1"})
        refused = result(platform.load(connections=arguments.connections, seconds=arguments.seconds))
    medians = {
        name: statistics.median(figures["requests_per_s"] for figures in rounds) for name, rounds in found.items()
    }
    say(
        benchmark="limits",
        connections=arguments.connections,
        rounds=arguments.rounds,
        requests_per_s={name: round(value) for name, value in medians.items()},
        cost_percent=round(100 * (1 - medians["generous"] / medians["none"]), 1),
        leases=leases,
        shares_cores=True,
    )
    say(benchmark="limits_refused", statuses=refused["statuses"], requests_per_s=round(refused["requests_per_s"]))


if __name__ == "__main__":
    main()
