"""Whatever fits the OpenAPI documents of both ports, and whatever does not: no request ends in a server error.

The seeds are fixed, so what fails here fails again.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from tests.acceptance.conftest import faults_in
from tests.support.platform import Platform

pytestmark = pytest.mark.timeout(300)

EXAMPLES = {GenerationMode.POSITIVE: 5, GenerationMode.NEGATIVE: 2}
KNOWN = {"org": "fuzz", "device": "oven", "channel": "log", "rule": "default"}


@pytest.fixture(scope="module")
async def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    """A platform with an organization that requests can meet."""
    platform = await Platform.start(tmp_path_factory.mktemp("fuzz") / "data")
    try:
        async with platform.client() as client:
            for path in ("/organizations/fuzz", "/organizations/fuzz/devices/oven"):
                assert (await client.put(path, json={"name": "Fuzz"})).status_code == 201
        yield platform
        # Those of requests that were in hand when an organization went.
        assert faults_in(platform.lines) == []
    finally:
        assert await platform.stop() == 0, platform.tail()


def attack(operation: Any, mode: GenerationMode, done: list[tuple[str, str]]) -> list[str]:
    """What went wrong; into `done` go method and path of what was carried out."""
    wrong: list[str] = []

    @settings(
        max_examples=EXAMPLES[mode],
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), known=st.booleans())
    def run(case: Any, known: bool) -> None:
        if known:
            given_ids = case.path_parameters or {}
            case.path_parameters = {**given_ids, **{name: KNOWN[name] for name in given_ids if name in KNOWN}}
        response = case.call(timeout=30)
        if response.status_code >= 500:
            wrong.append(f"{response.status_code} {case.as_curl_command()} {response.text[:300]}")
        elif response.status_code < 300:
            done.append((operation.method.upper(), operation.path))

    try:
        run()
    except Unsatisfiable:
        # Nothing can be wrong with a request that takes neither a parameter nor a body.
        assert mode is GenerationMode.NEGATIVE
    return wrong


async def attack_all(platform: Platform, port: str, mode: GenerationMode) -> list[tuple[str, str]]:
    """What was carried out."""
    done: list[tuple[str, str]] = []

    def attack_each() -> list[str]:
        schema = schemathesis.openapi.from_url(f"{platform.urls[port]}/schema/openapi.json")
        found = [operation.ok() for operation in schema.get_all_operations()]
        assert found
        return [line for operation in found for line in attack(operation, mode, done)]

    wrong = await asyncio.to_thread(attack_each)
    assert wrong == [], "\n".join(wrong)
    return done


async def audited(platform: Platform) -> set[str]:
    """The requests that have an entry in the audit."""
    requests: set[str] = set()
    query: dict[str, Any] = {"limit": 1000}
    async with platform.client() as client:
        while True:
            found = (await client.get("/audit", params=query)).json()
            requests |= {entry["request"] for entry in found["items"] if entry["request"]}
            if found["next_cursor"] is None:
                return requests
            query["cursor"] = found["next_cursor"]


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
async def test_no_request_to_the_door_ends_in_a_server_error(fuzzed: Platform, mode: GenerationMode) -> None:
    await attack_all(fuzzed, "ingest", mode)


async def test_no_wrong_request_to_management_ends_in_a_server_error(fuzzed: Platform) -> None:
    await attack_all(fuzzed, "management", GenerationMode.NEGATIVE)


async def test_no_right_request_to_management_ends_in_a_server_error_and_each_change_is_audited(
    fuzzed: Platform, repository: Path
) -> None:
    # What asks for no more than reading changes nothing, whatever its method.
    table = (repository / "docs" / "access.md").read_text()
    reading = {
        (found[1], found[2]) for found in re.finditer(r"^\| ([A-Z]+) \| (/\S*) \| read \|$", table, re.MULTILINE)
    }
    before = await audited(fuzzed)
    done = await attack_all(fuzzed, "management", GenerationMode.POSITIVE)
    # A PUT or a PATCH of what is so already changes nothing.
    changes = [each for each in done if each[0] in {"POST", "DELETE"} and each not in reading]
    assert len(set(changes)) > 3
    assert len(await audited(fuzzed) - before) >= len(changes)
