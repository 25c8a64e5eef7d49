"""The OpenAPI documents over HTTP, made when first asked for and kept until the kinds change."""

from __future__ import annotations

from typing import Any

from podwire.apiserver import openapi, openapi_protobuf
from podwire.apiserver.errors import not_acceptable
from podwire.apiserver.negotiation import JSON, media_types
from podwire.apiserver.resources import Registry
from podwire.apiserver.store import encode
from podwire.http.server import Response

_JSON_NAMES = (JSON, "application/*", "*/*")


class Documents:
    """Answers /openapi/…"""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._made: dict[tuple[str, ...], bytes] = {}
        self._generation = -1

    def answer(self, parts: list[str], accept: str) -> Response:
        """Raises 406 for clients that take neither JSON nor, for v2, the protobuf form."""
        takes = [name for name, _ in media_types(accept)] if accept else [JSON]
        protobuf = parts == ["v2"] and takes[0] in openapi_protobuf.ASKED_FOR
        if not protobuf and not any(name in _JSON_NAMES for name in takes):
            raise not_acceptable([JSON, *([openapi_protobuf.MEDIA_TYPE] if parts == ["v2"] else [])])
        if self._generation != self._registry.generation:
            self._made.clear()
            self._generation = self._registry.generation
        key = (*parts, "protobuf") if protobuf else tuple(parts)
        if key not in self._made:
            document = self._make(parts)
            if document is None:
                return Response(404, b"404 page not found\n", content_type="text/plain; charset=utf-8")
            self._made[key] = openapi_protobuf.encode(document) if protobuf else encode(document)
        return Response(body=self._made[key], content_type=openapi_protobuf.MEDIA_TYPE if protobuf else JSON)

    def _make(self, parts: list[str]) -> Any:
        registry = self._registry
        match parts:
            case ["v2"]:
                return openapi.v2_document(registry)
            case ["v3"]:
                served = [(group, each) for group, versions in registry.groups().items() for each in versions]
                return openapi.v3_index(served, str(registry.generation))
            case ["v3", "api", version] if registry.of("", version):
                return openapi.v3_document("", version, registry)
            case ["v3", "apis", group, version] if registry.of(group, version):
                return openapi.v3_document(group, version, registry)
        return None
