"""Far more than the platform can take: its memory stays flat, it refuses with 429 or 503, and it recovers by itself.

    python benchmarks/overload.py --seconds 60 --connections 512

Every connection sends batches of 1,000 readings as fast as it is answered, so the offer is several times what can be
stored. Prints one JSON line: readings accepted, answers by status, the memory of the Python process in the first and in
the last third of the time and at its highest, and how long the backlog takes to drain afterwards.
"""

from __future__ import annotations

import argparse
import time

import psutil
from pipeline import drain
from stack import result, say, stack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--connections", type=int, default=512)
    arguments = parser.parse_args()
    with stack() as platform:
        platform.organizations("bench", 1)
        process = psutil.Process(platform.process.pid)
        idle = process.memory_info().rss / 1e6
        load = platform.load(connections=arguments.connections, batch=1_000, seconds=arguments.seconds)
        held = []
        until = time.monotonic() + arguments.seconds
        while time.monotonic() < until:
            held.append(process.memory_info().rss / 1e6)
            time.sleep(0.2)
        figures = result(load)
        drained_s = drain(platform, 600)
        third = len(held) // 3
        single = result(platform.load(connections=16, seconds=5))
        say(
            benchmark="overload",
            connections=arguments.connections,
            accepted_per_s=figures["readings_per_s"],
            statuses=figures["statuses"],
            p50_ms=figures["p50_ms"],
            p99_ms=figures["p99_ms"],
            idle_mb=round(idle),
            first_third_mb=round(max(held[:third])),
            last_third_mb=round(max(held[-third:])),
            highest_mb=round(max(held)),
            drained_after_s=round(drained_s, 1),
            requests_per_s_afterwards=single["requests_per_s"],
            shares_cores=True,
        )


if __name__ == "__main__":
    main()
