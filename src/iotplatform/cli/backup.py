"""`iotplatform backup`: everything that a stopped platform keeps, in a folder or a tar file."""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path

from iotplatform.app.backup import back_up, left_out
from iotplatform.app.settings_source import load_settings


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    parser = subparsers.add_parser(
        "backup",
        parents=[common],
        help="everything that a stopped platform keeps, in a folder or a tar file",
        description="Of a platform with embedded servers, while it is stopped. The backup holds its keys and secrets.",
    )
    parser.add_argument(
        "--to", required=True, metavar="FOLDER|FILE.tar", help="must not exist; a name that ends in .tar is a file"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    settings = load_settings(arguments.config, os.environ, data_dir=arguments.data_dir)
    target = Path(arguments.to).expanduser().absolute()
    manifest = asyncio.run(back_up(settings, target, Path(arguments.config) if arguments.config else None))
    print(f"{target}: {len(manifest.files)} files, {manifest.bytes / (1 << 20):.1f} MiB, as of {manifest.created_at}")
    for name in left_out(settings):
        print(f"not in it, since it comes from the settings: {name}")
    return 0
