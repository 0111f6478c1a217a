"""How requests are looked at before a route sees them: statuses in the contract's order, faults by field."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import httpx
import pytest

from iotplatform.adapters.tokens.device_tokens import DeviceTokens
from iotplatform.adapters.tokens.keys import SigningKeys

JSON = {"content-type": "application/json"}


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert set(found) == {"type", "title", "status", "detail", "errors"}
    assert found["status"] == status
    return found


def fields(answer: httpx.Response) -> set[str | None]:
    return {fault.get("field") for fault in problem(answer, 422)["errors"]}


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nonsense", b'{"id": "a",}', b"\xff", b'"\xff"', b'{"id": NaN}', b"[" * 10_000, b"\x00", b'{"id": 5,'],
)
async def test_what_is_no_json(client: httpx.AsyncClient, body: bytes) -> None:
    problem(await client.post("/organizations", content=body, headers=JSON), 400)


@pytest.mark.parametrize("body", [[], "text", 5, None, True, [{"id": "a", "name": "A"}]])
async def test_what_is_no_object(client: httpx.AsyncClient, body: Any) -> None:
    answer = await client.post("/organizations", content=json.dumps(body), headers=JSON)
    assert fields(answer) == {None}


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"id": ...}, {"id"}),
        ({"name": ...}, {"name"}),
        ({"id": ..., "name": ...}, {"id", "name"}),
        ({"id": None}, {"id"}),
        ({"id": ""}, {"id"}),
        ({"id": "a" * 65}, {"id"}),
        ({"id": "a.b"}, {"id"}),
        ({"id": "a\n"}, {"id"}),
        ({"id": "ä"}, {"id"}),
        ({"id": 5}, {"id"}),
        ({"name": ""}, {"name"}),
        ({"name": "a" * 201}, {"name"}),
        ({"name": "a\x00b"}, {"name"}),
        ({"name": "a\nb"}, {"name"}),
        ({"name": 5}, {"name"}),
        ({"partitions": 0}, {"partitions"}),
        ({"partitions": 65}, {"partitions"}),
        ({"partitions": "4"}, {"partitions"}),
        ({"partitions": 1.5}, {"partitions"}),
        ({"partitions": True}, {"partitions"}),
        ({"partitions": 10**30}, {"partitions"}),
        ({"partitions": None}, {"partitions"}),
        ({"epoch": 5}, {"epoch"}),
        ({"id": "a b", "name": 5, "zone": 1}, {"id", "name", "zone"}),
    ],
)
async def test_every_wrong_field_is_named(client: httpx.AsyncClient, change: dict[str, Any], wrong: set[str]) -> None:
    whole = {"id": f"org-{uuid.uuid4().hex}", "name": "A Corp"} | change
    body = {name: value for name, value in whole.items() if value is not ...}
    assert fields(await client.post("/organizations", json=body)) == wrong


async def test_a_number_that_no_float_can_hold(client: httpx.AsyncClient) -> None:
    answer = await client.post("/organizations", content=b'{"id": "a", "name": "A", "partitions": 1e999}', headers=JSON)
    problem(answer, 422)


async def test_sentences_for_people(client: httpx.AsyncClient) -> None:
    answer = await client.post("/organizations", json={"id": "a b", "name": "\x00"})
    assert problem(answer, 422)["errors"] == [
        {"field": "id", "detail": "must be 1 to 64 characters out of A-Z, a-z, 0-9, '_' and '-'"},
        {"field": "name", "detail": "must not contain control characters"},
    ]


@pytest.mark.parametrize(
    "headers",
    [{}, {"content-type": "text/plain"}, {"content-type": "application/xml"}, {**JSON, "content-encoding": "gzip"}],
)
async def test_only_json(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    problem(await client.post("/organizations", content=b'{"id": "a", "name": "A"}', headers=headers), 415)


async def test_a_charset_is_no_other_type(client: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/json; charset=utf-8"}
    body = json.dumps({"id": f"org-{uuid.uuid4().hex}", "name": "Ä"}, ensure_ascii=False).encode()
    assert (await client.post("/organizations", content=body, headers=headers)).status_code == 201


async def test_too_large_comes_before_the_type(client: httpx.AsyncClient) -> None:
    async def chunks() -> Any:
        for _ in range(20):
            yield b"x" * 100_000

    problem(await client.post("/organizations", content=b"x" * 1_100_000), 413)
    problem(await client.post("/organizations", content=chunks()), 413)
    problem(await client.post("/organizations", content=b" " * 1_048_576, headers=JSON), 400)


@pytest.mark.parametrize("path", ["/organizations", "/organizations/{org}/devices", "/organizations/{org}/telemetry"])
@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("nonsense=1", "nonsense"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("limit=", "limit"),
        ("limit=1&limit=2", "limit"),
        ("cursor=x", "cursor"),
        ("cursor=%00", "cursor"),
        ("cursor=%C3%A4", "cursor"),
        ("cursor=ImFcdTAwMDAi", "cursor"),
        ("cursor=e30", "cursor"),
    ],
)
async def test_queries(client: httpx.AsyncClient, org: str, path: str, query: str, wrong: str) -> None:
    assert fields(await client.get(f"{path.format(org=org)}?{query}")) == {wrong}


async def test_a_query_on_a_creation_is_not_ignored(client: httpx.AsyncClient) -> None:
    body = {"id": f"org-{uuid.uuid4().hex}", "name": "A"}
    assert fields(await client.post("/organizations?dry_run=1", json=body)) == {"dry_run"}
    problem(await client.get(f"/organizations/{body['id']}"), 404)


async def test_a_path_or_a_method_that_is_not_there(client: httpx.AsyncClient) -> None:
    problem(await client.get("/nowhere"), 404)
    answer = await client.patch("/organizations")
    problem(answer, 405)
    assert set(answer.headers["allow"].split(", ")) == {"GET", "POST", "OPTIONS"}


@pytest.mark.parametrize("accept", ["text/html", "application/xml;q=1"])
async def test_answers_are_json(client: httpx.AsyncClient, accept: str) -> None:
    problem(await client.get("/organizations", headers={"accept": accept, "authorization": "Bearer x"}), 406)


@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/html, application/*;q=0.1", ""])
async def test_what_takes_json(client: httpx.AsyncClient, accept: str) -> None:
    assert (await client.get("/organizations", headers={"accept": accept})).status_code == 200


@pytest.mark.parametrize("credential", ["", "Bearer", "Bearer ", "Bearer x", "Bearer a.b.c", "Basic YTpi", "Token x"])
async def test_a_bad_credential_is_worse_than_none(client: httpx.AsyncClient, credential: str) -> None:
    answer = await client.post("/organizations", content=b"x" * 2_000_000, headers={"authorization": credential})
    problem(answer, 401)
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_device_token_does_not_open_management(client: httpx.AsyncClient, org: str) -> None:
    made = (await client.post("/devices", json={"organization_id": org, "name": "D"})).json()
    presented = {"authorization": f"Bearer {made['token']}"}
    for path in ("/organizations", f"/organizations/{org}", "/organizations/unknown"):
        problem(await client.get(path, headers=presented), 403)
    problem(await client.post("/organizations", content=b"{", headers=presented), 403)
    assert (await client.get("/.well-known/jwks.json", headers=presented)).status_code == 200


async def test_a_token_signed_by_our_key_for_nobody(client: httpx.AsyncClient, keys: SigningKeys) -> None:
    now = int(time.time())
    token = DeviceTokens(keys).issue("orgA", "d", str(uuid.uuid4()), now, now + 60)
    problem(await client.get("/organizations", headers={"authorization": f"Bearer {token}"}), 401)


async def test_a_foreign_host_is_refused_first(client: httpx.AsyncClient) -> None:
    problem(await client.get("/nowhere", headers={"host": "evil.example", "authorization": "Bearer x"}), 421)


async def test_the_document(client: httpx.AsyncClient) -> None:
    answer = await client.get("/schema/openapi.json")
    document = answer.json()
    assert document["openapi"].startswith("3.1")
    assert {"/organizations", "/devices", "/.well-known/jwks.json"} <= set(document["paths"])
    for path, item in document["paths"].items():
        for operation in item.values():
            assert "application/problem+json" in operation["responses"]["default"]["content"], path
            assert all(status < "300" or status == "default" for status in operation["responses"]), path
    assert set(document["paths"]["/organizations/{org}/channels/{channel}"]["put"]["responses"]) > {"200", "201"}
    schemas = document["components"]["schemas"]
    assert schemas["NewDevice"]["properties"]["tags"]["items"] == {"type": "string"}
    # As any JSON Schema reads it: `\\Z`, with which Python ends a pattern, is a letter there.
    assert schemas["NewOrganization"]["properties"]["id"]["pattern"] == "^[A-Za-z0-9_-]{1,64}$"
    assert "{}]" not in answer.text
    assert "\\Z" not in answer.text
    assert "cdn" not in answer.text
    problem(await client.get("/schema/swagger"), 404)


async def test_an_answer_does_not_grow_with_what_is_wrong(client: httpx.AsyncClient) -> None:
    body = {"email": "a@example.org", **{f"{number}{'x' * 200}": 1 for number in range(4_000)}}
    answer = await client.post("/auth/login", json=body)
    assert answer.status_code == 422
    errors = answer.json()["errors"]
    assert errors[0]["field"] == "password"
    assert len(errors) == 100
    assert len(answer.content) < 20_000
