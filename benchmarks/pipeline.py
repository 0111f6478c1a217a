"""The whole pipeline: readings accepted, analysed and stored, at a rate that is held, and latencies at half of it.

    python benchmarks/pipeline.py --rates 60000 80000 --seconds 60 --organizations 1 100 1000

For each number of organizations the rates are tried in turn, in batches of 100, until one isn't held: held means that a
second after the load's end everything is stored and analysed but for a second's worth. At half of the highest rate that
was held, 50 alarms a second are raised and cleared beside it, and the latencies are read off the platform's histograms
(interpolated inside their buckets). Before, every device has sent once and is registered: a new fleet costs more. CPU
and memory are those of the whole process tree without the load generator, which shares the two cores. Prints one JSON
line a figure.
"""

from __future__ import annotations

import argparse
import time

from stack import Stack, quantile, result, say, stack

BATCH = 100
ALARMS_PER_S = 50
# New devices, as measured with others' readings arriving meanwhile.
REGISTERED_PER_S = 1_500
LATENCIES = ("ingest_request_seconds", "reading_to_stored_seconds", "breach_to_notification_seconds")


def backlog(platform: Stack) -> float:
    samples = platform.metrics()
    return samples["readings_accepted_total"] - samples["readings_stored_total"]


def drain(platform: Stack, within_s: float = 120.0) -> float:
    """How long it takes until everything is stored."""
    began = time.monotonic()
    while backlog(platform) and time.monotonic() - began < within_s:
        time.sleep(0.1)
    return time.monotonic() - began


def hold(platform: Stack, organizations: int, rate: float, seconds: float) -> bool:
    cpu = platform.cpu_s()
    stored = platform.metrics()["readings_stored_total"]
    load = platform.load(organizations=organizations, batch=BATCH, rate=rate / BATCH, seconds=seconds, connections=64)
    time.sleep(seconds / 2)
    memory = platform.memory_mb()
    figures = result(load)
    time.sleep(1.0)
    left = backlog(platform)
    lag = {name: value for name, value in platform.metrics().items() if name.startswith("consumer_lag_messages")}
    stored = platform.metrics()["readings_stored_total"] - stored
    held = left <= rate and figures["readings_per_s"] >= 0.97 * rate
    drained_s = drain(platform)
    spent = {name: round(now - cpu.get(name, 0.0), 1) for name, now in platform.cpu_s().items()}
    say(
        benchmark="pipeline",
        figure="throughput",
        organizations=organizations,
        rate=rate,
        held=held,
        accepted_per_s=figures["readings_per_s"],
        stored_per_s=round(stored / (seconds + 1.0)),
        left_after_1_s=left,
        lag_messages=lag,
        drained_after_s=round(1.0 + drained_s, 1),
        request_p50_ms=figures["p50_ms"],
        request_p99_ms=figures["p99_ms"],
        statuses=figures["statuses"],
        seconds=seconds,
        cpu_s=spent,
        memory_mb=memory,
        memory_total_mb=round(sum(memory.values()), 1),
        shares_cores=True,
    )
    return held


def latencies(platform: Stack, organizations: int, rate: float, seconds: float) -> None:
    before = platform.metrics()
    figures = result(
        platform.load(
            organizations=organizations,
            batch=BATCH,
            rate=rate / BATCH,
            alarms=ALARMS_PER_S,
            seconds=seconds,
            connections=64,
        )
    )
    drain(platform)
    time.sleep(1.0)
    after = platform.metrics()
    for name in LATENCIES:
        say(
            benchmark="pipeline",
            figure=name,
            organizations=organizations,
            rate=rate,
            alarms_per_s=ALARMS_PER_S,
            count=after[f"{name}_count"] - before.get(f"{name}_count", 0.0),
            p50_ms=round(quantile(before, after, name, 0.5) * 1e3, 1),
            p99_ms=round(quantile(before, after, name, 0.99) * 1e3, 1),
            p999_ms=round(quantile(before, after, name, 0.999) * 1e3, 1),
            accepted_per_s=figures["readings_per_s"],
            shares_cores=True,
        )


def warm_up(platform: Stack, organizations: int) -> None:
    """Every device once, and time for all of them to be registered, which goes on in the background."""
    seconds = 5 + 2 * organizations / 200
    result(platform.load(organizations=organizations, batch=BATCH, rate=200, seconds=seconds))
    time.sleep(organizations * BATCH / REGISTERED_PER_S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=[60_000, 70_000, 80_000])
    parser.add_argument("--organizations", type=int, nargs="+", default=[1, 100, 1_000])
    parser.add_argument("--seconds", type=float, default=60)
    arguments = parser.parse_args()
    for organizations in arguments.organizations:
        with stack() as platform:
            time.sleep(5.0)
            idle = platform.memory_mb()
            say(benchmark="pipeline", figure="idle_memory", total_mb=round(sum(idle.values()), 1), memory_mb=idle)
            platform.organizations("bench", organizations)
            warm_up(platform, organizations)
            best = 0.0
            for rate in arguments.rates:
                if not hold(platform, organizations, rate, arguments.seconds):
                    break
                best = rate
            drain(platform)
            latencies(platform, organizations, (best or arguments.rates[0]) / 2, arguments.seconds)


if __name__ == "__main__":
    main()
