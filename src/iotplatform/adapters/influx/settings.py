"""Which InfluxDB, and how it is spoken to."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

import msgspec

from iotplatform.errors import ConfigError


class InfluxSettings(msgspec.Struct, frozen=True):
    """`api`: `v2` writes to `/api/v2/write` (InfluxDB 1.8, 2 and 3), `v1` to `/write` of older ones.

    `bucket` is the database of an InfluxDB 1; `token` is `user:password` there.
    """

    url: str
    bucket: str
    token: str = ""
    org: str = ""
    api: Literal["v1", "v2"] = "v2"

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc or parts.query:
            raise ConfigError("influx.url: must look like http://host:8086; what opens it goes to influx.token")
        if not self.bucket:
            raise ConfigError("influx.bucket: is missing: name the bucket (of InfluxDB 1: the database) for readings")
        if not self.token.isascii() or not self.token.isprintable():
            raise ConfigError("influx.token: must be ASCII without control characters")
