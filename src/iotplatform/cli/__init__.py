"""The command line: one file for each command."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from iotplatform import __version__
from iotplatform.errors import ConfigError, PlatformError
from iotplatform.observability.logs import configure_quiet

EXIT_FAILED: Final = 1
EXIT_BAD_CONFIGURATION: Final = 78

COMMANDS: Final = {
    "serve": "run the platform, or some of its roles",
    "migrate": "bring the database to this version's schema",
    "ledger": "accepted, stored, dead-lettered and in flight for each organization",
    "doctor": "what is wrong, and what to do about it",
    "backup": "everything that a stopped platform keeps, in a folder or a tar file",
    "restore": "a backup put into an empty data directory",
    "export": "one organization, with its readings, in a file",
    "import": "an organization out of a file that export has made",
    "callout": "the public keys for the configuration of a nats-server of your own",
    "users": "people who may log in: users create-admin --email E --password-stdin",
    "simulate": "a fleet of devices, or a CSV file as one device",
}
# A module can't be called `import`.
_MODULES: Final = {"export": "export_organization", "import": "import_organization"}


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, 1 (it ran and failed), 2 (usage), 78 (bad configuration)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # Importing makes a hundred thousand objects that stay: they are not searched for garbage, now or later.
    gc.disable()
    parsed = _parser(given).parse_args(given)
    gc.freeze()
    gc.enable()
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


def _parser(given: list[str]) -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", metavar="FILE", help="settings in TOML; config/example.toml documents every key")
    common.add_argument("--data-dir", metavar="DIR", help="where everything embedded lives (default: ./.iotplatform)")
    parser = argparse.ArgumentParser(prog="iotplatform", description="Telemetry, alarms and history for a fleet.")
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    wanted = next((argument for argument in given if not argument.startswith("-")), None)
    for name, summary in COMMANDS.items():
        if name == wanted:
            # Only the command that runs is imported: most of a command's time would be spent on importing the others.
            import_module(f"iotplatform.cli.{_MODULES.get(name, name)}").add_parser(subparsers, common)
        else:
            subparsers.add_parser(name, help=summary)
    return parser
