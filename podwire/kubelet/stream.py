"""kubelet's streaming paths: /exec, /attach, /portForward and /containerLogs, as the API server proxies them.

What containers there are comes through `PodLookup`; this file only reads the request and picks the protocol:
`remotecommand` serves exec and attach, `portforward` ports, `containerlogs` logs.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from podwire.http.server import Handler, Request, Response, Takeover
from podwire.kubelet import containerlogs, portforward, remotecommand
from podwire.kubelet.remotecommand import Process, Refused

_REASONS = {400: "BadRequest", 403: "Forbidden", 404: "NotFound", 405: "MethodNotAllowed"}
PATHS = ("/exec/", "/attach/", "/portForward/", "/containerLogs/")


@dataclass(frozen=True, slots=True)
class RunningContainer:
    """What streaming needs of a container."""

    container_id: str
    tty: bool
    stdin: bool
    log_paths: tuple[Path, ...]
    """The file of the current start, then that of the one before, if there was one."""
    attach: Callable[[], Process]
    netns_path: str
    """The sandbox's network namespace; "" for the node's own."""
    running: bool = True


class PodLookup(Protocol):
    """The kubelet's pods, as streaming sees them."""

    def find(self, namespace: str, pod: str, container: str) -> RunningContainer | None:
        """The container, running or not; with `container` "" the pod's first. None if there is no such. May raise
        Refused with better words, such as that the container is waiting to start."""

    def exec(self, container_id: str, argv: list[str], *, tty: bool, stdin: bool) -> Awaitable[Process]:
        """Start a program in it. Raises RuntimeFailure or OSError, the text of which goes to the client."""


def handler(lookup: PodLookup) -> Handler:
    """The kubelet's HTTP handler for `PATHS`; other paths get 404."""

    async def handle(request: Request) -> Response | Takeover:
        verb, *names = request.path.strip("/").split("/")
        try:
            if verb in ("exec", "attach", "containerLogs") and len(names) in (3, 4):
                found = _find(lookup, names[0], names[1], names[-1])
                if verb == "containerLogs":
                    return _logs(lookup, request, names, found)
                return _command(lookup, request, verb, found)
            if verb == "portForward" and len(names) in (2, 3):
                return portforward.upgrade(request, _find(lookup, names[0], names[1], "").netns_path)
        except Refused as refusal:
            return refused(refusal)
        return Response(404, b"404 page not found\n", content_type="text/plain; charset=utf-8")

    return handle


def refused(refusal: Refused) -> Response:
    """A v1.Status, so that a client behind a proxy that only copies bytes reads the words as well."""
    status = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": str(refusal),
        "reason": _REASONS.get(refusal.status, "InternalError"),
        "code": refusal.status,
    }
    return Response(refusal.status, json.dumps(status).encode())


def _find(lookup: PodLookup, namespace: str, pod: str, container: str) -> RunningContainer:
    found = lookup.find(namespace, pod, container)
    if found is None:
        raise Refused(404, f'container not found ("{container}")' if container else f'pod "{pod}" not found')
    return found


def _command(lookup: PodLookup, request: Request, verb: str, found: RunningContainer) -> Response | Takeover:
    if request.method not in ("GET", "POST"):
        raise Refused(405, "use GET or POST")
    if not found.running:
        raise Refused(404, "container is not running")
    asked = remotecommand.options(request.query)
    if verb == "attach":
        return remotecommand.upgrade(request, asked.narrowed(found.tty, found.stdin), _attacher(found), kill=False)
    argv = request.query.get("command", [])
    if not argv:
        raise Refused(400, "you must specify at least one command for the container")

    async def start() -> Process:
        return await lookup.exec(found.container_id, argv, tty=asked.tty, stdin=asked.stdin)

    return remotecommand.upgrade(request, asked, start, kill=True)


def _attacher(found: RunningContainer) -> Callable[[], Awaitable[Process]]:
    async def start() -> Process:
        return found.attach()

    return start


def _logs(lookup: PodLookup, request: Request, names: list[str], found: RunningContainer) -> Response:
    try:
        wanted = containerlogs.options(request.query)
    except ValueError as error:
        raise Refused(400, str(error)) from error
    paths = found.log_paths[1:] if wanted.previous else found.log_paths
    if not paths:
        which, state = ("previous terminated ", "not found") if wanted.previous else ("", "is waiting to start")
        raise Refused(400, f'{which}container "{names[-1]}" in pod "{names[1]}" {state}')

    def alive() -> bool:
        now = lookup.find(names[0], names[1], names[-1])
        return now is not None and now.running and now.container_id == found.container_id and not wanted.previous

    body = containerlogs.stream(paths[0], wanted, alive)
    return Response(200, body, content_type="text/plain")
