"""A small synchronous reader of the lab's API for the command line: one kept connection, standard library only.

The asynchronous client of room `kube` costs several hundred milliseconds to load; `up` and `status` need a few GETs.
"""

from __future__ import annotations

import http.client
import json
import ssl
from pathlib import Path
from typing import Any


class Unreachable(Exception):
    """The API did not answer, or not with what was asked for."""


class Reader:
    """GETs from 127.0.0.1:`port` with the admin's certificate."""

    def __init__(self, port: int, pki: Path, timeout: float = 5.0) -> None:
        context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        self.connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=timeout, context=context)

    def get(self, path: str) -> dict[str, Any]:
        """The JSON at `path`. Raises Unreachable."""
        try:
            self.connection.request("GET", path, headers={"Accept": "application/json"})
            response = self.connection.getresponse()
            body = response.read()
            if response.status != 200:
                raise Unreachable(f"{path}: {response.status} {body[:200].decode(errors='replace')}")
            return dict(json.loads(body))
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.connection.close()
            raise Unreachable(f"{path}: {error}") from None

    def nodes(self) -> list[dict[str, Any]]:
        """Every Node."""
        return list(self.get("/api/v1/nodes").get("items") or [])

    def pods(self) -> list[dict[str, Any]]:
        """Every Pod."""
        return list(self.get("/api/v1/pods").get("items") or [])

    def has_default_account(self) -> bool:
        """Whether pods can be created in the namespace `default`: they need its service account."""
        try:
            self.get("/api/v1/namespaces/default/serviceaccounts/default")
        except Unreachable:
            return False
        return True

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


def condition(obj: dict[str, Any], kind: str) -> dict[str, Any]:
    """The condition of that type in an object's status, or an empty one."""
    for entry in obj.get("status", {}).get("conditions") or []:
        if entry.get("type") == kind:
            return dict(entry)
    return {}


def is_ready(node: dict[str, Any]) -> bool:
    """Whether a node (or pod) says that it is Ready."""
    return condition(node, "Ready").get("status") == "True"
