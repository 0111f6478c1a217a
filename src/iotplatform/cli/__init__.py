"""The command line: one file for each command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Final

from iotplatform import __version__
from iotplatform.cli import ledger, migrate, serve, simulate
from iotplatform.errors import ConfigError, PlatformError
from iotplatform.observability.logs import configure_quiet

EXIT_FAILED: Final = 1
EXIT_BAD_CONFIGURATION: Final = 78


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, 1 (it ran and failed), 2 (usage), 78 (bad configuration)."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", metavar="FILE", help="settings in TOML; config/example.toml documents every key")
    common.add_argument("--data-dir", metavar="DIR", help="where everything embedded lives (default: ./.iotplatform)")
    parser = argparse.ArgumentParser(prog="iotplatform", description="Telemetry, alarms and history for a fleet.")
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (serve, migrate, ledger, simulate):
        command.add_parser(subparsers, common)
    parsed = parser.parse_args(arguments)
    # `serve` sets up its own as soon as it knows its settings.
    configure_quiet()
    try:
        return int(parsed.run(parsed))
    except ConfigError as error:
        print(f"iotplatform: {error}", file=sys.stderr)
        return EXIT_BAD_CONFIGURATION
    except PlatformError as error:
        print(f"iotplatform: {error}", file=sys.stderr)
        return EXIT_FAILED
