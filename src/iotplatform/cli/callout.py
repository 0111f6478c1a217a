"""`iotplatform callout`: the public keys that a nats-server of one's own needs to let devices in."""

from __future__ import annotations

import argparse
import os

from iotplatform.adapters.nats.callout_keys import CalloutKeys
from iotplatform.app.settings_source import load_settings
from iotplatform.errors import ConfigError


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    parser = subparsers.add_parser(
        "callout",
        parents=[common],
        help="the public keys for the configuration of a nats-server of your own",
        description="Prints the public keys that belong to nats.callout_seed or, without it, to the password in "
        "nats.url: what config/nats/devices.conf asks for.",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    settings = load_settings(arguments.config, os.environ, data_dir=arguments.data_dir)
    seed, url = settings.nats.callout_seed, settings.nats.url
    keys = CalloutKeys.load(seed) if seed is not None else CalloutKeys.of_url(url) if url is not None else None
    if keys is None:
        raise ConfigError("nats.callout_seed is not set, and nats.url has no password: the keys follow from either")
    print(f"NATS_CALLOUT_ISSUER={keys.issuer}")
    print(f"NATS_CALLOUT_AUTH={keys.auth_user}")
    print(f"NATS_CALLOUT_SYSTEM={keys.system_user}")
    return 0
