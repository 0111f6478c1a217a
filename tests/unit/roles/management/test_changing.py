"""PUT, PATCH and DELETE with ETags: what infrastructure code and two people at once rely on."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotplatform.adapters.postgres.changes import EVERYTHING
from iotplatform.errors import Rejected
from iotplatform.roles.management.context import ManagementContext
from iotplatform.roles.management.patches import merged

MAIL = {"name": "Mail", "type": "email", "config": {"to": ["ops@example.org"]}}
THINGS = {
    "organization": ("/organizations/{org}", {"name": "A"}),
    "device": ("/organizations/{org}/devices/oven", {"name": "Oven"}),
    "channel": ("/organizations/{org}/channels/mail", MAIL),
    "window": (
        "/organizations/{org}/maintenance-windows/mail",
        {"name": "A", "from": "2030-01-01T00:00:00Z", "to": "2030-01-02T00:00:00Z"},
    ),
}


@pytest.fixture(params=THINGS)
async def thing(client: httpx.AsyncClient, request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """A path at which nothing is yet, and what can be put there."""
    path, body = THINGS[request.param]
    org = f"org-{uuid.uuid4().hex}"
    if request.param != "organization":
        assert (await client.put(f"/organizations/{org}", json={"name": "A"})).status_code == 201
    return path.format(org=org), body


async def test_putting_the_same_again_changes_nothing(
    client: httpx.AsyncClient, thing: tuple[str, dict[str, Any]]
) -> None:
    path, body = thing
    made = await client.put(path, json=body)
    assert made.status_code == 201, made.text
    assert made.headers["location"] == path
    again = await client.put(path, json=body)
    assert again.status_code == 200
    read = await client.get(path)
    assert made.headers["etag"] == again.headers["etag"] == read.headers["etag"]
    assert read.json() == again.json()
    assert read.json().items() <= made.json().items()


async def test_only_who_has_seen_the_last_change_can_change(
    client: httpx.AsyncClient, thing: tuple[str, dict[str, Any]]
) -> None:
    path, body = thing
    assert (await client.put(path, json=body, headers={"If-Match": "*"})).status_code == 412
    assert (await client.put(path, json=body, headers={"If-Match": '"1"'})).status_code == 412
    made = await client.put(path, json=body, headers={"If-None-Match": "*"})
    assert made.status_code == 201
    assert (await client.put(path, json=body, headers={"If-None-Match": "*"})).status_code == 412
    first = made.headers["etag"]
    changed = {**body, "name": "Changed"}
    answer = await client.put(path, json=changed, headers={"If-Match": f'"other", {first}'})
    assert answer.status_code == 200
    second = answer.headers["etag"]
    assert second != first
    late = await client.put(path, json=body, headers={"If-Match": first})
    assert late.status_code == 412
    assert late.json()["type"] == "urn:iotplatform:problem:stale"
    assert "changed meanwhile" in late.json()["detail"]
    # Weak tags say only that two things mean the same.
    assert (await client.put(path, json=body, headers={"If-Match": f"W/{second}"})).status_code == 412
    confirm = f"?confirm={path.rpartition('/')[2]}" if path.count("/") == 2 else ""
    assert (await client.delete(path + confirm, headers={"If-Match": first})).status_code == 412
    assert (await client.get(path)).json()["name"] == "Changed"
    assert (await client.put(path, json=body, headers={"If-Match": "*"})).status_code == 200
    # What is made again under its id is another thing, and what was known of the first one says nothing of it.
    if path.endswith("/mail") or confirm:
        assert (await client.delete(path + confirm)).status_code == 204
        again = await client.put(path, json=body)
        assert again.status_code == 201
        assert again.headers["etag"] not in {first, second}
        assert (await client.put(path, json=body, headers={"If-Match": f"{first}, {second}"})).status_code == 412


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ({"If-Match": "1"}, "If-Match"),
        ({"If-Match": '"a" "b"'}, "If-Match"),
        ({"If-Match": '"' + "a" * 5000}, "If-Match"),
        ({"If-None-Match": '"a"'}, "If-None-Match"),
        ({"If-None-Match": "*", "If-Match": "*"}, "If-None-Match"),
    ],
)
async def test_headers_that_mean_nothing(
    client: httpx.AsyncClient, org: str, headers: dict[str, str], field: str
) -> None:
    answer = await client.put(f"/organizations/{org}", json={"name": "B"}, headers=headers)
    assert answer.status_code == 422
    assert [fault["field"] for fault in answer.json()["errors"]] == [field]
    assert (await client.get(f"/organizations/{org}")).json()["name"] == "A Corp"


async def test_of_two_at_once_one_sees_that_it_was_late(client: httpx.AsyncClient, org: str) -> None:
    path = f"/organizations/{org}"
    tag = (await client.get(path)).headers["etag"]
    answers = await asyncio.gather(
        *(client.patch(path, json={"name": f"N{number}"}, headers={"If-Match": tag}) for number in range(5))
    )
    assert sorted(answer.status_code for answer in answers) == [200, 412, 412, 412, 412]


async def test_an_organization_is_renamed_everywhere(
    client: httpx.AsyncClient, org: str, context: ManagementContext
) -> None:
    answer = await client.patch(f"/organizations/{org}", json={"name": "Ö"})
    assert answer.status_code == 200
    assert answer.json()["name"] == "Ö"
    known = await context.directory.organization(org)
    assert known is not None
    assert known.name == "Ö"
    assert (await client.patch(f"/organizations/{org}", json={})).headers["etag"] == answer.headers["etag"]
    assert (await client.patch("/organizations/nobody", json={"name": "x"})).status_code == 404
    assert (await client.patch("/organizations/%00", json={"name": "x"})).status_code == 404


async def test_partitions_never_change(client: httpx.AsyncClient) -> None:
    path = f"/organizations/org-{uuid.uuid4().hex}"
    assert (await client.put(path, json={"name": "A", "partitions": 4})).json()["partitions"] == 4
    assert (await client.put(path, json={"name": "B"})).json()["partitions"] == 4
    assert (await client.put(path, json={"name": "B", "partitions": 4})).status_code == 200
    assert (await client.put(path, json={"name": "C", "partitions": 5})).status_code == 409
    assert (await client.patch(path, json={"partitions": 5})).status_code == 422
    assert (await client.get(path)).json()["name"] == "B"


async def test_a_put_device_gets_its_token_once(client: httpx.AsyncClient, org: str) -> None:
    path = f"/organizations/{org}/devices/oven"
    made = await client.put(path, json={"name": "Oven", "id": "oven", "tags": ["a", "a"]})
    assert made.status_code == 201
    assert made.json()["token"]
    replaced = await client.put(path, json={"name": "Oven 2", "metadata": {"floor": 1}})
    assert replaced.status_code == 200
    assert "token" not in replaced.json()
    assert replaced.json()["tags"] == []
    assert replaced.json()["metadata"] == {"floor": 1}
    assert (await client.put(path, json={"name": "Oven", "id": "other"})).status_code == 422
    assert (await client.put(f"/organizations/{org}/devices/a%20b", json={"name": "x"})).status_code == 422
    assert (await client.put("/organizations/nobody/devices/oven", json={"name": "x"})).status_code == 404


async def test_a_device_is_patched_member_by_member(client: httpx.AsyncClient, org: str) -> None:
    path = f"/organizations/{org}/devices/oven"
    body = {"name": "Oven", "tags": ["hot"], "metadata": {"floor": 1, "at": {"x": 1, "y": 2}}}
    made = (await client.put(path, json=body)).json()

    async def patched(**change: Any) -> dict[str, Any]:
        headers = {"content-type": "application/merge-patch+json"}
        answer = await client.patch(
            path, content=httpx.Request("PATCH", "http://x", json=change).content, headers=headers
        )
        assert answer.status_code == 200, answer.text
        result: dict[str, Any] = answer.json()
        assert result == (await client.get(path)).json()
        return {name: value for name, value in result.items() if made[name] != value}

    assert await patched(name="New") == {"name": "New"}
    assert await patched(name="Oven", metadata={"at": {"x": None, "z": 3}}) == {
        "metadata": {"floor": 1, "at": {"y": 2, "z": 3}}
    }
    assert await patched(metadata={"floor": None}, tags=None) == {"metadata": {"at": {"y": 2, "z": 3}}, "tags": []}
    assert await patched(metadata=None) == {"metadata": {}, "tags": []}
    assert (await client.patch(f"/organizations/{org}/devices/other", json={})).status_code == 404


async def test_a_deleted_device_is_gone_with_its_tokens(
    client: httpx.AsyncClient, org: str, context: ManagementContext
) -> None:
    path = f"/organizations/{org}/devices/oven"
    made = (await client.put(path, json={"name": "Oven"})).json()
    assert await context.entrance.authenticator.device(made["token"])
    assert (await client.delete(path)).status_code == 204
    assert (await client.get(path)).status_code == 404
    assert (await client.delete(path)).status_code == 404
    assert (await client.delete(f"/organizations/{org}/devices/%00")).status_code == 404
    await context.directory.apply([EVERYTHING])
    with pytest.raises(Rejected):
        await context.entrance.authenticator.device(made["token"])
    again = (await client.put(path, json={"name": "New"})).json()
    assert again["token"] != made["token"]
    with pytest.raises(Rejected):
        await context.entrance.authenticator.device(made["token"])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": None}, "name"),
        ({"name": ""}, "name"),
        ({"id": "x"}, "id"),
        ({"tags": ["a\x00"]}, "tags[0]"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {"a": "b\x00"}}, "metadata"),
        ({"metadata": {"a": 1 << 64}}, "metadata"),
        ({"metadata": {"a": "b" * 20_000}}, "metadata"),
    ],
)
async def test_patches_that_are_refused(
    client: httpx.AsyncClient, org: str, change: dict[str, Any], field: str
) -> None:
    path = f"/organizations/{org}/devices/oven"
    tag = (await client.put(path, json={"name": "Oven"})).headers["etag"]
    answer = await client.patch(path, json=change)
    assert answer.status_code == 422, answer.text
    assert [fault["field"] for fault in answer.json()["errors"]] == [field]
    assert (await client.get(path)).headers["etag"] == tag


async def test_many_small_patches_do_not_pass_the_bound(client: httpx.AsyncClient, org: str) -> None:
    path = f"/organizations/{org}/devices/oven"
    await client.put(path, json={"name": "Oven", "metadata": {"a": "x" * 10_000}})
    assert (await client.patch(path, json={"metadata": {"b": "x" * 10_000}})).status_code == 422
    deep: Any = {}
    for _ in range(31):
        deep = {"d": deep}
    assert (await client.patch(path, json={"metadata": deep})).status_code == 200
    assert (await client.patch(path, json={"metadata": {"d": {"d": deep}}})).status_code == 422


async def test_a_merge_patch_is_for_patch_alone(client: httpx.AsyncClient, org: str) -> None:
    headers = {"content-type": "application/merge-patch+json"}
    answer = await client.put(f"/organizations/{org}", content=b'{"name": "B"}', headers=headers)
    assert answer.status_code == 415


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=10,
)
objects = st.dictionaries(st.text(max_size=2), json_values, max_size=4)


def without_nulls(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: without_nulls(each) for name, each in value.items() if each is not None}


@given(objects, objects)
def test_merging(target: Any, patch: Any) -> None:
    result = merged(target, patch)
    for name, value in patch.items():
        if value is None:
            assert name not in result
        elif not isinstance(value, dict):
            assert result[name] == value
    assert all(result[name] == target[name] for name in target.keys() - patch.keys())
    assert merged(result, patch) == result
    assert merged({}, patch) == without_nulls(patch)
