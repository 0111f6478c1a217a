"""Faults by a seeded random plan: what is killed, paused and restarted, when, and how much of it at once."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
import psutil

from tests.support.deployment import SERVERS, Deployment, Member
from tests.support.retrying_load import RetryingLoad

How = Literal["kill", "pause", "restart"]
HOWS: tuple[How, ...] = ("kill", "pause", "restart")

# Short ones look like a busy disk; long ones outlast every acknowledgement, ping and lease.
SHORT_PAUSE_S = (0.5, 5.0)
LONG_PAUSE_S = (12.0, 20.0)
# What a server is told so that it stops in order; PostgreSQL would wait for its clients on SIGTERM.
STOP_SIGNALS = {"nats": signal.SIGTERM, "postgres": signal.SIGINT, "redis": signal.SIGTERM}
BACK_WITHIN_S = 90.0
# A process outside starts again what has ended, but not in the same moment.
RESTART_AFTER_S = 0.3
GONE = "gone already"


class Fault(msgspec.Struct, frozen=True):
    target: str
    how: How
    pause_s: float = 0.0

    @property
    def kind(self) -> str:
        return f"{self.how} {self.target.partition('-')[0]}"


class Step(msgspec.Struct, frozen=True):
    """Faults that happen together. `calm`: readings must be accepted again before the next step is taken."""

    after_s: float
    faults: tuple[Fault, ...]
    calm: bool


class Injected(msgspec.Struct):
    """What happened; times are monotonic. `ended_at`: the target was let go or started again."""

    fault: Fault
    began_at: float
    ended_at: float
    note: str = ""


def plan(seed: int, targets: Sequence[str], seconds: float) -> list[Step]:
    """The same for the same arguments. How long a step really takes depends on the machine."""
    choice = random.Random(seed)
    steps: list[Step] = []
    left_s = seconds
    while left_s > 0:
        count = choice.choices((1, 2, 3), (6, 3, 1))[0]
        faults = tuple(_fault(choice, target) for target in choice.sample(list(targets), count))
        step = Step(choice.uniform(0.3, 4.0), faults, choice.random() < 0.6)
        steps.append(step)
        # About so long does it take until everything is back.
        left_s -= step.after_s + max(fault.pause_s for fault in faults) * 0.7 + (3.0 if step.calm else 0.0)
    return steps


def _fault(choice: random.Random, target: str) -> Fault:
    how = choice.choice(HOWS)
    pause_s = 0.0
    if how == "pause":
        pause_s = round(choice.uniform(*choice.choices((SHORT_PAUSE_S, LONG_PAUSE_S), (4, 1))[0]), 1)
    return Fault(target, how, pause_s)


class Injector:
    """Carries a plan out. A target that still suffers from one fault waits for its next one."""

    def __init__(self, deployment: Deployment, load: RetryingLoad) -> None:
        self.injected: list[Injected] = []
        self.troubles: list[str] = []
        self._deployment = deployment
        self._load = load
        self._turns: collections.defaultdict[str, asyncio.Lock] = collections.defaultdict(asyncio.Lock)

    async def run(self, steps: Sequence[Step], until: float) -> None:
        """The steps, as many as there is time for; returns when every process runs again."""
        async with asyncio.TaskGroup() as group:
            for step in steps:
                if time.monotonic() >= until:
                    break
                await asyncio.sleep(step.after_s)
                under_way = [group.create_task(self._inject(fault)) for fault in step.faults]
                if step.calm:
                    await asyncio.wait(under_way)
                    await self._load_flows()

    async def _load_flows(self) -> None:
        try:
            await self._load.more(5, within_s=BACK_WITHIN_S)
        except TimeoutError:
            self.troubles.append(
                f"nothing was accepted for {BACK_WITHIN_S:g} s after {[str(each.fault) for each in self.injected[-3:]]}"
            )

    async def _inject(self, fault: Fault) -> None:
        async with self._turns[fault.target]:
            injected = Injected(fault, time.monotonic(), 0.0)
            self.injected.append(injected)
            if fault.target in SERVERS:
                injected.note = await self._on_server(fault)
            else:
                await self._on_member(fault, self._deployment.members[fault.target])
            injected.ended_at = time.monotonic()

    async def _on_server(self, fault: Fault) -> str:
        pid = self._deployment.server_pid(fault.target)
        if pid is None:
            return "not running"
        if fault.how == "pause":
            return await _pause(pid, fault.pause_s)
        try:
            os.kill(pid, signal.SIGKILL if fault.how == "kill" else STOP_SIGNALS[fault.target])
        except ProcessLookupError:
            return GONE
        return ""

    async def _on_member(self, fault: Fault, member: Member) -> None:
        if fault.how == "pause":
            await _pause(member.platform.process.pid, fault.pause_s)
            return
        async with member.turn:
            if fault.how == "kill":
                await member.platform.kill()
            else:
                code = await member.platform.stop(within_s=120)
                if code != 0:
                    self.troubles.append(f"{member.name} stopped with exit code {code}: {member.platform.tail()}")
            await asyncio.sleep(RESTART_AFTER_S)
            await member.start_again()


def pause(pid: int) -> Callable[[], None]:
    """SIGSTOP; the function returned is SIGCONT. PostgreSQL's sessions are its children, and have to stop as well.

    Raises:
        psutil.NoSuchProcess: it is gone.
    """
    process = psutil.Process(pid)
    paused = [process]
    # The children of the process that holds the servers are targets of their own.
    if process.name().startswith("postgres"):
        paused += process.children(recursive=True)
    for each in paused:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.suspend()

    def resume() -> None:
        for each in paused:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.resume()

    return resume


async def _pause(pid: int, seconds: float) -> str:
    """Returns why not."""
    try:
        resume = pause(pid)
    except psutil.NoSuchProcess:
        return GONE
    try:
        await asyncio.sleep(seconds)
    finally:
        resume()
    return ""


def targets_of(deployment: Deployment) -> list[str]:
    return [*SERVERS, *deployment.members]


def stalls_by_kind(injected: Sequence[Injected], load: RetryingLoad) -> dict[str, float]:
    """For each kind of fault the longest time, in seconds, for which an organization had nothing accepted.

    Faults overlap, so a stall may be put down to more than one of them.
    """
    stalls: dict[str, float] = {}
    last = load.accepted_at[-1][0] if load.accepted_at else 0.0
    for each in injected:
        if each.note:
            continue
        until = min(max(each.ended_at, each.began_at) + 15.0, last)
        if until > each.began_at:
            stall = load.longest_stall(each.began_at, until)
            stalls[each.fault.kind] = max(stalls.get(each.fault.kind, 0.0), round(stall, 2))
    return dict(sorted(stalls.items()))
