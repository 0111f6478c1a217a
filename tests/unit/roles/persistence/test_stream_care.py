"""Streams get the size that is wanted of them, once for each time that it changes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from structlog.testing import capture_logs

from iotplatform.adapters.nats.api import ApiError
from iotplatform.domain.organization import Organization
from iotplatform.roles.persistence.stream_care import StreamCare

ORGANIZATIONS = [Organization(f"org-{epoch}", epoch, "A Corp", 4, 0) for epoch in (1, 2)]


async def test_a_stream_is_resized_when_its_size_has_changed_and_again_when_that_failed() -> None:
    own: dict[int, int] = {}
    resized: list[tuple[str, int | None]] = []
    refused = {"org-2"}

    async def own_sizes() -> dict[int, int]:
        return own

    async def resize(organization_id: str, size: int | None) -> None:
        if organization_id in refused:
            raise ApiError("STREAM.UPDATE", 10047, "insufficient storage resources")
        resized.append((organization_id, size))

    async def retentions() -> dict[int, float]:
        return {}

    nothing: Any = None
    care = StreamCare(nothing, nothing, nothing, nothing, own_sizes, resize, retentions)
    with capture_logs() as lines:
        await care.fit(ORGANIZATIONS)
    assert [line["event"] for line in lines] == ["persistence.stream_not_resized"]
    assert resized == [("org-1", None)]
    refused.clear()
    await care.fit(ORGANIZATIONS)
    assert resized == [("org-1", None), ("org-2", None)]
    own[1] = 1 << 30
    await care.fit(ORGANIZATIONS)
    await care.fit(ORGANIZATIONS)
    assert resized[2:] == [("org-1", 1 << 30)]
    del own[1]
    await care.fit(ORGANIZATIONS)
    assert resized[3:] == [("org-1", None)]


async def test_a_stream_keeps_nothing_longer_than_its_organization() -> None:
    trimmed: dict[str, float | None] = {}

    class Trimmed:
        async def trim(self, organization: Any, _: Any, *, keep_at_most_s: float | None) -> int:
            trimmed[organization.id] = keep_at_most_s
            return 0

    async def nothing_there(*_: Any) -> list[Any]:
        return []

    async def retentions() -> dict[int, float]:
        return {ORGANIZATIONS[0].epoch: 86_400.0}

    async def sizes() -> dict[int, int]:
        return {}

    async def resize(*_: Any) -> None:
        pass

    other: Any = SimpleNamespace(remove_strangers=nothing_there, cut=nothing_there)
    trimmer: Any = Trimmed()
    care = StreamCare(trimmer, other, other, nothing_there, sizes, resize, retentions)
    await care.fit(ORGANIZATIONS)
    for organization in ORGANIZATIONS:
        await care.care_for(organization)
    assert trimmed == {"org-1": 86_400.0, "org-2": None}
