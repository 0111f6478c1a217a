"""Accepted means synced: a 202 needs the stream's acknowledgement, and that needs the disk."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.support.platform import Platform

READING = {"organization_id": "acme", "device_id": "pump", "sensor_name": "pressure", "value": 1.0}


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Platform]:
    running = await Platform.start(tmp_path / "data")
    async with running.client() as management:
        answer = await management.post("/organizations", json={"id": "acme", "name": "Acme"})
        assert answer.status_code == 201
    yield running
    assert await running.stop() == 0, running.tail()


async def test_the_server_syncs_every_message(platform: Platform) -> None:
    async with httpx.AsyncClient() as client:
        jetstream = (await client.get(f"{platform.urls['nats_monitor']}/jsz")).json()

    assert jetstream["config"]["sync_always"] is True


async def test_no_answer_before_the_stream_has_it(platform: Platform) -> None:
    nats = (await platform.log("embedded.started", where=lambda line: line["server"] == "nats"))["pid"]
    async with platform.client("ingest") as ingest:
        os.kill(nats, signal.SIGSTOP)
        try:
            sending = asyncio.get_running_loop().create_task(ingest.post("/ingest", json=READING))
            done, _ = await asyncio.wait({sending}, timeout=1.0)
            assert not done, "answered while the stream could not have stored it"
        finally:
            os.kill(nats, signal.SIGCONT)
        assert (await sending).status_code == 202


async def test_what_is_never_acknowledged_is_answered_as_unknown(platform: Platform) -> None:
    nats = (await platform.log("embedded.started", where=lambda line: line["server"] == "nats"))["pid"]
    async with platform.client("ingest") as ingest:
        os.kill(nats, signal.SIGSTOP)
        try:
            answer = await ingest.post("/ingest", json=READING)
        finally:
            os.kill(nats, signal.SIGCONT)
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert "unknown" in answer.json()["detail"]
