"""A FakeApi behind real HTTP on loopback, so that the client is tried against sockets, streams and status codes."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from aiohttp import web

from podwire.kube.client import ApiError
from podwire.kube.fake import FakeApi, _FakeSource, _matcher
from podwire.kube.watch import Gone, Interrupted
from podwire.model import gvr as resources
from podwire.model.gvr import GVR

KINDS = {(g.group, g.plural): g for g in vars(resources).values() if isinstance(g, GVR)}
PATCHES = {"merge-patch": "merge", "json-patch": "json", "strategic": "strategic", "apply-patch": "apply"}


def split(path: str) -> tuple[GVR, str, str, str]:
    """A URL path as kind, namespace, name, subresource."""
    parts = path.strip("/").split("/")
    group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1], parts[3:])
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and (group, rest[2]) in KINDS:
        namespace, rest = rest[1], rest[2:]
    rest += [""] * (3 - len(rest))
    return KINDS[(group, rest[0])], namespace, rest[1], rest[2]


class FakeServer:
    def __init__(self, api: FakeApi) -> None:
        self.api = api
        self.port = 0
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=8 << 20)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]

    async def stop(self) -> None:
        assert self._runner
        await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except ApiError as error:
            body = {"kind": "Status", "reason": error.reason, "message": error.message, "code": error.status}
            return web.json_response({**body, "details": error.details}, status=error.status or 503)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        gvr, namespace, name, subresource = split(request.path)
        query, raw = request.query, await request.read()
        body: Any = msgspec.json.decode(raw) if raw else None
        selectors = {
            "label_selector": query.get("labelSelector", ""),
            "field_selector": query.get("fieldSelector", ""),
        }
        if request.method == "GET" and not name:
            if query.get("watch"):
                return await self._watch(request, gvr, _matcher(namespace, *selectors.values()))
            items, version = await self.api.list(gvr, namespace, **selectors)
            at, limit = int(query.get("continue", "0")), int(query.get("limit", "0")) or len(items)
            more = str(at + limit) if at + limit < len(items) else ""
            metadata = {"resourceVersion": version, "continue": more}
            return web.json_response({"metadata": metadata, "items": items[at : at + limit]})
        if request.method == "GET":
            return web.json_response(await self.api.get(gvr, name, namespace, subresource))
        if request.method == "POST":
            made = await self.api.create(gvr, body, namespace, subresource=subresource, name=name)
            return web.json_response(made, status=201)
        if request.method == "PUT":
            return web.json_response(await self.api.update(gvr, body, subresource=subresource))
        if request.method == "PATCH":
            kind = next(k for word, k in PATCHES.items() if word in request.content_type)
            return web.json_response(
                await self.api.patch(gvr, name, body, namespace, kind=kind, subresource=subresource)
            )
        conditions = (body or {}).get("preconditions") or {}
        version, uid = conditions.get("resourceVersion", ""), conditions.get("uid", "")
        grace = (body or {}).get("gracePeriodSeconds")
        await self.api.delete(gvr, name, namespace, uid=uid, resource_version=version, grace=grace)
        return web.json_response({"kind": "Status", "status": "Success"})

    async def _watch(self, request: web.Request, gvr: GVR, wanted: Any) -> web.StreamResponse:
        response = web.StreamResponse()
        source = _FakeSource(self.api, gvr, wanted, None)
        streamed = request.query.get("sendInitialEvents") == "true"
        if streamed and not self.api.streams:
            raise ApiError(422, "Invalid", "sendInitialEvents is forbidden for watch unless the feature is enabled")
        await response.prepare(request)
        try:
            async for change in source.stream() if streamed else source.changes(request.query["resourceVersion"]):
                kind, value = change.type, change.record.value
                if kind in ("BOOKMARK", "LEARNED"):
                    marks = {"k8s.io/initial-events-end": "true"} if kind == "LEARNED" else {}
                    metadata = {"resourceVersion": change.record.version, "annotations": marks}
                    kind, value = "BOOKMARK", {"metadata": metadata}
                await response.write(msgspec.json.encode({"type": kind, "object": value}) + b"\n")
        except (Gone, Interrupted) as error:
            code = 410 if isinstance(error, Gone) else 500
            event = {"type": "ERROR", "object": {"kind": "Status", "code": code, "reason": "Expired"}}
            if code == 410:
                await response.write(msgspec.json.encode(event) + b"\n")
        except asyncio.CancelledError:
            raise
        return response
