"""The three applications: ingestion, management, operations.

The hot path does not pass Litestar: its router and its exception middleware would take half of what an answer to a
small request costs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from litestar import Litestar, Response, get
from litestar.types import ControllerRouterHandler, Receive, Scope, Send

from iotplatform.app.http.hosts import HostCheck, HostRules
from iotplatform.app.http.ingest_openapi import INGEST_PATHS
from iotplatform.app.http.openapi import openapi_config
from iotplatform.app.http.problems import EXCEPTION_HANDLERS, send_problem
from iotplatform.app.http.timing import Timed
from iotplatform.observability.metrics import Metrics, render
from iotplatform.roles.ingest.influx import health, ping

Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]
# Beside the endpoints of the ingest role; a test goes through all of them with every kind of credential.
INGESTION_HANDLERS: Final = (ping, health)

Checks = Callable[[], Awaitable[dict[str, str]]]


def ingest_app(endpoints: Mapping[str, Asgi], rules: HostRules) -> HostCheck:
    """`endpoints` answer their paths, whatever the method; Litestar what else there is."""
    rest = Litestar(
        route_handlers=INGESTION_HANDLERS,
        exception_handlers=EXCEPTION_HANDLERS,
        openapi_config=openapi_config("iotplatform ingestion", INGEST_PATHS),
        logging_config=None,
    )

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        endpoint = endpoints.get(path) or endpoints.get(path.removesuffix("/"))
        if endpoint is None:
            await rest(scope, receive, send)
            return
        try:
            await endpoint(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - the last one who can answer; what nobody foresaw is logged there
            await send_problem(error, send)

    return HostCheck(dispatch, rules)


def management_app(routes: Sequence[ControllerRouterHandler], rules: HostRules, metrics: Metrics) -> Any:
    app = Litestar(
        route_handlers=routes,
        exception_handlers=EXCEPTION_HANDLERS,
        openapi_config=openapi_config("iotplatform management"),
        logging_config=None,
    )
    return Timed(HostCheck(app, rules), metrics)


def operations_app(readiness: Checks, rules: HostRules) -> HostCheck:
    """No data of tenants, hence no credentials. `readiness` gives what is wrong, by name."""

    @get("/metrics")
    async def metrics() -> Response[bytes]:
        """Prometheus exposition text of everything in this process."""
        body, content_type = render()
        return Response(body, media_type=content_type)

    @get("/livez")
    async def live() -> dict[str, str]:
        """The process answers."""
        return {"status": "alive"}

    @get("/readyz")
    async def ready() -> Response[dict[str, Any]]:
        """Every role of this process can do its work; 503 says what is missing."""
        wrong = await readiness()
        if wrong:
            return Response({"status": "not ready", "problems": wrong}, status_code=503)
        return Response({"status": "ready", "problems": {}})

    app = Litestar(
        route_handlers=[metrics, live, ready],
        exception_handlers=EXCEPTION_HANDLERS,
        openapi_config=openapi_config("iotplatform operations"),
        logging_config=None,
    )
    return HostCheck(app, rules)
