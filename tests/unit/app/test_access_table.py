"""The table in docs/access.md and the routes are one: none declares what the table does not say, nor the other way."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from litestar import Litestar, get
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute

from iotplatform.app.http.ingest_openapi import INGEST_PATHS
from iotplatform.roles.management.access import ADMINISTER, PUBLIC, READ, access_of, check_declared
from iotplatform.roles.management.routes import routes

ROW = re.compile(r"^\| ([A-Z]+) \| (/\S*) \| ([a-z_, ]+) \|$", re.MULTILINE)


def declared() -> set[tuple[str, str, str]]:
    context: Any = SimpleNamespace(
        entrance=SimpleNamespace(authenticator=None, strangers=None, required=False), directory=None, database=None
    )
    app = Litestar(routes(context), openapi_config=None)
    rows = {
        (str(method), re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path), access_of(handler).words)
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        for method in handler.http_methods
        if method != "OPTIONS"
    }
    return rows | {
        (method.upper(), path, operation["x-needs"])
        for path, item in INGEST_PATHS.items()
        for method, operation in item.items()
    }


def test_the_table_is_what_the_routes_declare(repository: Path) -> None:
    text = (repository / "docs" / "access.md").read_text()
    written = {(found[1], found[2], found[3]) for found in ROW.finditer(text)}

    missing, left = declared() - written, written - declared()

    assert not missing, "add to docs/access.md:\n" + "\n".join(
        f"| {method} | {path} | {needs} |" for method, path, needs in sorted(missing, key=lambda row: row[1])
    )
    assert not left, f"in docs/access.md, and no route declares it: {sorted(left)}"


def handler_of(path: str, **options: Any) -> HTTPRouteHandler:
    @get(path, **options)
    async def found() -> None: ...

    return found


@pytest.mark.parametrize(
    "handler",
    [
        pytest.param(handler_of("/organizations"), id="declares nothing"),
        pytest.param(handler_of("/organizations", opt={"access": "read"}), id="declares a word of its own"),
        pytest.param(handler_of("/organizations/{org:str}/rules", opt=PUBLIC), id="public, within an organization"),
        pytest.param(handler_of("/rules", opt=READ), id="in which organization?"),
        pytest.param(handler_of("/rules", opt=ADMINISTER), id="administer, in which organization?"),
    ],
)
def test_a_route_that_does_not_say_who_may_call_it_is_not_served(handler: HTTPRouteHandler) -> None:
    with pytest.raises(TypeError):
        check_declared([handler])
