"""An organization of its own for each test, on the platform that all of them share."""

from __future__ import annotations

import uuid

import pytest

from tests.support.mqtt import Fleet


@pytest.fixture
async def fleet(platform):
    async with platform.client() as http:
        organization = f"mqtt-{uuid.uuid4().hex[:8]}"
        answer = await http.post("/organizations", json={"id": organization, "name": "A Corp", "partitions": 3})
        assert answer.status_code == 201, answer.text
        made = Fleet(platform, http, organization)
        await made.add("pump")
        yield made
