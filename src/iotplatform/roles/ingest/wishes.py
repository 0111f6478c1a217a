"""What a request for `/ingest` says beside its body: headers and query."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl

import msgspec

from iotplatform.domain.payloads.admission import Defaults, Sender
from iotplatform.domain.payloads.formats import BY_MEDIA_TYPE, FORMATS, Format
from iotplatform.errors import Fault, Rejected
from iotplatform.roles.ingest.idempotency import IdempotencyKey

_MODES: Final = frozenset({"store"})
_MEDIA_TYPES: Final = ", ".join(known.media_types[0] for known in FORMATS if known.media_types)
LENIENT: Final = "handling=lenient"


class Query(msgspec.Struct, frozen=True):
    """`text` is the query itself, empty for most requests."""

    text: str = ""
    defaults: Defaults = Defaults()
    is_store_only: bool = False

    @classmethod
    def of(cls, query_string: bytes, known: tuple[str, ...] = ("organization_id", "device_id", "mode")) -> Query:
        """Raises:
        Rejected: `invalid`.
        """
        if not query_string:
            return _NO_QUERY
        text = query_string.decode("latin-1")
        given = parse_query(text, known)
        mode = given.get("mode")
        if mode is not None and mode not in _MODES:
            raise _invalid(Fault("must be 'store', or absent", field="mode"))
        defaults = Defaults(given.get("organization_id"), given.get("device_id"))
        return cls(text, defaults, mode == "store")

    def check_sender(self, sender: Sender | None) -> None:
        """Raises:
        Rejected: `forbidden`, when it names somebody else.
        """
        if sender is None:
            return
        if self.defaults.organization_id not in {None, sender.organization_id} or (
            sender.device_id is not None and self.defaults.device_id not in {None, sender.device_id}
        ):
            raise Rejected("forbidden", "this credential writes for its own device or organization only")


_NO_QUERY: Final = Query()


def parse_query(text: str, known: tuple[str, ...]) -> dict[str, str]:
    """Raises:
    Rejected: a parameter is unknown or given twice.
    """
    try:
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=20)
    except ValueError as error:
        raise _invalid(Fault(f"can't be read: {error}")) from error
    given: dict[str, str] = {}
    faults = []
    for name, value in pairs:
        if name not in known:
            faults.append(Fault("is no parameter of this request", field=name[:80]))
        elif name in given:
            faults.append(Fault("must be given once", field=name))
        given[name] = value
    if faults:
        raise _invalid(*faults)
    return given


def _invalid(*faults: Fault) -> Rejected:
    return Rejected("invalid", "the query is not valid", faults=faults)


def format_of(content_type: bytes) -> Format:
    """Raises:
    Rejected: `unsupported_media`.
    """
    media_type = content_type.partition(b";")[0].strip().lower().decode("latin-1")
    known = BY_MEDIA_TYPE.get(media_type)
    if known is None:
        raise Rejected("unsupported_media", f"the Content-Type must be one of {_MEDIA_TYPES}")
    return known


def is_lenient(prefer: bytes) -> bool:
    """RFC 7240: what is preferred and not known is ignored."""
    if not prefer:
        return False
    preferences = [part.split(";")[0] for part in prefer.decode("latin-1").lower().split(",")]
    return LENIENT in {"".join(preference.split()).replace('"', "") for preference in preferences}


def key_of(
    given: bytes | None, body: bytes, known: Format, query: Query, sender: Sender | None
) -> IdempotencyKey | None:
    """What else decides over the meaning of a body belongs to what a key stands for."""
    if given is None:
        return None
    device_id = (sender.device_id if sender else None) or ""
    meaning = f"\n{known.name}\n{query.text}" if query.text or known.name != "json" else ""
    return IdempotencyKey.of(given, body, device_id + meaning)
