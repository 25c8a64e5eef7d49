"""Where the API is and how to prove who we are, for a process in a pod: its service account.

The token is bound to the pod and rotated (hourly by default): `token_file` is read for every call, so what is sent is
never older than what kubelet has put there. The authority's certificate may change, too (`rotation`). Source: client-go
rest.InClusterConfig (paths and environment).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from podwire.kube.kubeconfig import Cluster, KubeconfigError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def cluster(
    api_server: str = "", folder: Path = SERVICE_ACCOUNT, environment: Mapping[str, str] | None = None
) -> Cluster:
    """The identity that a pod is given. `api_server` (https://HOST:PORT) takes the place of the kubernetes Service,
    which nobody answers for on a node without kube-proxy. Raises KubeconfigError outside a pod."""
    environment = os.environ if environment is None else environment
    try:
        ca = (folder / "ca.crt").read_bytes()
        namespace = (folder / "namespace").read_text().strip()
        (folder / "token").read_bytes()
    except OSError as error:
        raise KubeconfigError(
            f"{error.filename}: {error.strerror}: not running in a pod with a service account"
        ) from None
    server = api_server.rstrip("/") or _service(environment)
    token, authority = str(folder / "token"), str(folder / "ca.crt")
    return Cluster(server, ca=ca, token_file=token, namespace=namespace, files=(authority,))


def _service(environment: Mapping[str, str]) -> str:
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise KubeconfigError("KUBERNETES_SERVICE_HOST is not set: not running in a pod, and api_server is not set")
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
