"""Podwire as a service of the node, for nodes that pull no image: a process with a certificate of its own, as
deploy/podwire-agent.service starts it, beside an installation whose image nobody can pull."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from podwire.install.options import NODE_GROUP, NODE_USER
from podwire.kubelet import agentimage
from podwire.kubelet.debroot import private_root
from podwire.lab import kubeconfig, pki
from podwire.lab.state import LabState, cache_root
from tests.kubernetes import soak
from tests.kubernetes.formernetworks import put
from tests.kubernetes.genuine import until, up
from tests.kubernetes.test_install_cluster import podwire
from tests.lab.host import PODWIRE, Lab, lab_in

NAME = "service"
NODE = f"{NAME}-control-plane"
PLACE = "opt/agent"
"""Where the node has the program: what an administrator would install as a package."""
SETTINGS = f"""\
set_aside = true
cluster_duties = false
shim = "/{PLACE}/{agentimage.SHIM}"
"""


@pytest.fixture(scope="module")
def lab(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One node; Podwire's roles, policy and pool are there, and no agent can start."""
    with lab_in(tmp_path_factory.mktemp("service")) as found:
        up(found, built, "--network", "none", name=NAME, nodes=1)
        podwire(found, "install", "--no-wait", "--set", "image=registry.test/podwire:none")
        place_program(found)
        credentials(found)
        yield found


def place_program(lab: Lab) -> None:
    """The agent with its interpreter, as the image has it, below one folder of the node."""
    cache = cache_root()
    root = Path(f"/proc/{lab.processes(NAME)[f'podwire node {NODE}']}/root")
    with tarfile.open(agentimage.ensure(cache, ("podwire/podwire:service",), private_root(cache))) as image:
        layer = max(image.getmembers(), key=lambda member: member.size)
        content = image.extractfile(layer)
        assert content is not None
        with tarfile.open(fileobj=io.BytesIO(content.read())) as tree:
            tree.extractall(root / PLACE, filter="tar")


def credentials(lab: Lab) -> None:
    """A client certificate in the node's name, 0600, and the settings."""
    known = LabState(NAME, lab.labs).pki
    pki._issue(lab.folder, pki.Wanted("agent", f"{NODE_USER}{NODE}", (NODE_GROUP,)), *pki._authority(known, NAME))
    read = [(known / "ca.crt").read_text(), *((lab.folder / f"agent.{kind}").read_text() for kind in ("crt", "key"))]
    address = lab.kubectl("get", "node", NODE, "-o", "jsonpath={.status.addresses[?(@.type=='InternalIP')].address}")
    document = kubeconfig.document("node", kubeconfig.Credentials(f"https://{address}:6443", *read))
    lab("exec", NODE, "--", "mkdir", "-p", "/etc/podwire")
    put(lab, NODE, "/etc/podwire/kubeconfig", kubeconfig.text(document))
    lab("exec", NODE, "--", "chmod", "600", "/etc/podwire/kubeconfig")
    put(lab, NODE, "/etc/podwire/agent.toml", SETTINGS)


@contextlib.contextmanager
def service(lab: Lab, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The process, by the interpreter and the libraries that came with it."""
    (loader,) = (
        lab(
            "exec", NODE, "--", "sh", "-c", f"ls /{PLACE}/lib*/ld-linux* /{PLACE}/lib/*/ld-linux* 2>/dev/null | head -1"
        )
    ).stdout.split()
    libraries = lab("exec", NODE, "--", "sh", "-c", f"ls -d /{PLACE}/lib/*-linux-gnu").stdout.strip()
    words = [loader, "--library-path", libraries, f"/{PLACE}/{agentimage.HOME}/bin/python3", "-P"]
    environment = [f"PYTHONHOME=/{PLACE}/{agentimage.HOME}", f"PODWIRE_NODE_NAME={NODE}", "PYTHONDONTWRITEBYTECODE=1"]
    line = [
        *lab.wrap,
        PODWIRE,
        "lab",
        "exec",
        NODE,
        "--",
        "env",
        *environment,
        *words,
        f"/{PLACE}/usr/bin/podwire",
        "agent",
    ]
    with log.open("ab") as told, subprocess.Popen(line, env=lab.env, stdout=told, stderr=told) as process:
        try:
            yield process
        finally:
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    if path.read_bytes().startswith(loader.encode() + b"\0"):
                        os.kill(int(path.parent.name), signal.SIGTERM)
            process.wait(30)


def ready(lab: Lab) -> bool:
    return lab.kubectl("get", "nodes", "-o", "jsonpath={..conditions[?(@.type=='Ready')].status}") == "True"


def healthy(lab: Lab) -> bool:
    return lab("exec", NODE, "--", "curl", "-s", "http://127.0.0.1:9098/readyz", code=None).stdout == "ok\n"


@pytest.mark.timeout(600)
def test_pods_run_with_a_service_of_the_node(lab: Lab, tmp_path: Path) -> None:
    """Its rights are those that were installed; what it writes on the API, the policy lets through."""
    log = tmp_path / "agent.log"
    with service(lab, log):
        until(f"the node is Ready: {log}", lambda: ready(lab))
        lab.kubectl("create", "-f", "-", stdin=json.dumps(soak.sleeper("served", NODE)))
        lab.kubectl("wait", "--for=condition=Ready", "pod/served", "--timeout=60s")
        path = "jsonpath={.metadata.annotations.cni\\.projectcalico\\.org/podIP}"
        until("the pod is annotated", lambda: lab.kubectl("get", "pod", "served", "-o", path).startswith("10.244."))
        condition = "jsonpath={..conditions[?(@.type=='NetworkUnavailable')].reason}"
        until("the node is told", lambda: lab.kubectl("get", "node", NODE, "-o", condition) == "PodwireIsUp")
        address = lab.kubectl("get", "pod", "served", "-o", "jsonpath={.status.podIP}")
        lab("exec", NODE, "--", "ping", "-c", "1", "-W", "10", address)
    assert "refused" not in log.read_text() and "forbidden" not in log.read_text(), log.read_text()
    lab("exec", NODE, "--", "ping", "-c", "1", "-W", "10", address)
    assert lab("exec", NODE, "--", "test", "-e", "/etc/cni/net.d/05-podwire.conflist").returncode == 0
    with service(lab, log):
        until("the service is back", lambda: healthy(lab))
        lab.kubectl("delete", "pod", "served", "--timeout=60s")
        assert address not in lab("exec", NODE, "--", "ip", "route").stdout
