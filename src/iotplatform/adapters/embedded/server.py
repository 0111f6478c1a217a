"""What the supervision knows of a server."""

from __future__ import annotations

import enum
import signal
from pathlib import Path
from typing import Protocol

import msgspec

from iotplatform.adapters.embedded.processes import Mark


class Health(enum.Enum):
    """How a server answered."""

    READY = "ready"
    # It answers that it is still loading or recovering.
    BUSY = "busy"
    # It answers, and needs what no restart would bring, such as room on its disk.
    WAITING = "waiting"
    # It answers that somebody has told it to stop.
    STOPPING = "stopping"
    SILENT = "silent"


class Timing(msgspec.Struct, frozen=True):
    """How patient the supervision is."""

    probe_every_s: float = 5.0
    probe_timeout_s: float = 5.0
    # So long without a good answer is a hang: killed and started anew.
    hang_after_s: float = 30.0
    first_backoff_s: float = 0.2
    most_backoff_s: float = 5.0
    # After so long in good health the back-off begins anew.
    settled_after_s: float = 30.0


class ServerStatus(msgspec.Struct, frozen=True):
    """One server, for doctor and metrics. `pid` is None while none runs."""

    server: str
    pid: int | None
    restarts: int
    healthy: bool


class StopStep(msgspec.Struct, frozen=True):
    """A signal, and how long it is given to work. SIGKILL follows the last one."""

    signal: signal.Signals
    deadline_s: float


class Command(msgspec.Struct, frozen=True):
    """What is run, and where."""

    arguments: tuple[str, ...]
    directory: Path
    environment: dict[str, str]


class Server(Protocol):
    """One kind of server: how it is prepared, run, asked and stopped."""

    name: str
    mark: Mark
    log: Path
    stop_steps: tuple[StopStep, ...]
    # Whether a server that was ready and is busy again gets out of it without a restart.
    recovers_by_itself: bool

    async def prepare(self) -> Command:
        """Before every start, when no process of it is left: configuration, a new cluster, ports."""
        ...

    async def probe(self) -> Health:
        """Really talk to it. An OSError, EOFError or ValueError counts as silence."""
        ...

    def close(self) -> None:
        """After it was stopped for good."""
        ...
