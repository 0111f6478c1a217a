"""The OpenAPI 3.1 document at `/schema/openapi.json`, and no page beside it that loads scripts from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from litestar import Request, Response, Router
from litestar.exceptions import NotFoundException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin

from iotplatform import __version__

PROBLEM: Final = {
    "description": "A problem document (RFC 9457)",
    "content": {
        "application/problem+json": {
            "schema": {
                "type": "object",
                "properties": {
                    "type": {"type": "string"},
                    "title": {"type": "string"},
                    "status": {"type": "integer"},
                    "detail": {"type": "string"},
                    "errors": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {
                                "index": {"type": "integer"},
                                "field": {"type": "string"},
                                "detail": {"type": "string"},
                            },
                        },
                    },
                },
            }
        }
    },
}


class _Document(JsonRenderPlugin):
    def __init__(self, paths: Mapping[str, Any]) -> None:
        super().__init__()
        self._paths = paths

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        paths = {path: _with_problem(item) for path, item in (openapi_schema.get("paths") or {}).items()}
        return super().render(request, {**_mended(openapi_schema), "paths": {**_mended(paths), **self._paths}})


def _mended(node: Any) -> Any:
    r"""What Litestar says wrongly of our types, put right all over a document.

    It takes the `...` of `tuple[X, ...]` for one more type, which anything matches; and it passes on the `\Z` that ends
    Python's patterns, which those of JSON Schema read as the letter.
    """
    if isinstance(node, list):
        return [_mended(part) for part in node]
    if not isinstance(node, dict):
        return node
    mended = {key: _mended(part) for key, part in node.items()}
    if isinstance(pattern := mended.get("pattern"), str) and pattern.endswith("\\Z"):
        mended["pattern"] = pattern.removesuffix("\\Z") + "$"
    match mended.get("oneOf"):
        case [{**only}, {**nothing}] if only and not nothing:
            del mended["oneOf"]
            mended |= only
    return mended


def _with_problem(item: dict[str, Any]) -> dict[str, Any]:
    """Every operation can end in a problem document; Litestar would describe an error of its own instead."""
    described = {}
    for method, operation in item.items():
        if isinstance(operation, dict) and "responses" in operation:
            kept = {status: answer for status, answer in operation["responses"].items() if status < "400"}
            described[method] = {**operation, "responses": {**kept, "default": PROBLEM}}
        else:
            described[method] = operation
    return described


async def _refuse_other_pages(response: Response[Any]) -> Response[Any]:
    # Litestar answers the other paths below /schema by a page in HTML.
    if response.status_code == 404:
        raise NotFoundException
    return response


def openapi_config(title: str, paths: Mapping[str, Any] | None = None) -> OpenAPIConfig:
    """For `Litestar(openapi_config=...)`; `paths` are added to those that Litestar knows."""
    return OpenAPIConfig(
        title=title,
        version=__version__,
        render_plugins=[_Document(paths or {})],
        openapi_router=Router("/schema", route_handlers=[], include_in_schema=False, after_request=_refuse_other_pages),
    )
