"""`iotplatform restore`: a backup put into an empty data directory."""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path

from iotplatform.adapters.embedded.manifest import CONFIG
from iotplatform.app.backup import restore
from iotplatform.app.settings_source import load_settings


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    parser = subparsers.add_parser(
        "restore",
        parents=[common],
        help="a backup put into an empty data directory",
        description="Checks every file of the backup; puts all of it back, or nothing.",
    )
    parser.add_argument("--from", required=True, dest="source", metavar="FOLDER|FILE.tar", help="what backup has made")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    settings = load_settings(arguments.config, os.environ, data_dir=arguments.data_dir)
    manifest = asyncio.run(restore(settings, Path(arguments.source).expanduser().absolute()))
    place = settings.data_path
    print(f"{place}: is as it was at {manifest.created_at}, when iotplatform {manifest.version} had it")
    if any(file.path == CONFIG for file in manifest.files):
        print(f"its settings: --config {place / CONFIG}")
    return 0
