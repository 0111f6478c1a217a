"""Breaks the platform by a seeded random plan while clients send, and says whether every promise was kept.

    .venv/bin/python benchmarks/faults.py --minutes 5 --seed 7

The platform runs as five processes, its servers embedded in one of them. Processes and servers are killed, paused and
restarted, up to three at once. Prints a JSON line of figures for each seed; exit code 1 when anything was lost, doubled
without reason or not told, and then a report file has what each process and server said. The same seed makes the same
plan. Readings are not sent as fast as possible: this measures what breaks, not speed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.support.deployment import ONE_OF_EACH
from tests.support.fault_run import Report, Setup, run_faults


async def _run(setup: Setup, folder: Path) -> Report:
    return await run_faults(folder, setup)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="of faults, for each seed")
    parser.add_argument("--seed", type=int, nargs="+", default=[1], help="one run for each")
    parser.add_argument("--processes", type=int, default=1, help="of analysis and of persistence")
    parser.add_argument("--keys", action="store_true", help="every retry carries an Idempotency-Key")
    parser.add_argument("--folder", type=Path, help="where data and reports go (default: a temporary one)")
    arguments = parser.parse_args()
    layout = {**ONE_OF_EACH, "analysis": arguments.processes, "persistence": arguments.processes}
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="iot-faults-"))
    kept = True
    for seed in arguments.seed:
        setup = Setup(seed, arguments.minutes * 60, layout=layout, keys=arguments.keys, strict=False)
        report = asyncio.run(_run(setup, folder / f"seed-{seed}"))
        print(json.dumps({"benchmark": "faults", **report.figures}), flush=True)
        for violation in report.violations:
            print(json.dumps({"seed": seed, "violation": violation, "report": report.file}), flush=True)
        kept = kept and not report.violations
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
