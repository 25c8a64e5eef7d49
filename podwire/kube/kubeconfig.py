"""Where the API is and how to prove who we are, as a kubeconfig file says. Source: client-go clientcmd (the format)."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class KubeconfigError(Exception):
    """The file is missing, is not a kubeconfig, or asks for what is not supported; the message names file and field."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """One server and one identity. `ca`, `cert` and `key` are PEM; `token_file` is read for every call. `files` are
    those that it was made of."""

    server: str
    ca: bytes = b""
    cert: bytes = b""
    key: bytes = b""
    token: str = ""
    token_file: str = ""
    namespace: str = "default"
    tls_server_name: str = ""
    insecure: bool = False
    files: tuple[str, ...] = ()


def load(path: Path | str, context: str = "") -> Cluster:
    """Read a kubeconfig; `context` defaults to current-context. Raises KubeconfigError."""
    import yaml

    path = Path(path)
    try:
        document = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise KubeconfigError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise KubeconfigError(f"{path}: not YAML: {error}") from error
    return parse(document, path, context)


def parse(document: Any, path: Path, context: str = "") -> Cluster:
    """A decoded kubeconfig as a Cluster; relative file names are taken from `path`'s folder. Raises KubeconfigError."""
    if not isinstance(document, dict):
        raise KubeconfigError(f"{path}: not a kubeconfig")
    wanted = context or document.get("current-context") or ""
    if not wanted:
        raise KubeconfigError(f"{path}: current-context is not set")
    chosen = _named(document, "contexts", "context", wanted, path)
    cluster = _named(document, "clusters", "cluster", chosen.get("cluster", ""), path)
    user = _named(document, "users", "user", chosen["user"], path) if chosen.get("user") else {}
    for unsupported in ("exec", "auth-provider"):
        if unsupported in user:
            raise KubeconfigError(f"{path}: users[{chosen['user']}].user.{unsupported} is not supported")
    server = cluster.get("server", "")
    if not server:
        raise KubeconfigError(f"{path}: clusters[{chosen.get('cluster')}].cluster.server is not set")
    return Cluster(
        server=server.rstrip("/"),
        ca=_pem(cluster, "certificate-authority", path),
        cert=_pem(user, "client-certificate", path),
        key=_pem(user, "client-key", path),
        token=user.get("token", ""),
        token_file=user.get("tokenFile", ""),
        namespace=chosen.get("namespace") or "default",
        tls_server_name=cluster.get("tls-server-name", ""),
        insecure=bool(cluster.get("insecure-skip-tls-verify", False)),
        files=(str(path), *_named_files(cluster, user, path)),
    )


def _named_files(cluster: dict[str, Any], user: dict[str, Any], path: Path) -> list[str]:
    """The PEM files that are read, in `_pem`'s way."""
    fields = ((cluster, "certificate-authority"), (user, "client-certificate"), (user, "client-key"))
    return [
        str(path.parent / str(section[field]))
        for section, field in fields
        if section.get(field) and not section.get(f"{field}-data")
    ]


def _named(document: dict[str, Any], section: str, inner: str, name: str, path: Path) -> dict[str, Any]:
    for entry in document.get(section) or []:
        if isinstance(entry, dict) and entry.get("name") == name:
            found = entry.get(inner)
            return found if isinstance(found, dict) else {}
    raise KubeconfigError(f"{path}: {section} has no entry named {name!r}")


def _pem(section: dict[str, Any], field: str, path: Path) -> bytes:
    """`<field>-data` (base64) wins over the file that `<field>` names."""
    if inline := section.get(f"{field}-data"):
        try:
            return base64.b64decode(inline, validate=True)
        except (binascii.Error, ValueError, TypeError) as error:
            raise KubeconfigError(f"{path}: {field}-data is not base64") from error
    if name := section.get(field):
        try:
            return (path.parent / str(name)).read_bytes()
        except OSError as error:
            raise KubeconfigError(f"{path}: {field}: {path.parent / name}: {error.strerror}") from error
    return b""
