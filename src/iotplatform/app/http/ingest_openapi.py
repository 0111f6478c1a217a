"""What the raw ASGI handlers of the ingestion port take and answer, of which Litestar knows nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from iotplatform.app.http.openapi import PROBLEM
from iotplatform.domain.payloads.formats import FORMATS

_ID: Final = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}
_VALUE: Final = {"type": ["number", "boolean", "string"]}
_COMMON: Final = {
    "organization_id": _ID,
    "device_id": _ID,
    "timestamp": {
        "type": ["number", "string"],
        "description": "an epoch number (its unit told by its size) or RFC 3339; absent: the time of arrival",
    },
}
_NESTED: Final = {
    "type": "object",
    "minProperties": 1,
    "description": "sensors and their values; the names of nested ones are dotted",
    "additionalProperties": {"type": ["number", "boolean", "string", "object"]},
}
_READING: Final = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        **_COMMON,
        "sensor_name": {"type": "string", "minLength": 1, "maxLength": 512},
        "value": _VALUE,
    },
    "required": ["sensor_name", "value"],
}
_READINGS_OF_A_DEVICE: Final = {
    "type": "object",
    "additionalProperties": False,
    "properties": {**_COMMON, "values": _NESTED},
    "required": ["values"],
}
_OF_THINGSBOARD: Final = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "organization_id": _ID,
        "device_id": _ID,
        "ts": {"type": "number", "description": "milliseconds since 1970"},
        "values": _NESTED,
    },
    "required": ["ts", "values"],
}
_FLAT: Final = {
    **_NESTED,
    "description": "any other object: every field is a sensor but organization_id, device_id and timestamp",
    "properties": _COMMON,
    "not": {"anyOf": [{"required": [field]} for field in ("sensor_name", "value", "values")]},
}
_ENTRY: Final = {"anyOf": [_READING, _READINGS_OF_A_DEVICE, _OF_THINGSBOARD, _FLAT]}
_BODY: Final = {"anyOf": [_ENTRY, {"type": "array", "minItems": 1, "items": _ENTRY}]}
_BODIES: Final[dict[str, Any]] = {
    "application/json": {"schema": _BODY},
    **{
        media_type: {"schema": {"description": f"{known.name}, see docs/payloads.md"}}
        for known in FORMATS
        for media_type in known.media_types[:1]
        if media_type != "application/json"
    },
}
_ERRORS: Final = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"index": {"type": "integer"}, "field": {"type": "string"}, "detail": {"type": "string"}},
    },
}
_FAILURE: Final = {
    "description": "As InfluxDB says it; 400 with lines left out: the good ones are stored",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {"code": {"type": "string"}, "message": {"type": "string"}, "errors": _ERRORS},
            }
        }
    },
}


def _parameter(name: str, place: str, description: str, **schema: Any) -> dict[str, Any]:
    return {
        "name": name,
        "in": place,
        "required": False,
        "description": description,
        "schema": {"type": "string", **schema},
    }


_ENCODING: Final = _parameter("Content-Encoding", "header", "of the body", enum=["identity", "gzip", "zstd"])
_MODE: Final = _parameter("mode", "query", "`store`: for backfill; no rule looks at the readings", enum=["store"])

# `x-needs`: who may call it, as management's routes declare it (roles/management/access.py).
INGEST_PATHS: Final[Mapping[str, Any]] = {
    "/ingest": {
        "post": {
            "summary": "Ingest",
            "operationId": "Ingest",
            "x-needs": "ingest",
            "description": "Answered after the stream has stored every reading.",
            "parameters": [
                _parameter("organization_id", "query", "for a body that does not say it", pattern=_ID["pattern"]),
                _parameter("device_id", "query", "for a body that does not say it", pattern=_ID["pattern"]),
                _MODE,
                _ENCODING,
                _parameter(
                    "Prefer",
                    "header",
                    "`handling=lenient`: what is good is accepted, what is bad is dead-lettered and listed in `errors`",
                ),
                _parameter(
                    "Idempotency-Key",
                    "header",
                    "makes a retry within two minutes harmless: the same key of the same organization "
                    "is stored once; with another body it is refused (422)",
                    minLength=1,
                    maxLength=64,
                    pattern="^[!-~]{1,64}$",
                ),
            ],
            "requestBody": {"required": True, "content": _BODIES},
            "responses": {
                "202": {
                    "description": "Accepted: stored durably",
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "properties": {
                                    "status": {"const": "accepted"},
                                    "accepted": {"type": "integer"},
                                    "errors": _ERRORS,
                                },
                                "required": ["status", "accepted"],
                            }
                        }
                    },
                },
                "default": PROBLEM,
            },
        }
    },
    "/api/v2/write": {
        "post": {
            "summary": "Write line protocol",
            "operationId": "Write",
            "x-needs": "ingest",
            "description": "For clients of InfluxDB 2, unchanged. `Authorization: Token` takes the token of a device.",
            "parameters": [
                _parameter("org", "query", "the organization", pattern=_ID["pattern"]),
                _parameter("bucket", "query", "ignored"),
                _parameter("precision", "query", "of times", enum=["ns", "us", "ms", "s", "n", "u", "m", "h"]),
                _MODE,
                _ENCODING,
            ],
            "requestBody": {"required": True, "content": {"text/plain": {"schema": {"type": "string"}}}},
            "responses": {"204": {"description": "Stored durably"}, "default": _FAILURE},
        }
    },
    "/ping": {
        "get": {
            "summary": "Ping",
            "operationId": "Ping",
            "x-needs": "public",
            "responses": {"204": {"description": "Somebody is there"}},
        }
    },
    "/health": {
        "get": {
            "summary": "Health",
            "operationId": "Health",
            "x-needs": "public",
            "responses": {
                "200": {
                    "description": "As clients of InfluxDB ask for it",
                    "content": {
                        "application/json": {"schema": {"type": "object", "properties": {"status": {"const": "pass"}}}}
                    },
                }
            },
        }
    },
}
