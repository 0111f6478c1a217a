"""`iotplatform export`: one organization in a file."""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path

from iotplatform.app.settings_source import load_settings
from iotplatform.app.transfer.exporting import export


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    parser = subparsers.add_parser(
        "export",
        parents=[common],
        help="one organization, with its readings, in a file",
        description="While the platform runs. Without what opens doors: tokens, keys, people, secrets of channels.",
    )
    parser.add_argument("organization", metavar="ORG")
    parser.add_argument("--to", required=True, metavar="FILE", help="must not exist")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    settings = load_settings(arguments.config, os.environ, data_dir=arguments.data_dir)
    target = Path(arguments.to).expanduser().absolute()
    manifest = asyncio.run(export(settings, arguments.organization, target))
    size = target.stat().st_size / (1 << 20)
    print(f"{target}: {manifest.organization_id}, {manifest.readings} readings, {size:.1f} MiB")
    for name, count in manifest.left_out.items():
        if count:
            print(f"not in it, since it opens doors: {name.replace('_', ' ')} ({count})")
    return 0
