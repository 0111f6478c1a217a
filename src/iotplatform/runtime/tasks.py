"""Tasks with a name and an owner that notices their death."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, Final

import structlog

log = structlog.get_logger()

CANCEL_AGAIN_S: Final = 1.0


class TaskDied(RuntimeError):
    """A task that was to run until it is stopped has ended."""


class Tasks:
    """Owns tasks that run until `stop`. The first one that ends by itself makes `wait` raise."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._tasks: set[asyncio.Task[None]] = set()
        self._died: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stopping = False

    def start(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """A task that is to run until `stop`; that it ends at all is a death."""
        task = self._create(coroutine, name)
        task.add_done_callback(self._ended)
        return task

    def spawn(
        self, coroutine: Coroutine[Any, Any, None], name: str, context: Context | None = None
    ) -> asyncio.Task[None]:
        """A task that ends when its work is done; only an exception, or a cancellation that is not ours, is a death."""
        task = self._create(coroutine, name, context)
        task.add_done_callback(self._finished)
        return task

    def _create(
        self, coroutine: Coroutine[Any, Any, None], name: str, context: Context | None = None
    ) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine, name=f"{self._owner}.{name}", context=context)
        self._tasks.add(task)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._tasks.discard(task)
        else:
            self._ended(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._stopping or self._died.done():
            return
        # Nobody but `stop` cancels our tasks: a library has let a cancellation of its own escape.
        reason = None if task.cancelled() else task.exception()
        how = "was cancelled" if task.cancelled() else f"ended: {reason!r}" if reason else "ended by itself"
        failure = TaskDied(f"{task.get_name()} {how}")
        failure.__cause__ = reason
        self._died.set_exception(failure)
        # Marks the exception as seen: the owner may be stopped before it gets to waiting.
        self._died.exception()

    async def wait(self) -> None:
        """Until a task dies.

        Raises:
            TaskDied: always, with the task's exception as its cause.
        """
        await asyncio.shield(self._died)

    async def stop(self, deadline_s: float = 5.0) -> None:
        """Cancel every task and wait for them; one that does not end in time is reported and left.

        A cancellation can be swallowed on its way: `asyncio.wait_for` of Python 3.11, in a driver, does so when what it
        waits for is done in the same moment. So those that go on are cancelled again.
        """
        self._stopping = True
        until = time.monotonic() + deadline_s
        pending = set(self._tasks)
        while pending and (left_s := until - time.monotonic()) > 0:
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=min(left_s, CANCEL_AGAIN_S))
        for task in pending:
            log.error("task.stuck", task=task.get_name(), deadline_s=deadline_s)
