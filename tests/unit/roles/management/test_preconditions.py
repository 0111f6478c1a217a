"""Whatever can be changed can be changed on condition: a route that replaces or deletes takes `If-Match`."""

from __future__ import annotations

from litestar import Litestar
from litestar.routes import HTTPRoute

from iotplatform.roles.management.routes import routes
from tests.unit.roles.management.test_walls import nothing_behind

# What is never changed can only be ended, and that is the same for whoever is late.
ENDED_ONLY = {
    ("DELETE", "/organizations/{org}/devices/{device}/tokens/{token_id}"),
    ("DELETE", "/organizations/{org}/provisioning-keys/{key}"),
    ("DELETE", "/api-keys/{key}"),
    ("DELETE", "/signing-keys/{kid}"),
    # Of a pack an organization has the newest version, or nothing.
    ("PUT", "/rule-packs/{pack}/organizations/{org}"),
    ("DELETE", "/rule-packs/{pack}/organizations/{org}"),
}


def test_every_route_that_changes_takes_if_match() -> None:
    app = Litestar(routes(nothing_behind()), openapi_config=None)
    without = {
        (str(method), route.path.replace(":str", ""))
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        for method in handler.http_methods
        if method in {"PUT", "PATCH", "DELETE"} and "if_match" not in handler.parsed_fn_signature.parameters
    }
    assert without == ENDED_ONLY
