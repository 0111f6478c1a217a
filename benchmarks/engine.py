"""The alarm engine: readings a second with one rule, with many, and through the analysis role's evaluation and Redis.

python benchmarks/engine.py [alone] [index] [memory] [role]
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from iotplatform.adapters.embedded import DataDirectory, EmbeddedServers, EmbeddedSettings
from iotplatform.adapters.redis.analysis import AnalysisStore, Commit, Hold
from iotplatform.adapters.redis.connection import RedisConnection
from iotplatform.domain.alarm import encode_transition
from iotplatform.domain.conditions import Condition, MOfN, NoData, Rate
from iotplatform.domain.evaluation import INITIAL, Watch, evaluate
from iotplatform.domain.organization import Organization
from iotplatform.domain.reading import Reading, decode_block, encode_readings, join_block
from iotplatform.domain.rule import Devices, Rule, Threshold
from iotplatform.roles.analysis.blocks import DecodedBlock, wanted_series
from iotplatform.roles.analysis.evaluator import Evaluation, evaluate_in_slices
from iotplatform.roles.analysis.rule_index import RuleIndex
from iotplatform.roles.analysis.states import SeriesStates, pack_states, unpack_states
from iotplatform.runtime.pace import Pace

SECONDS = 2.0
# As many blocks as a reader hands out at once.
TAKEN = 64
ORGANIZATION = Organization("orgA", 1, "A Corp", 1, 0)


def rule(rule_id: str, condition: Condition, sensor: str = "temp*", **changes: object) -> Rule:
    return Rule(rule_id, "orgA", rule_id, sensor, condition, **changes)  # type: ignore[arg-type]


def walk(count: int) -> list[float]:
    """Mostly good, sometimes in breach for a while."""
    chance, value, found = random.Random(7), 70.0, []
    for _ in range(count):
        value = min(85.0, max(60.0, value + chance.uniform(-2.0, 2.0)))
        found.append(value)
    return found


def per_second(work: Callable[[], int]) -> float:
    done, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < SECONDS:
        done += work()
    return done / took


def alone() -> None:
    points = [(number * 1_000_000, value) for number, value in enumerate(walk(100_000))]
    conditions: dict[str, Condition] = {
        "threshold": Threshold(">", 80.0),
        "threshold with clear_value": Threshold(">", 80.0, clear_value=75.0),
        "rate": Rate(">", 1.5),
        "m of n": MOfN(3, 5, ">", 80.0),
        "no data": NoData(300.0),
    }
    rules = {name: rule("r", condition) for name, condition in conditions.items()}
    rules["threshold, for_s and max_gap_s"] = rule("r", Threshold(">", 80.0), for_s=5.0, max_gap_s=3.0)
    for name, made in rules.items():
        watch = Watch(made)

        def work(watch: Watch = watch) -> int:
            state = INITIAL
            for at, value in points:
                state, _ = evaluate(watch, state, value, at, at, lambda _: "alarm")
            return len(points)

        print(f"engine alone, {name}: {per_second(work):,.0f} readings/s")


def blocks_of(series: int, per_block: int, blocks: int, sensor: str = "temp") -> list[bytes]:
    chance = random.Random(3)
    made = []
    for number in range(blocks):
        readings = [
            Reading(f"d{chance.randrange(series)}", sensor, chance.uniform(60.0, 82.0), number * 1_000_000)
            for _ in range(per_block)
        ]
        made.append(join_block([encode_readings(readings)], per_block))
    return made


def index() -> None:
    """What readings cost that no rule matches, without any rule and with 10,000 rules over 10,000 devices."""
    packed = blocks_of(10_000, 500, 20, sensor="humidity")
    decoded = [DecodedBlock(number, 0, decode_block(data)) for number, data in enumerate(packed)]
    rules = {
        "no rule at all": [],
        "10,000 rules for other sensors": [rule(f"r{n}", Threshold(">", 80.0), f"temp{n}*") for n in range(10_000)],
        "10,000 rules for one device each": [
            rule(f"r{n}", Threshold(">", 80.0), devices=Devices(ids=(f"d{n}",))) for n in range(10_000)
        ],
    }
    for name, some in rules.items():
        began = time.perf_counter()
        index = RuleIndex(some)
        made_s = time.perf_counter() - began

        def work(index: RuleIndex = index) -> int:
            wanted_series(decoded, index)
            evaluation = Evaluation(ORGANIZATION, index, {})
            for block in decoded:
                evaluation.feed(block)
            return sum(len(block.readings) for block in decoded)

        work()
        print(f"not matching, {name}: {1e9 / per_second(work):,.0f} ns a reading (index made in {made_s * 1e3:.0f} ms)")


def memory() -> None:
    """Of 20,000 series in the middle of a streak: in memory, and packed as Redis has it."""
    series = 20_000
    conditions = {"threshold": Threshold(">", 80.0), "rate": Rate(">", -1e9), "no data": NoData(300.0)}
    for name, condition in conditions.items():
        index = RuleIndex([rule("default", condition)])
        readings = [Reading(f"device-{n}", "temp", 90.0 + step, step) for n in range(series) for step in range(2)]
        wanted = wanted_series([DecodedBlock(1, 0, readings)], index)
        gc.collect()
        tracemalloc.start()
        states: dict[bytes, SeriesStates] = {key: {} for key in wanted}
        evaluation = Evaluation(ORGANIZATION, index, states)
        evaluation.feed(DecodedBlock(1, 0, readings, 1_700_000_000_000_000))
        evaluation.outcome.breaches.clear()
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        packed = sum(len(key) + len(pack_states(found)) for key, found in states.items())
        print(f"memory of a series, {name}: {used / series:,.0f} bytes in the process, {packed / series:,.0f} in Redis")


async def role() -> None:
    """Decode, find rules, load, evaluate, commit: everything that the role does between its two streams."""
    some: list[Rule] = [rule(f"limit-{n}", Threshold(">", 80.0 + n)) for n in range(6)]
    some += [
        rule("hysteresis", Threshold(">", 81.0, clear_value=75.0)),
        rule("few", MOfN(3, 5, ">", 81.0)),
        rule("door", Threshold("==", 1.0), "door*"),
        rule("low", Threshold("<", 5.0), "hum*"),
    ]
    with tempfile.TemporaryDirectory() as place, DataDirectory.open(Path(place)) as directory:
        servers = EmbeddedServers(directory, EmbeddedSettings(nats_port=0, nats_monitor_port=0))
        urls = await servers.start()
        redis = RedisConnection(urls.redis)
        try:
            store = AnalysisStore(redis)
            hold = await store.acquire(1, 0, counted=True)
            packed, index = blocks_of(1_000, 100, 384), RuleIndex(some)
            states: dict[bytes, SeriesStates] = {}
            done, position, began = 0, 0, time.perf_counter()
            while (took := time.perf_counter() - began) < 3 * SECONDS:
                first = position % len(packed)
                taken = packed[first : first + TAKEN]
                done += await _batch(store, hold, index, states, taken, position)
                position += len(taken)
            print(
                f"through the role with Redis, 10 rules of the organization, 8 of them on every reading: "
                f"{done / took:,.0f} readings/s"
            )
        finally:
            await redis.close()
            await servers.stop()


async def _batch(
    store: AnalysisStore,
    hold: Hold,
    index: RuleIndex,
    states: dict[bytes, SeriesStates],
    taken: list[bytes],
    position: int,
) -> int:
    pace = Pace()
    blocks = [
        DecodedBlock(position + number, 0, decode_block(data), position + number)
        for number, data in enumerate(taken, 1)
    ]
    missing = list(wanted_series(blocks, index) - states.keys())
    if missing:
        (found,) = await store.load([(hold, missing)])
        states.update(zip(missing, map(unpack_states, found), strict=True))
    evaluation = Evaluation(ORGANIZATION, index, states, position=position)
    outcome = await evaluate_in_slices(evaluation, blocks, pace)
    encoded = [encode_transition(transition) for transition in outcome.transitions]
    (failure,) = await store.commit([Commit(hold, position, position + len(taken), outcome.states, encoded)])
    if failure is not None:
        raise failure
    await store.clear_outbox([hold])
    return sum(len(block.readings) for block in blocks)


def main() -> None:
    parts: dict[str, Callable[[], None]] = {
        "alone": alone,
        "index": index,
        "memory": memory,
        "role": lambda: asyncio.run(role()),
    }
    for name in sys.argv[1:] or parts:
        parts[name]()


if __name__ == "__main__":
    main()
