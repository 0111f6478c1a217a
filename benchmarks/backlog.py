"""A backlog of an hour, drained while live traffic goes on.

    python benchmarks/backlog.py --hour-rate 1000 --live-rate 5000

One process takes readings and holds the servers; what stores and analyses is away until as many readings wait as come
in an hour at `--hour-rate`. Then a second process with these roles starts, while live traffic goes on at `--live-rate`.
Prints one JSON line: the backlog, how long until the roles are level with the live traffic, and how long requests took
meanwhile.
"""

from __future__ import annotations

import argparse
import time

from stack import Stack, quantile, result, say, stack

BATCH = 100


def waiting(door: Stack, store: Stack) -> float:
    return door.metrics()["readings_accepted_total"] - store.metrics()["readings_stored_total"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hour-rate", type=float, default=1_000)
    parser.add_argument("--live-rate", type=float, default=5_000)
    arguments = parser.parse_args()
    wanted = arguments.hour_rate * 3_600
    with stack(roles="ingest,management") as door:
        door.organizations("bench", 1)
        while (accepted := door.metrics()["readings_accepted_total"]) < wanted:
            seconds = min(20.0, max(1.0, (wanted - accepted) / 100_000))
            result(door.load(connections=64, batch=BATCH, seconds=seconds))
        backlog = door.metrics()["readings_accepted_total"]
        servers = {f"{name}__url": door.urls[name] for name in ("nats", "postgres", "redis")}
        live = door.load(connections=16, batch=BATCH, rate=arguments.live_rate / BATCH, seconds=600)
        before = door.metrics()
        began = time.monotonic()
        with stack(roles="analysis,persistence,notification", **servers) as store:
            while waiting(door, store) > arguments.live_rate:
                time.sleep(0.2)
            stored_s = time.monotonic() - began
            while store.metrics()['consumer_lag_messages{role="analysis"}'] > 2 * arguments.live_rate / BATCH:
                time.sleep(0.2)
            level_s = time.monotonic() - began
            after = door.metrics()
            cpu = store.cpu_s()
            memory = store.memory_mb()
            live.terminate()
            live.wait()
        say(
            benchmark="backlog",
            backlog_readings=backlog,
            live_rate=arguments.live_rate,
            stored_after_s=round(stored_s, 1),
            level_after_s=round(level_s, 1),
            drained_per_s=round(backlog / stored_s),
            door_p50_ms=round(quantile(before, after, "ingest_request_seconds", 0.5) * 1e3, 1),
            door_p99_ms=round(quantile(before, after, "ingest_request_seconds", 0.99) * 1e3, 1),
            cpu_s={name: round(spent, 1) for name, spent in cpu.items()},
            memory_mb=memory,
            shares_cores=True,
        )


if __name__ == "__main__":
    main()
