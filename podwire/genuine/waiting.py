"""Waiting for what a component needs before it is started, so that none spends its own back-off times on it."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from podwire.kube.kubeconfig import load

_PAUSE = 0.02


def until(work: Callable[[], bool]) -> None:
    """Call until it is true. Without end: whoever waits is a process that can be ended."""
    while not work():
        time.sleep(_PAUSE)


def for_socket(path: str) -> None:
    """Until something answers on that unix socket."""
    until(lambda: _connects(socket.AF_UNIX, path))


def for_port(address: str, port: int) -> None:
    """Until something answers on that TCP port."""
    until(lambda: _connects(socket.AF_INET, (address, port)))


def for_api(address: str, port: int, pki: Path) -> None:
    """Until the API says that it is ready; /readyz needs no identity."""
    context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    until(lambda: _connects(socket.AF_INET, (address, port)) and _answers(address, port, context, "/readyz"))


def for_kind(kubeconfig: Path, path: str) -> None:
    """Until the API serves the collection at `path` to the owner of that kubeconfig: the kind is there, and allowed."""
    cluster = load(kubeconfig)
    context = ssl.create_default_context(cadata=cluster.ca.decode())
    with tempfile.NamedTemporaryFile() as identity:
        identity.write(cluster.cert + cluster.key)
        identity.flush()
        context.load_cert_chain(identity.name)
    host = urlsplit(cluster.server)
    assert host.hostname is not None
    address, port = host.hostname, host.port or 443
    until(lambda: _connects(socket.AF_INET, (address, port)) and _answers(address, port, context, f"{path}?limit=1"))


def _connects(family: int, address: str | tuple[str, int]) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(2)
        try:
            sock.connect(address)
        except OSError:
            return False
        return True


def _answers(address: str, port: int, context: ssl.SSLContext, path: str) -> bool:
    connection = http.client.HTTPSConnection(address, port, timeout=5, context=context)
    with contextlib.closing(connection):
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
