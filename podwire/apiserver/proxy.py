"""Hands log, exec, attach and port-forward requests to the kubelet of the pod's node, byte by byte.

The API server only finds the kubelet and translates the URL; upgrades and streams pass through untouched.
Source: Kubernetes' registry/core/pod strategy (LogLocation, ExecLocation, AttachLocation, PortForwardLocation).
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from podwire.apiserver.errors import StatusError, bad_request, not_found
from podwire.apiserver.store import Object, Store
from podwire.http.server import Request, Response, Takeover
from podwire.model.gvr import NODES, PODS

KUBELET_PORT = 10250
DIAL_SECONDS = 10.0
_CHUNK = 64 << 10
_LOG_OPTIONS = ("follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream")
_STREAMS = (("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty"))
_NOT_FORWARDED = ("host", "authorization", "content-length", "transfer-encoding", "expect")


@dataclass(frozen=True, slots=True)
class Target:
    """Where the kubelet listens, and the path to ask it for."""

    address: str
    port: int
    path: str


def is_true(text: str) -> bool:
    return text.lower() in ("1", "true")


def container_of(pod: Object, asked: str) -> str:
    """The container that a request means. Raises 400 as upstream does."""
    spec, name = pod.get("spec") or {}, pod["metadata"]["name"]
    regular = [each["name"] for each in spec.get("containers") or []]
    initial = [each["name"] for each in spec.get("initContainers") or []]
    if not asked:
        chosen = (pod["metadata"].get("annotations") or {}).get("kubectl.kubernetes.io/default-container", "")
        if chosen in regular:
            return str(chosen)
        if len(regular) == 1:
            return str(regular[0])
        hint = f"choose one of: [{' '.join(regular)}]"
        if initial:
            hint += f" or one of the init containers: [{' '.join(initial)}]"
        raise bad_request(f"a container name must be specified for pod {name}, {hint}")
    if asked not in [*regular, *initial]:
        raise bad_request(f"container {asked} is not valid for pod {name}")
    return asked


def kubelet_path(pod: Object, subresource: str, query: dict[str, list[str]]) -> str:
    """The kubelet's URL for a subresource request. Raises 400."""

    def first(name: str) -> str:
        return (query.get(name) or [""])[0]

    where = f"{quote(pod['metadata']['namespace'])}/{quote(pod['metadata']['name'])}"
    asked: list[tuple[str, str]] = []
    if subresource == "portforward":
        asked = [("port", port) for ports in query.get("ports") or [] for port in ports.split(",")]
        return f"/portForward/{where}" + (f"?{urlencode(asked)}" if asked else "")
    container = container_of(pod, first("container"))
    if subresource == "log":
        asked = [(key, first(key)) for key in _LOG_OPTIONS if first(key)]
        return f"/containerLogs/{where}/{quote(container)}" + (f"?{urlencode(asked)}" if asked else "")
    asked = [(kubelets, "1") for ours, kubelets in _STREAMS if is_true(first(ours))]
    if not asked:
        raise bad_request("you must specify at least 1 of stdin, stdout, stderr")
    if subresource == "exec":
        if not query.get("command"):
            raise bad_request("you must specify a command")
        asked += [("command", word) for word in query["command"]]
    return f"/{subresource}/{where}/{quote(container)}?{urlencode(asked)}"


def kubelet_target(store: Store, pod: Object, path: str) -> Target:
    """The kubelet of the pod's node. Raises 400, 404."""
    node_name = (pod.get("spec") or {}).get("nodeName")
    if not node_name:
        raise bad_request(f"pod {pod['metadata']['name']} does not have a host assigned")
    node = store.collection("nodes").objects.get(("", node_name))
    if node is None:
        raise not_found(NODES, node_name)
    status = node.object.get("status") or {}
    addresses = {each.get("type"): each.get("address") for each in status.get("addresses") or []}
    address = addresses.get("InternalIP") or addresses.get("ExternalIP") or addresses.get("Hostname")
    if not address:
        raise StatusError(500, "InternalError", f"no preferred addresses found; known addresses: [] of {node_name}")
    port = ((status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}).get("Port") or KUBELET_PORT
    return Target(address, port, path)


async def forward(
    store: Store, namespace: str, name: str, subresource: str, request: Request, tls: ssl.SSLContext | None
) -> Response | Takeover:
    """Connect to the kubelet and hand the connection over. Raises StatusError."""
    stored = store.collection("pods").objects.get((namespace, name))
    if stored is None:
        raise not_found(PODS, name)
    path = kubelet_path(stored.object, subresource, request.query)
    if subresource == "log" and not stored.object["spec"].get("nodeName"):
        return Response(200, b"", content_type="text/plain")  # nothing has run, so nothing was said
    target = kubelet_target(store, stored.object, path)
    try:
        async with asyncio.timeout(DIAL_SECONDS):
            near, far = await asyncio.open_connection(target.address, target.port, ssl=tls)
    except (OSError, TimeoutError, ssl.SSLError) as error:
        where = f"{target.address}:{target.port}"
        said = error or "i/o timeout"
        raise StatusError(500, "InternalError", f"error dialing backend: dial tcp {where}: {said}") from error
    return _handover(request, target, near, far)


def _handover(request: Request, target: Target, near: asyncio.StreamReader, far: asyncio.StreamWriter) -> Takeover:
    lines = [f"{request.method} {target.path} HTTP/1.1", f"Host: {target.address}:{target.port}"]
    upgrading = "upgrade" in request.headers
    for key, value in request.headers.items():
        if key not in _NOT_FORWARDED and (upgrading or key != "connection"):
            lines.append(f"{key}: {value}")
    if not upgrading:
        lines.append("Connection: close")
    if request.body or request.method == "POST":
        lines.append(f"Content-Length: {len(request.body)}")
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + request.body

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far.write(head)
            await _join(reader, writer, near, far)
        finally:
            far.close()

    return Takeover(run)


async def _join(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, near: asyncio.StreamReader, far: asyncio.StreamWriter
) -> None:
    """Copy both ways until the kubelet has said everything or the client has gone."""
    up = asyncio.create_task(_copy(reader, far))
    down = asyncio.create_task(_copy(near, writer))
    try:
        await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (up, down):
            task.cancel()
        await asyncio.gather(up, down, return_exceptions=True)
        with contextlib.suppress(OSError, RuntimeError):
            await writer.drain()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ssl.SSLError, RuntimeError):
        while chunk := await source.read(_CHUNK):
            sink.write(chunk)
            await sink.drain()
