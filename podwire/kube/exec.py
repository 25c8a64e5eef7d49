"""Run a command in a container, as `kubectl exec` does: channels over a WebSocket.

Source: the remote command protocol `v5.channel.k8s.io` (k8s.io/apimachinery/pkg/util/remotecommand): the first byte of
a message is the channel; 1 is stdout, 2 stderr, 3 the final Status.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlencode

import msgspec

from podwire.kube.api import ApiError
from podwire.kube.client import Client
from podwire.model.gvr import PODS

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")


@dataclass(frozen=True, slots=True)
class Executed:
    """What a command printed, and the code it ended with."""

    exit_code: int
    stdout: bytes
    stderr: bytes


class _Cause(msgspec.Struct):
    reason: str = ""
    message: str = ""


class _Details(msgspec.Struct):
    causes: list[_Cause] = []


class _Status(msgspec.Struct):
    status: str = ""
    message: str = ""
    reason: str = ""
    details: _Details | None = None


def exit_code(status: bytes) -> int:
    """The exit code that a final Status tells. Raises ApiError when the command was not run at all."""
    told = msgspec.json.decode(status, type=_Status)
    if told.status == "Success":
        return 0
    for cause in told.details.causes if told.details else []:
        if cause.reason == "ExitCode":
            return int(cause.message)
    raise ApiError(0, told.reason or "InternalError", told.message)


async def run(
    client: Client, namespace: str, pod: str, container: str, argv: list[str], *, seconds: float = 30.0
) -> Executed:
    """Run `argv` in a container and wait for its end, `seconds` at most. Raises ApiError."""
    query = [("container", container), ("stdout", "1"), ("stderr", "1"), *(("command", word) for word in argv)]
    output = {1: bytearray(), 2: bytearray(), 3: bytearray()}
    path = f"{PODS.path(namespace, pod, 'exec')}?{urlencode(query)}"
    async for message in client.messages(path, PROTOCOLS, seconds=seconds):
        if message and message[0] in output:
            output[message[0]] += message[1:]
    if not output[3]:
        raise ApiError(0, "ConnectionError", f"exec in {namespace}/{pod}: the connection ended before the command did")
    return Executed(exit_code(bytes(output[3])), bytes(output[1]), bytes(output[2]))
