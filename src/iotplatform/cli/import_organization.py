"""`iotplatform import`: an organization out of a file."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from iotplatform.app.settings_source import load_settings
from iotplatform.app.transfer.importing import import_organization
from iotplatform.domain.identifiers import identifier_fault


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    parser = subparsers.add_parser(
        "import",
        parents=[common],
        help="an organization out of a file that export has made",
        description="While the platform runs. All of the file is checked first; run it again to go on with one that"
        " was interrupted.",
    )
    parser.add_argument("--from", required=True, dest="source", metavar="FILE", help="what export has made")
    parser.add_argument("--as", dest="as_id", metavar="ID", help="give the organization another id")
    parser.add_argument("--channels-off", action="store_true", help="switch off all channels but those of type log")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    settings = load_settings(arguments.config, os.environ, data_dir=arguments.data_dir)
    if arguments.as_id is not None and (fault := identifier_fault(arguments.as_id)):
        print(f"iotplatform import: --as {fault}", file=sys.stderr)
        return 2
    source = Path(arguments.source).expanduser().absolute()
    done = asyncio.run(import_organization(settings, source, arguments.as_id, channels_off=arguments.channels_off))
    begun = " (begun before, and finished now)" if done.resumed else ""
    print(f"{done.organization_id}: is there, with {done.manifest.readings} readings{begun}")
    for channel in done.channels:
        print(f"channel {channel}: is switched off: its secrets are not in the file; set them again")
    for name, count in done.manifest.left_out.items():
        if count:
            print(f"to be made again: {name.replace('_', ' ')} ({count})")
    return 0
