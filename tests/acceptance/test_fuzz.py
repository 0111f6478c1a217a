"""Whatever fits the OpenAPI documents of both ports, and whatever does not: no request ends in a server error.

The seeds are fixed, so what fails here fails again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
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

EXAMPLES = {GenerationMode.POSITIVE: 10, GenerationMode.NEGATIVE: 4}
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


def attack(operation: Any, mode: GenerationMode) -> list[str]:
    """What went wrong."""
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

    try:
        run()
    except Unsatisfiable:
        # Nothing can be wrong with a request that takes neither a parameter nor a body.
        assert mode is GenerationMode.NEGATIVE
    return wrong


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("port", ["ingest", "management"])
async def test_no_request_ends_in_a_server_error(fuzzed: Platform, port: str, mode: GenerationMode) -> None:
    def attack_all() -> list[str]:
        schema = schemathesis.openapi.from_url(f"{fuzzed.urls[port]}/schema/openapi.json")
        found = [operation.ok() for operation in schema.get_all_operations()]
        assert found
        return [line for operation in found for line in attack(operation, mode)]

    wrong = await asyncio.to_thread(attack_all)
    assert wrong == [], "\n".join(wrong)
