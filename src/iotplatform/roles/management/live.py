"""`/organizations/{org}/live`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import ExitStack, aclosing
from typing import Annotated, Any, Final

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter
from litestar.types import Receive, Scope, Send

from iotplatform.adapters.nats import subjects
from iotplatform.domain.live import MAX_GLOBS, EventKind, LiveFilter, Place
from iotplatform.domain.organization import Organization
from iotplatform.errors import Fault, Rejected
from iotplatform.roles.management.access import READ, bearer, forbidden, organization_for
from iotplatform.roles.management.alarms import Severities
from iotplatform.roles.management.connected import while_connected
from iotplatform.roles.management.context import ManagementContext
from iotplatform.roles.management.live_feed import Feed
from iotplatform.roles.management.parameters import DeviceIds, check_device_ids, check_sensors

EVENT_STREAM: Final = "text/event-stream"
_HEADERS: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    # A proxy that collects answers would show nothing until a buffer is full.
    (b"x-accel-buffering", b"no"),
)

SensorGlobs = Annotated[list[str] | None, QueryParameter(description="only these sensors, as globs; repeatable")]
Kinds = Annotated[list[EventKind] | None, QueryParameter(name="event", description="only these events; repeatable")]


@get("/organizations/{org:str}/live", opt={**READ, "also_answers": (EVENT_STREAM,)}, media_type=EVENT_STREAM)
async def follow_live(
    org: FromPath[str],
    request: Request[Any, Any, Any],
    context: NamedDependency[ManagementContext],
    device_id: DeviceIds = None,
    sensor: SensorGlobs = None,
    severity: Severities = None,
    event: Kinds = None,
) -> Response[str]:
    """Server-Sent Events `reading`, `alarm` and `notice`, without an end. `Last-Event-ID` resumes."""
    if len(sensor or ()) > MAX_GLOBS:
        fault = Fault(f"may be given {MAX_GLOBS} times", field="sensor")
        raise Rejected("invalid", "the query is not valid", faults=(fault,))
    wanted = LiveFilter(
        frozenset(check_device_ids(device_id)),
        check_sensors(sensor),
        frozenset(severity or ()),
        frozenset(event or ()),
    )
    resumed = _place_of(request.headers.get("last-event-id"))
    organization = await context.organization(org)
    check = _check_by(context, request, organization)
    return LiveResponse(context, organization, wanted, resumed, check)


def _place_of(text: str | None) -> Place | None:
    if not text:
        return None
    place = Place.parse(text)
    if place is None:
        fault = Fault("is no id of an event of this stream", field="Last-Event-ID")
        raise Rejected("invalid", "a header is not valid", faults=(fault,))
    return place


def _check_by(
    context: ManagementContext, request: Request[Any, Any, Any], organization: Organization
) -> Callable[[], Awaitable[None]]:
    """A stream outlives the check at its beginning: the same again, for the same organization."""
    credential = bearer(request.headers.get("authorization"))

    async def check() -> None:
        if credential is None:
            found = await context.organization(organization.id)
        else:
            principal = await context.entrance.authenticator.authenticate(credential)
            found = await organization_for(context.directory, principal, "read", organization.id) or organization
        if found.epoch != organization.epoch:
            raise forbidden()

    return check


class LiveResponse(Response[str]):
    def __init__(
        self,
        context: ManagementContext,
        organization: Organization,
        wanted: LiveFilter,
        resumed: Place | None,
        check: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__("", media_type=EVENT_STREAM)
        self._context = context
        self._organization = organization
        self._wanted = wanted
        self._resumed = resumed
        self._check = check

    def to_asgi_response(self, app: Any, request: Request[Any, Any, Any], **kwargs: Any) -> Any:  # noqa: ARG002
        return self._answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        with ExitStack() as stack:
            pieces = self._pieces(stack)
            await while_connected(receive, self._send(pieces, send))

    def _pieces(self, stack: ExitStack) -> AsyncGenerator[bytes, None]:
        streams, organization = self._context.live, self._organization
        wake = stack.enter_context(streams.enter(organization.epoch))
        epoch = organization.epoch
        stream, subject = subjects.organization_stream(organization.id), subjects.organization_subjects(organization.id)
        readings = streams.readings.follow(stream, subject, epoch, wake)
        subject = subjects.notifications_subject(organization.id, epoch, "*")
        alarms = streams.alarms.follow(subjects.NOTIFICATIONS, subject, epoch, wake)
        feed = Feed(
            stack.enter_context(readings),
            stack.enter_context(alarms),
            self._wanted,
            streams.limits,
            wake=wake,
            ending=lambda: streams.ending,
            check=self._check,
        )
        return feed.pieces(epoch, self._resumed)

    async def _send(self, pieces: AsyncGenerator[bytes, None], send: Send) -> None:
        begun = False
        async with aclosing(pieces):
            async for piece in pieces:
                if not begun:
                    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
                    begun = True
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
