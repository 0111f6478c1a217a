"""`iotplatform simulate`: a fleet of random walks, or a CSV file as one device."""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import re
import sys
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tqdm import tqdm

from iotplatform.app.settings_source import load_settings
from iotplatform.errors import ConfigError, PlatformError, Rejected
from iotplatform.simulator.csv_file import read_csv
from iotplatform.simulator.endpoints import (
    DEFAULT_INGEST,
    DEFAULT_MANAGEMENT,
    DEFAULT_MQTT,
    find_endpoints,
    find_mqtt,
)
from iotplatform.simulator.fleet import Fleet
from iotplatform.simulator.simulation import Simulation
from iotplatform.simulator.summary import Tally
from iotplatform.simulator.traffic import Series, Traffic

_DONE, _FAILED, _USAGE, _BAD_CONFIGURATION = 0, 1, 2, 78
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DEFAULT_DEVICES: Final = 10
_DEFAULT_RATE: Final = 10.0
_DEFAULT_BATCH: Final = 500


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    common: argparse.ArgumentParser,
) -> None:
    """Adds the command to `iotplatform`."""
    parser = subparsers.add_parser(
        "simulate",
        parents=[common],
        help="send readings: random walks, or a CSV file as one device",
        description="Sends readings to a running platform as a fleet of random walks or, with --csv, replays a file as "
        "one device. A progress bar on stderr, a summary with latencies on stdout. The organization is created when it "
        "is absent, as far as the platform lets us.",
    )
    what = parser.add_argument_group("what is sent")
    what.add_argument("--csv", type=Path, metavar="FILE", help="replay a file of timestamp,value in its order")
    what.add_argument("--organization", type=_identifier, default="lab", metavar="ID", help="default: %(default)s")
    what.add_argument(
        "--device",
        type=_identifier,
        default="machine",
        metavar="ID",
        help="default: %(default)s; a fleet's devices are called ID-1, ID-2 and so on",
    )
    what.add_argument("--sensor", default="temperature", metavar="NAME", help="default: %(default)s")
    what.add_argument(
        "--devices", type=_count, metavar="N", help=f"size of the fleet (default: {_DEFAULT_DEVICES}; not with --csv)"
    )
    what.add_argument("--seed", type=int, help="the same seed walks the same way (not with --csv)")
    pace = parser.add_argument_group("how fast")
    pace.add_argument(
        "--rate",
        type=_amount,
        metavar="N",
        help=f"readings a second, all devices together (default: {_DEFAULT_RATE:.0f}; with --csv: as fast as possible)",
    )
    pace.add_argument(
        "--duration", type=_amount, metavar="SECONDS", help="default: until Ctrl-C (not with --csv, which has an end)"
    )
    pace.add_argument(
        "--batch",
        type=_count,
        default=_DEFAULT_BATCH,
        metavar="N",
        help="readings in one request at most (default: %(default)s); what is due goes out at once",
    )
    where = parser.add_argument_group("where to")
    where.add_argument("--protocol", choices=("http", "mqtt"), default="http", help="default: %(default)s")
    where.add_argument("--token", type=_token, help="device token or API key, sent as a bearer token")
    where.add_argument(
        "--url",
        type=_base_url,
        help=f"ingestion; default: runtime.json in the data directory, else {DEFAULT_INGEST}",
    )
    where.add_argument(
        "--management-url",
        type=_base_url,
        metavar="URL",
        help=f"management; default: runtime.json in the data directory, else {DEFAULT_MANAGEMENT}",
    )
    where.add_argument(
        "--mqtt-url",
        type=_mqtt_url,
        metavar="URL",
        help=f"MQTT, for --protocol mqtt; default: runtime.json in the data directory, else {DEFAULT_MQTT}",
    )
    where.add_argument(
        "--ca",
        type=Path,
        metavar="FILE",
        help="who signed the certificates of https URLs, in PEM; default: the system's, and for a platform that is "
        "found in the data directory its own certificate",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Returns the exit code: 0, 1 (it ran and failed), 2 (usage), 78 (bad configuration)."""
    complaint = _complaint(arguments)
    if complaint:
        return _fail(complaint, _USAGE)
    try:
        traffic = _traffic(arguments)
    except Rejected as rejected:
        return _fail(str(rejected), _USAGE)
    try:
        simulation = Simulation(
            endpoints=find_endpoints(_data_dir(arguments), ingest=arguments.url, management=arguments.management_url),
            organization=arguments.organization,
            token=arguments.token,
            batch=arguments.batch,
            mqtt=_mqtt(arguments),
            ca=arguments.ca,
        )
    except ConfigError as error:
        return _fail(str(error), _BAD_CONFIGURATION)
    return _simulate(simulation, traffic)


def _simulate(simulation: Simulation, traffic: Traffic) -> int:
    failure: str | None = None
    interrupted = False
    # `disable=None`: no bar where nobody watches, such as in a log file.
    with tqdm(total=traffic.total, unit=" readings", file=sys.stderr, disable=None, dynamic_ncols=True) as bar:
        no_terminal = bar.disable
        tally = Tally(on_accepted=bar.update)
        try:
            asyncio.run(simulation.run(traffic, tally))
        except ConfigError as error:
            return _fail(str(error), _BAD_CONFIGURATION)
        except KeyboardInterrupt:
            interrupted = True
        except PlatformError as error:
            failure = str(error)
    if no_terminal and not failure:
        print(f"{tally.accepted} readings accepted in {tally.seconds:.2f} s", file=sys.stderr)
    # A failure before anything was accepted leaves nothing to sum up: its line stands alone.
    if tally.accepted or not failure:
        print(tally.report(), flush=True)
    if failure:
        return _fail(failure, _FAILED)
    # Ctrl-C is how a fleet ends; a file that was cut short has not been replayed.
    if interrupted and traffic.closes_after_s is None and traffic.total is not None:
        return _fail(f"interrupted after {tally.accepted} of {traffic.total} readings", _FAILED)
    return _DONE


def _complaint(arguments: argparse.Namespace) -> str | None:
    if arguments.csv is not None:
        for option in ("devices", "duration", "seed"):
            if getattr(arguments, option) is not None:
                return f"--{option} is for a fleet; --csv replays one file as one device, from beginning to end"
    return None


def _traffic(arguments: argparse.Namespace) -> Traffic:
    series = Series(arguments.organization, arguments.device, arguments.sensor)
    if arguments.csv is not None:
        return read_csv(arguments.csv).replay(series, arguments.rate)
    return Fleet(
        series=series,
        devices=arguments.devices or _DEFAULT_DEVICES,
        rate=arguments.rate or _DEFAULT_RATE,
        duration_s=arguments.duration,
        seed=arguments.seed,
    ).traffic()


def _mqtt(arguments: argparse.Namespace) -> str | None:
    if arguments.protocol != "mqtt":
        return None
    return find_mqtt(_data_dir(arguments), given=arguments.mqtt_url)


def _data_dir(arguments: argparse.Namespace) -> Path:
    return load_settings(arguments.config, os.environ, data_dir=arguments.data_dir).data_path


def _fail(message: str, code: int) -> int:
    print(f"iotplatform simulate: {message}", file=sys.stderr)
    return code


def _identifier(text: str) -> str:
    if not _IDENTIFIER.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} must consist of 1 to 64 letters, digits, '_' and '-'")
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _amount(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def _token(text: str) -> str:
    token = text.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        # Without the text itself: it may be a secret with a slip in it.
        raise argparse.ArgumentTypeError("a token is one word of printable ASCII characters")
    return token


def _base_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        # No user and password: they would stand in the way of the token.
        plain = not (parts.query or parts.fragment or parts.username)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and plain
    except ValueError:
        valid = False
    if not valid:
        raise argparse.ArgumentTypeError(f"not a base URL such as {DEFAULT_INGEST}")
    return text


def _mqtt_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("mqtt", "mqtts") and parts.hostname and parts.port != 0 and not parts.path.strip("/")
    except ValueError:
        valid = False
    if not valid:
        raise argparse.ArgumentTypeError(f"not an address such as {DEFAULT_MQTT}")
    return text
