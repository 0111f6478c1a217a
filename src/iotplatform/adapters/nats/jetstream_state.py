"""What JetStream holds, for those who watch it: a handful of requests, however many organizations there are.

The streams of organizations, of their readings and of their letters, are looked at page by page, one page at a time:
with a thousand of them each is seen once in four looks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from iotplatform.adapters.nats import subjects
from iotplatform.adapters.nats.api import NOT_FOUND_STREAM, ApiError, JetStreamApi
from iotplatform.adapters.nats.connection import Connection
from iotplatform.adapters.nats.dead_letters import removed_from

SHARED: Final = {"intake": subjects.INTAKE, "notifications": subjects.NOTIFICATIONS}
ORGANIZATIONS: Final = "organizations"
DEAD_LETTERS: Final = "dead_letters"
_READINGS: Final = subjects.organization_stream("")
_LETTERS: Final = subjects.letters_stream("")


class StreamState(msgspec.Struct, frozen=True):
    """`limit` is None where there is none; `removed` how many messages there were besides."""

    messages: int
    bytes: int
    limit: int | None = None
    removed: int = 0

    @property
    def fill_ratio(self) -> float:
        return self.bytes / self.limit if self.limit else 0.0


class JetStreamState(msgspec.Struct, frozen=True):
    """`streams` by name: the shared ones, and those of all organizations together.

    `fill_ratios` and `removed_letters` by organization; the latter None until each has been seen once.
    """

    storage: int
    storage_limit: int | None
    stream_count: int
    consumer_count: int
    api_errors: int
    streams: dict[str, StreamState]
    fill_ratios: dict[str, float]
    removed_letters: dict[str, int] | None = None


class JetStreamWatch:
    def __init__(self, connection: Connection) -> None:
        self._api = JetStreamApi(connection)
        self._offset = 0
        # By name: what was seen in the round that is going on, and in the one before.
        self._seen: dict[str, StreamState] = {}
        self._before: dict[str, StreamState] = {}
        self._is_through = False

    async def look(self) -> JetStreamState:
        """Raises:
        Unavailable, ApiError: JetStream can't be asked now.
        """
        account = await self._api.call("INFO")
        streams = {name: await self._stream(stream) for name, stream in SHARED.items()}
        await self._look_at_next_page()
        known = {**self._before, **self._seen}
        readings = {name: state for name, state in known.items() if name.startswith(_READINGS)}
        streams[ORGANIZATIONS] = _sum(readings.values())
        letters = {name: state for name, state in known.items() if name.startswith((_LETTERS, subjects.SHARED_LETTERS))}
        streams[DEAD_LETTERS] = _sum(letters.values())
        return JetStreamState(
            storage=int(account["storage"]),
            storage_limit=_limit(account["limits"].get("max_storage")),
            stream_count=int(account["streams"]),
            consumer_count=int(account["consumers"]),
            api_errors=int(account["api"]["errors"]),
            streams={name: state for name, state in streams.items() if state is not None},
            fill_ratios={name.removeprefix(_READINGS): state.fill_ratio for name, state in readings.items()},
            removed_letters=_removed(letters) if self._is_through else None,
        )

    async def _stream(self, name: str) -> StreamState | None:
        try:
            return _state(await self._api.call(f"STREAM.INFO.{name}"))
        except ApiError as error:
            if error.code == NOT_FOUND_STREAM:
                return None
            raise

    async def _look_at_next_page(self) -> None:
        page = await self._api.call("STREAM.LIST", {"offset": self._offset})
        entries = page.get("streams") or []
        for entry in entries:
            self._seen[entry["config"]["name"]] = _state(entry)
        self._offset += len(entries)
        if not entries or self._offset >= page["total"]:
            # Through: what was not seen in this round is gone.
            self._before, self._seen, self._offset = self._seen, {}, 0
            self._is_through = True


def _removed(letters: Mapping[str, StreamState]) -> dict[str, int]:
    return {name.removeprefix(_LETTERS): of.removed for name, of in letters.items() if name.startswith(_LETTERS)}


def _sum(states: Iterable[StreamState]) -> StreamState:
    together = list(states)
    return StreamState(sum(state.messages for state in together), sum(state.bytes for state in together))


def _state(entry: dict[str, Any]) -> StreamState:
    state = entry["state"]
    limit = _limit(entry["config"].get("max_bytes"))
    return StreamState(int(state["messages"]), int(state["bytes"]), limit, removed_from(state))


def _limit(value: int | None) -> int | None:
    return value if value is not None and value > 0 else None
