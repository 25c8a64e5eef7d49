"""The API over HTTP: paths to verbs, bodies to objects, StatusErrors to Status answers.

Source: k8s.io/apiserver endpoints (request info, handlers) and its URL conventions.
"""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from podwire.apiserver import deletion, documents, proxy, questions, subresources
from podwire.apiserver.admission import User
from podwire.apiserver.auth import OPEN_PATHS, authenticate
from podwire.apiserver.entrance import described
from podwire.apiserver.errors import (
    StatusError,
    bad_request,
    method_not_allowed,
    unauthorized,
    unsupported_media_type,
)
from podwire.apiserver.negotiation import (
    JSON,
    YAML,
    Form,
    accepted_form,
    as_yaml,
    media_type,
    read_body,
    read_json,
    read_yaml,
    wants_yaml,
)
from podwire.apiserver.patching import KINDS, patch_object
from podwire.apiserver.resources import Resource
from podwire.apiserver.rest import Page, Rest, read_version
from podwire.apiserver.selection import Selection, selection
from podwire.apiserver.shape import Object, Options
from podwire.apiserver.store import Stored, encode
from podwire.apiserver.tables import partial, table
from podwire.apiserver.watch import Asked, Watcher
from podwire.http.server import Request, Response, Takeover

_STREAMED = ("log", "exec", "attach", "portforward")
_LONGEST_WATCH = (1800.0, 3600.0)


