"""A lab of genuine Kubernetes for a session's tests."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab.host import PODWIRE, Lab, lab_in
from tests.lab.kubectl import Kubectl

NAME = "real"
NODES = tuple(f"{NAME}-{kind}" for kind in ("control-plane", "worker", "worker2"))
SECONDS = 240.0
"""How long something may take on the busiest machine; a wait ends with what it is for."""
DUAL = """kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
nodes: [{role: control-plane}, {role: worker}, {role: worker}]
networking: {ipFamily: dual}
"""


def up(lab: Lab, built: Path, *words: str, name: str = NAME, nodes: int = 3) -> str:
    """`lab up --kubernetes`; what it printed. `nodes` 0: those that `words` tell of."""
    lab.env["PATH"] = f"{built}:{lab.env['PATH']}"
    number = ("--nodes", str(nodes)) if nodes else ()
    told = lab("up", "--name", name, *number, "--kubernetes", str(built), "--wait", "150", *words, seconds=240)
    return told.stdout + told.stderr


def until(what: str, check: Callable[[], bool]) -> None:
    """Wait until it is so; a failure says what was waited for."""
    end = time.monotonic() + SECONDS
    while not check():
        assert time.monotonic() < end, f"not within {SECONDS:.0f} s: {what}"
        time.sleep(0.1)


def container(kubectl: Kubectl, pod: str) -> str:
    """The id of a pod's container, as its status tells it; empty while the API does not answer."""
    return kubectl.full("get", "pod", pod, "-o", "jsonpath={.status.containerStatuses[0].containerID}").stdout


def lives_anew(kubectl: Kubectl, pod: str, before: str) -> bool:
    """Whether another container than that one runs in the pod, and answers."""
    return container(kubectl, pod) not in ("", before) and not kubectl.full("exec", pod, "--", "true").returncode


def ipam_check(lab: Lab) -> str:
    """What `podwire ipam check` says of the cluster: \"nothing found\" when every address is somebody's."""
    done = subprocess.run(
        [PODWIRE, "ipam", "check"], env=lab.env, capture_output=True, text=True, check=False, timeout=60
    )
    return done.stdout


@pytest.fixture(scope="session")
def real(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Three nodes with Podwire's network in both families, kube-proxy and CoreDNS, all Ready."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "kind.yaml").write_text(DUAL)
    with lab_in(folder) as lab:
        up(lab, built, "--config", str(folder / "kind.yaml"), nodes=0)
        lab.kubectl("-n", "kube-system", "wait", "--for=condition=Available", "deployment/coredns", "--timeout=50s")
        yield lab


@pytest.fixture
def kubectl(real: Lab, request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    """kubectl in a namespace of the test's own."""
    name = request.node.name.replace("_", "-").partition("[")[0][:60].strip("-")
    real.kubectl("create", "namespace", name)
    until(
        "the namespace's account", lambda: "default" in real.kubectl("-n", name, "get", "serviceaccounts", "-o", "name")
    )
    yield Kubectl(real.env, name)
    real.kubectl("delete", "namespace", name, "--wait=false")
