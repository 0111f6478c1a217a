from __future__ import annotations

from typing import Any, get_args

import httpx
import msgspec
import pytest
import structlog
from litestar import Litestar, get
from litestar.params import FromQuery

from iotplatform.app.http.problems import EXCEPTION_HANDLERS, STATUS_BY_KIND, problem_response
from iotplatform.errors import Fault, Kind, Rejected, Unavailable


def test_every_kind_has_a_status_of_its_own() -> None:
    assert set(STATUS_BY_KIND) == set(get_args(Kind))
    assert len(set(STATUS_BY_KIND.values())) == len(STATUS_BY_KIND)


def test_a_rejection() -> None:
    answer = problem_response(Rejected("invalid", "no", faults=(Fault("is required", index=2, field="value"),)))
    assert answer.status == 422
    assert dict(answer.headers) == {
        b"content-type": b"application/problem+json",
        b"content-length": str(len(answer.body)).encode(),
    }
    assert msgspec.json.decode(answer.body) == {
        "type": "urn:iotplatform:problem:invalid",
        "title": "Unprocessable Content",
        "status": 422,
        "detail": "no",
        "errors": [{"index": 2, "field": "value", "detail": "is required"}],
    }


@pytest.mark.parametrize(
    ("error", "status", "seconds"),
    [
        (Rejected("over_quota", "slow down", retry_after_s=2.1), 429, b"3"),
        (Unavailable("away", retry_after_s=0.2), 503, b"1"),
        (Unavailable("away"), 503, b"1"),
    ],
)
def test_when_to_try_again(error: Exception, status: int, seconds: bytes) -> None:
    answer = problem_response(error)
    assert answer.status == status
    assert dict(answer.headers)[b"retry-after"] == seconds


def test_a_missing_credential_says_what_is_wanted() -> None:
    assert dict(problem_response(Rejected("unauthenticated", "no")).headers)[b"www-authenticate"] == b"Bearer"


def test_a_bug_is_logged_and_not_told() -> None:
    with structlog.testing.capture_logs() as lines:
        answer = problem_response(RuntimeError("password=hunter2"))
    assert answer.status == 500
    assert b"hunter2" not in answer.body
    assert [(line["event"], line["log_level"]) for line in lines] == [("http.failed", "error")]
    assert "hunter2" in str(lines[0]["exc_info"])


@get("/fail")
async def fail() -> None:
    raise RuntimeError("password=hunter2")


@get("/count")
async def count(limit: FromQuery[int]) -> int:
    return limit


@pytest.fixture
async def client() -> Any:
    app = Litestar([fail, count], exception_handlers=EXCEPTION_HANDLERS, logging_config=None, openapi_config=None)
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as opened:
        yield opened


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/fail", 500),
        ("GET", "/nowhere", 404),
        ("POST", "/fail", 405),
        ("GET", "/count", 422),
        ("GET", "/count?limit=x", 422),
    ],
)
async def test_what_litestar_notices_is_a_problem_document_too(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["content-length"] == str(len(answer.content))
    problem = answer.json()
    assert set(problem) == {"type", "title", "status", "detail", "errors"}
    assert problem["status"] == status
    assert "hunter2" not in answer.text
    if status == 405:
        assert "GET" in answer.headers["allow"]
    if path.endswith("=x"):
        assert problem["errors"] == [{"field": "limit", "detail": "Expected `int`, got `str`"}]
