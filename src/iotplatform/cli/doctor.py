"""`iotplatform doctor`: settings, reachability, versions, clock, disk; one line each, and what to do about it."""

from __future__ import annotations

import argparse
import asyncio
import os

from iotplatform.app.doctor import examine_within, lines_of
from iotplatform.app.settings_source import load_settings
from iotplatform.domain.finding import ok, problem
from iotplatform.errors import ConfigError


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    parser = subparsers.add_parser(
        "doctor",
        parents=[common],
        help="what is wrong, and what to do about it",
        description="Looks at settings, servers, versions, clocks and the disk, of a platform that runs or is to run. "
        "Exit code 1 when there is a problem, 78 when the settings are wrong.",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    try:
        settings = load_settings(arguments.config, os.environ, data_dir=arguments.data_dir)
    except ConfigError as error:
        print("\n".join(lines_of([problem("settings", str(error), "correct it; config/example.toml has every key")])))
        return 78
    findings = [ok("settings", "they can be used"), *asyncio.run(examine_within(settings))]
    print("\n".join(lines_of(findings)))
    return 1 if any(finding.state == "problem" for finding in findings) else 0
