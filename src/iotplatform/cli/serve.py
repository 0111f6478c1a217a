"""`iotplatform serve`: run roles until a signal."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import sys
from contextlib import suppress
from typing import Any

import structlog
import uvloop

from iotplatform.adapters.postgres.errors import is_echo
from iotplatform.app.banner import banner, show
from iotplatform.app.platform import Platform
from iotplatform.app.runtime_file import RuntimeFile
from iotplatform.app.settings import ROLES, RoleName, Settings, parse_roles
from iotplatform.app.settings_source import load_settings
from iotplatform.app.traces import open_tracer
from iotplatform.observability.log_level import LogLevel
from iotplatform.observability.logs import configure
from iotplatform.observability.metrics import Metrics
from iotplatform.runtime.tasks import TaskDied

log = structlog.get_logger()


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    parser = subparsers.add_parser("serve", parents=[common], help="run the platform, or some of its roles")
    parser.add_argument(
        "--roles", metavar="ROLE,...", help=f"out of {', '.join(ROLES)} (default: all of them)", default=None
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    settings = load_settings(arguments.config, os.environ, data_dir=arguments.data_dir, roles=arguments.roles)
    try:
        roles = parse_roles(settings.roles)
    except ValueError as error:
        print(f"iotplatform serve: --roles: {error}", file=sys.stderr)
        return 2
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, roles))


async def _serve(settings: Settings, roles: frozenset[RoleName]) -> int:
    metrics = Metrics()
    logging = configure(metrics, format_=settings.log.format, level=settings.log.level)
    tracer = metrics.tracer = await open_tracer(settings.otlp, metrics)
    try:
        return await _run(settings, roles, metrics, logging.level)
    finally:
        if tracer is not None:
            await asyncio.to_thread(tracer.close)
        await asyncio.to_thread(logging.writer.close)


async def _run(settings: Settings, roles: frozenset[RoleName], metrics: Metrics, log_level: LogLevel) -> int:
    platform = Platform(settings, roles, metrics)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_complain)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, platform.stop)
    loop.add_signal_handler(signal.SIGUSR1, log_level.say_more)
    loop.add_signal_handler(signal.SIGUSR2, log_level.reset)
    if platform.reload is not None:
        loop.add_signal_handler(signal.SIGHUP, platform.reload)

    def ready(file: RuntimeFile, took_s: float) -> None:
        # What stands now stays: routes, documents, the metadata of tables. A full collection that walks through all of
        # it stops the event loop for 90 to 110 ms, which notifications would see.
        gc.collect()
        gc.freeze()
        log.info(
            "platform.ready",
            ingest=file.ingest,
            management=file.management,
            operations=file.operations,
            auth_mode="required" if settings.auth_required else "open",
            roles=sorted(roles),
            took_s=round(took_s, 3),
        )
        # For people. Where nobody reads along, standard output carries nothing but log lines.
        out = sys.stdout if sys.stdout.isatty() else sys.stderr
        with suppress(OSError):
            show(banner(file, settings, took_s, platform.setup_token), out)

    try:
        await platform.run(ready)
    except TaskDied as error:
        log.error(  # noqa: TRY400 - the cause is what counts, and it is given
            "platform.died", detail=str(error), exc_info=error.__cause__
        )
        return 1
    log.info("platform.stopped")
    return 0


def _complain(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if not is_echo(context):
        loop.default_exception_handler(context)
