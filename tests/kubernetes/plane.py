"""A bare control plane, genuine: etcd and kube-apiserver on loopback, and ways to speak to it as anybody."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from podwire.kube.client import Client
from podwire.kube.kubeconfig import Cluster
from podwire.lab import kubeconfig, pki

READY_SECONDS = 120.0


@dataclass(frozen=True)
class Plane:
    """A running control plane. `admin` may do everything; certificates of others are issued by `cluster`."""

    server: str
    folder: Path
    admin: Cluster

    def cluster(self, user: str, *groups: str) -> Cluster:
        """The credentials of a user with a client certificate."""
        stem = user.replace(":", "-")
        if not (self.folder / f"{stem}.crt").exists():
            pki._issue(self.folder, pki.Wanted(stem, user, groups), *pki._authority(self.folder, "bare"))
        read = (self.folder / f"{stem}.crt").read_bytes(), (self.folder / f"{stem}.key").read_bytes()
        return replace(self.admin, cert=read[0], key=read[1])

    def with_token(self, token: str) -> Cluster:
        return replace(self.admin, cert=b"", key=b"", token=token)

    def client(self, cluster: Cluster | None = None) -> Client:
        return Client(cluster or self.admin, user_agent="test")

    def kubectl(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        kubectl = shutil.which("kubectl")
        assert kubectl is not None
        environment = {**os.environ, "KUBECONFIG": str(self.folder / "kubeconfig"), "HOME": str(self.folder)}
        return subprocess.run(
            [kubectl, *arguments], input=text, env=environment, capture_output=True, text=True, check=False
        )


def programs() -> Path:
    """The folder of etcd and kube-apiserver; built now where they are not."""
    build = [Path(__file__).parent / "build", "etcd", "kube-apiserver"]
    return Path(subprocess.run(build, stdout=subprocess.PIPE, text=True, check=True).stdout.strip())


@contextmanager
def running(place: Path, folder: Path) -> Iterator[Plane]:
    """A control plane that ends with the block; what it says goes to files in `folder`."""
    client_port, peer_port, api_port = _free(3)
    server = f"https://127.0.0.1:{api_port}"
    _certificates(folder)
    with ExitStack() as stack:
        urls = [f"http://127.0.0.1:{port}" for port in (client_port, peer_port)]
        _start(
            stack, folder, place / "etcd", f"--data-dir={folder / 'etcd'}", f"--listen-client-urls={urls[0]}",
            f"--advertise-client-urls={urls[0]}", f"--listen-peer-urls={urls[1]}", "--unsafe-no-fsync",
            f"--initial-advertise-peer-urls={urls[1]}", f"--initial-cluster=default={urls[1]}",
        )  # fmt: skip
        _start(
            stack, folder, place / "kube-apiserver", f"--etcd-servers={urls[0]}", f"--secure-port={api_port}",
            "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none",
            f"--tls-cert-file={folder / 'apiserver.crt'}", f"--tls-private-key-file={folder / 'apiserver.key'}",
            f"--client-ca-file={folder / 'ca.crt'}", f"--service-account-key-file={folder / 'sa.pub'}",
            f"--service-account-signing-key-file={folder / 'sa.key'}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--service-cluster-ip-range=10.96.0.0/12", "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
        )  # fmt: skip
        plane = Plane(server, folder, _admin(folder, server))
        _await(plane)
        yield plane


def _certificates(folder: Path) -> None:
    authority = pki._authority(folder, "bare")
    serving = pki.Wanted("apiserver", "kube-apiserver", names=pki.API_NAMES, addresses=("127.0.0.1",), serving=True)
    pki._issue(folder, serving, *authority)
    pki._issue(folder, pki.Wanted("admin", "admin", ("system:masters",)), *authority)
    key = ec.generate_private_key(ec.SECP256R1())
    (folder / "sa.key").write_bytes(pki._key_pem(key))
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "sa.pub").write_bytes(public)


def _admin(folder: Path, server: str) -> Cluster:
    ca, cert, key = (folder / "ca.crt", folder / "admin.crt", folder / "admin.key")
    known = kubeconfig.Credentials(server, ca.read_text(), cert.read_text(), key.read_text())
    (folder / "kubeconfig").write_text(kubeconfig.text(kubeconfig.document("bare", known)))
    return Cluster(server, ca=ca.read_bytes(), cert=cert.read_bytes(), key=key.read_bytes())


def _start(stack: ExitStack, folder: Path, program: Path, *arguments: str) -> None:
    log = stack.enter_context((folder / f"{program.name}.log").open("wb"))
    process = subprocess.Popen([program, *arguments], stdout=log, stderr=log, start_new_session=True)
    stack.callback(_stop, process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:  # its clients' connections are drained for long; nothing here is worth it
        process.kill()
        process.wait()


def _free(number: int) -> list[int]:
    with ExitStack() as stack:
        opened = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in opened:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in opened]


def _await(plane: Plane) -> None:
    end = time.monotonic() + READY_SECONDS
    while (found := plane.kubectl("get", "--raw", "/readyz")).stdout != "ok":
        if time.monotonic() > end:
            log = (plane.folder / "kube-apiserver.log").read_text()[-2000:]
            sys.exit(f"the API server is not ready: {found.stderr}\n{log}")
        time.sleep(0.2)
