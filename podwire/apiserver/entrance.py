"""Everything that clients read beside resources: discovery, schemas, version, health."""

from __future__ import annotations

from podwire.apiserver import discovery
from podwire.apiserver.documents import Documents
from podwire.apiserver.errors import method_not_allowed
from podwire.apiserver.resources import Registry
from podwire.apiserver.store import encode
from podwire.http.server import Request, Response


def described(request: Request, parts: list[str], registry: Registry, documents: Documents, version: str) -> Response:
    """Everything that is not about resources."""
    if request.method not in ("GET", "HEAD"):
        raise method_not_allowed()
    accept = request.headers.get("accept", "")
    aggregated = discovery.aggregated_type(accept)
    match parts:
        case ["version"]:
            return Response(body=encode(discovery.version_info(version)))
        case ["healthz" | "livez" | "readyz" as check, *rest]:
            told = "" if rest or "verbose" not in request.query else f"[+]ping ok\n{check} check passed\n"
            return Response(body=told.encode() or b"ok", content_type="text/plain; charset=utf-8")
        case ["api" | "apis" as root] if aggregated:
            wanted = "v2" if ";v=v2;" in aggregated else "v2beta1"
            return Response(
                body=encode(discovery.group_list(registry, core=root == "api", version=wanted)),
                content_type=aggregated,
            )
        case ["api"]:
            return Response(body=encode(discovery.core_versions()))
        case ["apis"]:
            return Response(body=encode(discovery.groups(registry)))
        case ["apis", group] if registry.groups().get(group):
            return Response(body=encode(discovery.group(group, registry.groups()[group], whole=True)))
        case ["api", each] if registry.of("", each):
            return Response(body=encode(discovery.resource_list(registry, "", each)))
        case ["apis", group, each] if registry.of(group, each):
            return Response(body=encode(discovery.resource_list(registry, group, each)))
        case ["openapi", *rest]:
            return documents.answer(rest, accept)
        case []:
            return Response(body=encode({"paths": _paths(registry)}))
    return Response(404, b"404 page not found\n", content_type="text/plain; charset=utf-8")


def _paths(registry: Registry) -> list[str]:
    found = ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]
    for group, versions in registry.groups().items():
        if group:
            found += [f"/apis/{group}", *(f"/apis/{group}/{version}" for version in versions)]
    return sorted(found)