@dataclass(frozen=True, slots=True)
class Target:
    """What a resource URL names."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""


def error_response(error: StatusError) -> Response:
    headers = {}
    if error.details.get("retryAfterSeconds"):
        headers["Retry-After"] = str(error.details["retryAfterSeconds"])
    return Response(error.code, encode(error.status()), headers)


def refusal(code: int, why: str) -> Response:
    """What the HTTP server answers by itself, as a Status."""
    reasons = {400: "BadRequest", 413: "RequestEntityTooLarge", 431: "BadRequest"}
    message = f"Request entity too large: {why}" if code == 413 else why
    return error_response(StatusError(code, reasons.get(code, "InternalError"), message))


def warning_headers(warnings: list[str]) -> dict[str, str]:
    """RFC 7234 warnings, as kubectl prints them."""
    if not warnings:
        return {}
    quoted = [text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") for text in warnings]
    return {"Warning": ", ".join(f'299 - "{text}"' for text in quoted)}


class ApiHandler:
    """Answers requests from one Rest."""

    def __init__(
        self,
        rest: Rest,
        *,
        token_key: bytes,
        version: str,
        kubelet_ssl: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.rest = rest
        self.token_key = token_key
        self.version = version
        self.kubelet_ssl = kubelet_ssl
        self.clock = clock
        self.documents = documents.Documents(rest.registry)

    async def __call__(self, request: Request) -> Response | Takeover:
        if not wants_yaml(request.headers.get("accept", "")):
            return await self._answer(request)
        request.headers["accept"] = JSON
        answer = await self._answer(request)
        if isinstance(answer, Response) and isinstance(answer.body, bytes) and answer.content_type == JSON:
            return Response(answer.status, as_yaml(answer.body), answer.headers, YAML)
        return answer

    async def _answer(self, request: Request) -> Response | Takeover:
        try:
            user = authenticate(
                request.peer,
                request.headers.get("authorization", ""),
                self.token_key,
                self.rest.store,
                self.clock(),
            )
            if user is None and not request.path.startswith(OPEN_PATHS):
                raise unauthorized()
            return await self._route(request, user or User("system:anonymous", ("system:unauthenticated",)))
        except StatusError as error:
            return error_response(error)

    async def _route(self, request: Request, user: User) -> Response | Takeover:
        parts = [part for part in request.path.split("/") if part]
        registry = self.rest.registry
        group, version, rest = "", "", []
        if parts[:1] == ["api"] and len(parts) > 2:
            group, version, rest = "", parts[1], parts[2:]
        elif parts[:1] == ["apis"] and len(parts) > 3:
            group, version, rest = parts[1], parts[2], parts[3:]
        if not rest:
            return described(request, parts, self.rest.registry, self.documents, self.version)
        target = self._target(registry, group, version, rest)
        if target is None:
            return Response(404, b"404 page not found\n", content_type="text/plain; charset=utf-8")
        try:
            answer = await self._verb(request, target, user)
        except StatusError as error:
            answer = error_response(error)
        if target.resource.warning and isinstance(answer, Response):
            answer.headers |= warning_headers([target.resource.warning])
        return answer

    @staticmethod
    def _target(registry: Any, group: str, version: str, parts: list[str]) -> Target | None:
        namespace = ""
        if parts[0] == "namespaces" and len(parts) > 2 and parts[2] not in ("status", "finalize"):
            namespace, parts = parts[1], parts[2:]
        resource: Resource | None = registry.find(group, version, parts[0])
        if resource is None or len(parts) > 3 or bool(namespace) > resource.gvr.namespaced:
            return None
        if resource.gvr.namespaced and not namespace and len(parts) > 1:
            return None
        name, subresource = (parts[1] if len(parts) > 1 else ""), (parts[2] if len(parts) > 2 else "")
        if subresource and subresource not in {each.name for each in resource.all_subresources()}:
            return None
        return Target(resource, namespace, name, subresource)

    # verbs

    async def _verb(self, request: Request, target: Target, user: User) -> Response | Takeover:
        if target.subresource in _STREAMED and target.resource.gvr.plural == "pods":
            if request.method not in ("GET", "POST"):
                raise method_not_allowed()
            return await proxy.forward(
                self.rest.store, target.namespace, target.name, target.subresource, request, self.kubelet_ssl
            )
        method, named = request.method, bool(target.name)
        verb = {
            ("GET", True): "get",
            ("GET", False): "list",
            ("POST", False): "create",
            ("PUT", True): "update",
            ("PATCH", True): "patch",
            ("DELETE", True): "delete",
            ("DELETE", False): "deletecollection",
        }.get((method, named), "")
        if target.subresource:
            return await self._subresource(request, target, user)
        if verb not in target.resource.verbs:
            raise method_not_allowed(target.resource.read_only)
        if verb == "get":
            return self._get(request, target)
        if verb == "list":
            return self._list(request, target)
        if verb.startswith("delete"):
            return await self._delete(request, target, self._options(request, user))
        return await self._write(request, target, self._options(request, user))

    def _options(self, request: Request, user: User) -> Options:
        dry = request.query.get("dryRun") or []
        validation = request.argument("fieldValidation") or "Warn"
        questions.check_write(request.method, dry, validation)
        manager = request.argument("fieldManager")
        applying = media_type(request.headers.get("content-type", "")) == "application/apply-patch+yaml"
        if not manager and not applying:
            manager = request.headers.get("user-agent", "unknown").partition("/")[0]
        return Options(
            user, "All" in dry, manager, validation, proxy.is_true(request.argument("force")), now=self.clock()
        )

    def _get(self, request: Request, target: Target) -> Response:
        stored = self.rest.get(target.resource, target.namespace, target.name)
        return self._object(request, target.resource, stored)

    def _form(self, request: Request) -> Form:
        return accepted_form(request.headers.get("accept", ""), request.argument("includeObject"))

    def _object(
        self, request: Request, resource: Resource, stored: Stored, status: int = 200, options: Options | None = None
    ) -> Response:
        form = self._form(request)
        headers = warning_headers(options.warnings) if options else {}
        if form.table:
            metadata = {"resourceVersion": stored.object["metadata"].get("resourceVersion", "")}
            return Response(status, table(resource, [stored], form.table, self.clock(), metadata), headers)
        if form.partial:
            return Response(status, encode(partial(stored, form.partial)), headers)
        return Response(status, stored.json, headers)

    def _selection(self, request: Request, target: Target) -> Selection:
        labels, fields = request.argument("labelSelector"), request.argument("fieldSelector")
        return selection(target.resource, target.namespace, labels, fields)

    def _list(self, request: Request, target: Target) -> Response:
        selected = self._selection(request, target)
        watch = proxy.is_true(request.argument("watch"))
        questions.check_list(request, watch=watch)
        if watch:
            return self._watch(request, target.resource, selected)
        limit = request.argument("limit", "0")
        if not limit.isdigit():
            raise bad_request(f'limit: Invalid value: "{limit}": must be a number')
        page = self.rest.list(
            target.resource,
            selected,
            limit=int(limit),
            token=request.argument("continue"),
            version=request.argument("resourceVersion"),
            match=request.argument("resourceVersionMatch"),
        )
        return Response(body=self.list_body(target.resource, page, self._form(request)))

    def list_body(self, resource: Resource, page: Page, form: Form) -> bytes:
        metadata: Object = {"resourceVersion": str(page.revision)}
        if page.token:
            metadata["continue"] = page.token
        if page.remaining is not None:
            metadata["remainingItemCount"] = page.remaining
        if form.table:
            return table(resource, page.items, form.table, self.clock(), metadata)
        kind, version = resource.kind_of_list, resource.gvr.api_version
        items = [each.json for each in page.items]
        if form.partial:
            kind, version = "PartialObjectMetadataList", f"meta.k8s.io/{form.partial}"
            items = [encode(partial(each, form.partial)) for each in page.items]
        head = encode({"kind": kind, "apiVersion": version, "metadata": metadata})
        return head[:-1] + b',"items":[' + b",".join(items) + b"]}"

    def _watch(self, request: Request, resource: Resource, selected: Selection) -> Response:
        version = request.argument("resourceVersion")
        asked_initial = request.argument("sendInitialEvents")
        wants_initial = proxy.is_true(asked_initial)
        bookmarks = proxy.is_true(request.argument("allowWatchBookmarks"))
        if wants_initial and not bookmarks:
            raise bad_request("sendInitialEvents requires setting allowWatchBookmarks to true")
        seconds = request.argument("timeoutSeconds", "0")
        if not seconds.isdigit():
            raise bad_request(f'timeoutSeconds: Invalid value: "{seconds}": must be a number')
        revision = read_version(version)
        asked = Asked(
            resource,
            selected,
            self._form(request),
            revision,
            wants_initial or (not asked_initial and revision == 0),
            wants_initial,
            bookmarks,
            float(seconds) or random.uniform(*_LONGEST_WATCH),
        )
        if not asked.initial and revision == 0:
            asked = Asked(
                resource, selected, asked.form, self.rest.store.revision, False, False, bookmarks, asked.seconds
            )
        watcher = Watcher(self.rest, asked, self.clock)
        return Response(body=watcher.stream(*watcher.begin()))

    async def _write(self, request: Request, target: Target, options: Options) -> Response:
        resource, rest = target.resource, self.rest
        if request.method == "PATCH":
            kind, patch = self._patch_body(request)
            stored, created = await patch_object(rest, resource, target.namespace, target.name, kind, patch, options)
            return self._object(request, resource, stored, 201 if created else 200, options)
        body, options.duplicates = read_body(request.body, request.headers.get("content-type", ""))
        if resource.verbs == ("create",):
            answer = subresources.review(rest, resource, body, options, self.token_key)
            return Response(201, encode(answer))
        namespace = target.namespace
        if request.method == "PUT":
            existed = rest.collection(resource).latest((namespace, target.name)) is not None
            stored = await rest.update(resource, namespace, target.name, body, options)
            return self._object(request, resource, stored, 200 if existed else 201, options)
        if resource.gvr.namespaced and not namespace:
            raise bad_request("an empty namespace may not be set during creation")
        stored = await rest.create(resource, namespace, body, options)
        return self._object(request, resource, stored, 201, options)

    @staticmethod
    def _patch_body(request: Request) -> tuple[str, Any]:
        kind = KINDS.get(media_type(request.headers.get("content-type", "")), "")
        if not kind:
            raise unsupported_media_type(tuple(KINDS))
        return kind, read_yaml(request.body) if kind == "apply" else read_json(request.body)

    async def _delete(self, request: Request, target: Target, options: Options) -> Response:
        body: Any = {}
        if request.body:
            body, _ = read_body(request.body, request.headers.get("content-type", ""))
        if not isinstance(body, dict):
            raise bad_request("the body is not DeleteOptions")
        if "All" in (body.get("dryRun") or []):
            options.dry_run = True
        wanted = deletion.read_options(body, {key: values[0] for key, values in request.query.items()})
        rest, resource = self.rest, target.resource
        if not target.name:
            selected = self._selection(request, target)
            items = await deletion.delete_collection(rest, resource, selected, wanted, options)
            return Response(body=self.list_body(resource, Page(items, rest.store.revision), self._form(request)))
        answer = await deletion.delete(rest, resource, target.namespace, target.name, wanted, options)
        if isinstance(answer, Stored):
            return self._object(request, resource, answer)
        return Response(body=encode(answer))

    async def _subresource(self, request: Request, target: Target, user: User) -> Response:
        rest, resource, options = self.rest, target.resource, self._options(request, user)
        where = (target.namespace, target.name)
        method, sub = request.method, target.subresource
        if method == "GET" and sub in ("status", "scale"):
            stored = rest.get(resource, *where)
            if sub == "status":
                return self._object(request, resource, stored)
            return Response(body=encode(subresources.scale_of(resource, stored.object)))
        if method == "PATCH" and sub in ("status", "scale"):
            kind, body = self._patch_body(request)
        elif (method == "PUT") == (sub in ("status", "scale", "finalize")) and method in ("PUT", "POST"):
            kind = ""
            body, options.duplicates = read_body(request.body, request.headers.get("content-type", ""))
        else:
            raise method_not_allowed()
        match sub:
            case "status" if kind:
                stored, _ = await patch_object(rest, resource, *where, kind, body, options, "status")
                return self._object(request, resource, stored, 200, options)
            case "status":
                stored = await rest.update(resource, *where, body, options, "status")
                return self._object(request, resource, stored, 200, options)
            case "scale":
                return Response(
                    body=encode(await subresources.write_scale(rest, resource, *where, kind, body, options))
                )
            case "finalize":
                stored = await deletion.finalize_namespace(rest, resource, target.name, body, options)
                return self._object(request, resource, stored)
            case "binding":
                return Response(201, encode(await subresources.bind(rest, resource, *where, body, options)))
            case "eviction":
                return Response(201, encode(await subresources.evict(rest, resource, *where, body, options)))
            case _:
                answer = await subresources.issue_token(rest, resource, *where, body, options, self.token_key)
                return Response(201, encode(answer))
