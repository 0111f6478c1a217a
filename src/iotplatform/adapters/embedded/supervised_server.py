"""One server process: started, watched, started anew, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time

import structlog

from iotplatform.adapters.embedded.processes import stop_all
from iotplatform.adapters.embedded.server import Health, Server, ServerStatus, Timing
from iotplatform.adapters.embedded.server_log import keep_bounded, last_words, open_log
from iotplatform.errors import PlatformError, Unavailable
from iotplatform.runtime.backoff import Backoff

log = structlog.get_logger()

# Processes that lost their server notice it themselves; this long they may take.
_ORPHANS_LEAVE_S = 2.0
# A killed process that is still there after that waits for a disk.
_KILL_S = 10.0


class SupervisedServer:
    """Exactly one process of a server at a time, from `start` to `stop`."""

    def __init__(self, server: Server, timing: Timing) -> None:
        self._server = server
        self._timing = timing
        self._backoff = Backoff(timing.first_backoff_s, timing.most_backoff_s)
        self._process: asyncio.subprocess.Process | None = None
        # Held by whoever starts or stops a process.
        self._turn = asyncio.Lock()
        self._stopping = False
        self._healthy = False
        self._restarts = 0

    @property
    def status(self) -> ServerStatus:
        process = self._process
        pid = process.pid if process is not None and process.returncode is None else None
        return ServerStatus(self._server.name, pid, self._restarts, pid is not None and self._healthy)

    async def start(self) -> None:
        """Returns when it answers.

        Raises:
            ConfigError: it can't run under these settings.
            Unavailable: it ended or kept silent.
        """
        self._stopping = False
        await self.stop_leftovers()
        async with self._turn:
            began = time.monotonic()
            pid = await self._launch()
            log.info("embedded.started", server=self._server.name, pid=pid, took_s=round(time.monotonic() - began, 3))

    async def stop_leftovers(self) -> None:
        """What an earlier run left behind when it was killed: we have the data directory, so it is nobody's."""
        steps = [(step.signal, step.deadline_s) for step in self._server.stop_steps]
        left = await stop_all(self._server.mark, steps)
        if left:
            log.warning("embedded.leftovers_stopped", server=self._server.name, processes=left)

    async def supervise(self) -> None:
        """Until it is stopped or cancelled. Nothing that happens to the server ends it."""
        while not self._stopping:
            reason = await self._watch()
            while not self._stopping:
                log.warning("embedded.died", server=self._server.name, reason=reason)
                await self._backoff.wait()
                try:
                    await self._restart()
                except (PlatformError, OSError) as error:
                    reason = str(error)
                else:
                    break

    async def stop(self) -> None:
        """Orderly, within the server's deadlines; at the end nothing of it is left."""
        self._stopping = True
        async with self._turn:
            began = time.monotonic()
            process = self._process
            if process is not None:
                await self._end_orderly(process)
            await self._stop_orphans()
            self._server.close()
            if process is not None:
                took_s = round(time.monotonic() - began, 3)
                log.info("embedded.stopped", server=self._server.name, exit_code=process.returncode, took_s=took_s)
            self._process = None

    async def _restart(self) -> None:
        async with self._turn:
            if self._stopping:
                return
            began = time.monotonic()
            await self._stop_orphans()
            pid = await self._launch()
            self._restarts += 1
            took_s = round(time.monotonic() - began, 3)
            log.warning("embedded.restarted", server=self._server.name, pid=pid, took_s=took_s, times=self._restarts)

    async def _launch(self) -> int:
        command = await self._server.prepare()
        output = await asyncio.to_thread(open_log, self._server.log)
        try:
            # A session of its own: Ctrl-C in the terminal reaches us, and the servers after the drain.
            process = await asyncio.create_subprocess_exec(
                *command.arguments,
                cwd=command.directory,
                env=command.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        finally:
            os.close(output)
        self._process = process
        await self._answers(process)
        self._healthy = True
        return process.pid

    async def _answers(self, process: asyncio.subprocess.Process) -> None:
        silent_since = time.monotonic()
        pause_s = 0.01
        while not self._stopping:
            health = await self._probe()
            if health is Health.READY and process.returncode is None:
                return
            if health in {Health.BUSY, Health.WAITING}:
                silent_since = time.monotonic()
            if await self._ends_within(process, pause_s):
                raise await self._failure(f"ended with exit code {process.returncode}")
            if time.monotonic() - silent_since > self._timing.hang_after_s:
                await self._ends(process, signal.SIGKILL, _KILL_S)
                raise await self._failure(f"did not answer for {self._timing.hang_after_s:g} s")
            pause_s = min(pause_s * 1.5, 0.2)
        raise Unavailable(f"the embedded {self._server.name} was stopped while it started")

    async def _failure(self, what: str) -> Unavailable:
        words = await asyncio.to_thread(last_words, self._server.log)
        said = f"; its last words: {words}" if words else ""
        return Unavailable(f"the embedded {self._server.name} {what}{said} (see {self._server.log})")

    async def _watch(self) -> str:
        """Until the process has ended, or was killed because it hangs. Says why."""
        process = self._process
        if process is None:
            return "not running"
        well_since = time.monotonic()
        failing_since: float | None = None
        while not await self._ends_within(process, self._timing.probe_every_s):
            now = time.monotonic()
            health = await self._probe()
            self._healthy = health is Health.READY
            if self._healthy or self._is_left_alone(health):
                failing_since = None
                if now - well_since > self._timing.settled_after_s:
                    self._backoff.reset()
            elif failing_since is None:
                failing_since = well_since = now
                if not self._stopping:
                    log.warning("embedded.unhealthy", server=self._server.name, pid=process.pid, health=health.value)
            elif time.monotonic() - failing_since > self._timing.hang_after_s:
                async with self._turn:
                    if not self._stopping:
                        if health is Health.SILENT:
                            await self._ends(process, signal.SIGKILL, _KILL_S)
                        else:
                            # It listens: it can put away its things.
                            await self._end_orderly(process)
                return f"hung for {self._timing.hang_after_s:g} s"
            await asyncio.to_thread(keep_bounded, self._server.log)
        self._healthy = False
        return f"ended with exit code {process.returncode}"

    def _is_left_alone(self, health: Health) -> bool:
        """Whether it is not well, and a restart would not make it better."""
        return health is Health.WAITING or (health is Health.BUSY and self._server.recovers_by_itself)

    async def _probe(self) -> Health:
        try:
            async with asyncio.timeout(self._timing.probe_timeout_s):
                return await self._server.probe()
        except (OSError, EOFError, ValueError, IndexError):
            return Health.SILENT

    async def _stop_orphans(self) -> None:
        # The processes of a PostgreSQL that was killed outlive it for a moment, and a new one can't start before.
        await stop_all(self._server.mark, [(None, _ORPHANS_LEAVE_S)])

    async def _end_orderly(self, process: asyncio.subprocess.Process) -> None:
        for step in self._server.stop_steps:
            if await self._ends(process, step.signal, step.deadline_s):
                return
        await self._ends(process, signal.SIGKILL, _KILL_S)

    async def _ends(self, process: asyncio.subprocess.Process, sign: signal.Signals, deadline_s: float) -> bool:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(sign)
        return await self._ends_within(process, deadline_s)

    async def _ends_within(self, process: asyncio.subprocess.Process, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await process.wait()
        except TimeoutError:
            return False
        return True
