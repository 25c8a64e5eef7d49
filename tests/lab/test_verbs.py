"""The other verbs on running labs: listings for programs, images from archives, CNI files by hand, published ports."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))

from host import PODWIRE, Lab, lab_in, untouched
from kubectl import eventually
from pods import genuine

from podwire.lab.state import cache_root

pytestmark = pytest.mark.timeout(120)

UDP_PORT = 31996
CONFIG = f"""kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
name: verbs
nodes:
- role: control-plane
  extraPortMappings:
  - {{containerPort: 5300, hostPort: {UDP_PORT}, protocol: UDP}}
- role: worker
"""
BARE = """kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
name: bare
networking: {disableDefaultCNI: true}
"""
NODES = ["verbs-control-plane", "verbs-worker"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab_in(tmp_path_factory.mktemp("verbs")) as one:
        one("up", "--config", "-", stdin=CONFIG)
        yield one


def run_pod(lab: Lab, name: str, image: str, command: list[str], **spec: Any) -> None:
    whole = {
        "containers": [{"name": "c", "image": image, "command": command}],
        "terminationGracePeriodSeconds": 1,
        **spec,
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": whole}
    lab.kubectl("create", "-f", "-", stdin=json.dumps(pod))
    lab.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=30s")


@pytest.mark.parametrize(("form", "decode"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_listings_for_programs(lab: Lab, form: str, decode: Any) -> None:
    server = f"https://127.0.0.1:{lab.port('verbs')}"
    assert decode(lab("list", "-o", form).stdout) == [
        {"name": "verbs", "state": "running", "nodes": 2, "server": server, "directory": str(lab.labs / "verbs")}
    ]
    seen = decode(lab("status", "-o", form).stdout)
    assert (seen["name"], seen["state"], seen["server"], seen["note"]) == ("verbs", "running", server, "")
    assert (seen["pod_subnet"], seen["service_subnet"]) == ("10.244.0.0/16", "10.96.0.0/12")
    assert [node["name"] for node in seen["nodes"]] == NODES
    for node, address in zip(seen["nodes"], ("172.18.0.2", "172.18.0.3"), strict=True):
        assert (node["state"], node["ready"], node["address"]) == ("running", "Ready", address)
        assert node["pod_cidr"].startswith("10.244.") and node["pod_cidr"].endswith("/24")
        assert (node["agent"], node["kubelet"]) == ("running", "running")
        assert node["memory_bytes"] > 10e6
    assert seen["memory_bytes"] >= sum(node["memory_bytes"] for node in seen["nodes"])
    table = decode(lab("inspect", "-o", form).stdout)
    assert [(row["name"], row["state"], row["ipv4_address"]) for row in table] == [
        ("verbs-control-plane", "running", "172.18.0.2"),
        ("verbs-worker", "running", "172.18.0.3"),
    ]


def test_tables_for_people(lab: Lab) -> None:
    assert lab("list").stdout.splitlines()[0].split() == ["NAME", "STATE", "NODES", "SERVER", "DIRECTORY"]
    lines = lab("status").stdout.splitlines()
    assert lines[0].startswith("verbs: running, ")
    assert lines[2].split()[:5] == ["NODE", "ROLE", "READY", "ADDRESS", "POD-CIDR"]
    assert lines[3].split()[:4] == ["verbs-control-plane", "control-plane", "Ready", "172.18.0.2"]


def test_the_printed_kubeconfig_stands_alone(lab: Lab, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.write_text(lab("kubeconfig").stdout)
    names = subprocess.run(
        ["kubectl", "--kubeconfig", alone, "get", "nodes", "-o", "name"], capture_output=True, text=True, check=True
    ).stdout
    assert names.split() == [f"node/{name}" for name in NODES]
    assert yaml.safe_load(alone.read_text())["current-context"] == "podwire-verbs"


def archive(path: Path, reference: str) -> None:
    """What `docker save` would write of an image that holds busybox and nothing else."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(cache_root() / "root/usr/bin/busybox", "bin/busybox")
        link = tarfile.TarInfo("bin/sh")
        link.type, link.linkname = tarfile.SYMTYPE, "busybox"
        tar.addfile(link)
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["MADE=by hand"], "Cmd": ["/bin/busybox", "sleep", "3600"], "WorkingDir": "/bin"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [reference], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as tar:
        for name, content in (
            ("layer.tar", layer.getvalue()),
            ("config.json", json.dumps(config).encode()),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def test_an_image_from_an_archive_runs(lab: Lab, tmp_path: Path) -> None:
    reference = f"registry.example/made/{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:8]}:1"
    file = tmp_path / "image.tar"
    archive(file, reference)
    spec = {"containers": [{"name": "c", "image": reference}], "terminationGracePeriodSeconds": 1}
    pods = [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec} for name in ("early", "late")]
    lab.kubectl("create", "-f", "-", stdin=json.dumps(pods[0]))
    way_out = "ErrImagePull" if genuine() else "podwire lab load"
    eventually(lambda: way_out in lab.kubectl("describe", "pod", "early"), 20)
    assert f"loaded {reference}" in lab("load", str(file)).stdout
    lab.kubectl("create", "-f", "-", stdin=json.dumps(pods[1]))
    lab.kubectl("wait", "--for=condition=Ready", "pod/late", "--timeout=60s")
    said = lab.kubectl("exec", "late", "--", "sh", "-c", "echo $MADE; /bin/busybox pwd")
    assert said.splitlines() == ["by hand", "/bin"]
    assert "stand-in" not in lab.kubectl("describe", "pod", "late")
    lab.kubectl("delete", "pod", "early", "late")
    file.write_bytes(b"no archive")
    assert "image.tar" in lab("load", str(file), code=1).stderr


def test_a_udp_port_of_the_host_leads_to_the_node(lab: Lab) -> None:
    run_pod(
        *(lab, "echo", "nicolaka/netshoot", ["socat", "UDP-LISTEN:5300,fork,reuseaddr", "EXEC:cat"]),
        nodeName="verbs-control-plane",
        hostNetwork=True,
    )
    answers = []
    for number in range(2):  # two callers: the answers must not be mixed up
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller:
            caller.settimeout(1)

            def ask(words: bytes = b"call %d" % number, caller: socket.socket = caller) -> bytes:
                caller.sendto(words, ("127.0.0.1", UDP_PORT))
                try:
                    return caller.recvfrom(2048)[0]
                except OSError:
                    return b""

            answers.append(eventually(ask, 10))
    assert answers == [b"call 0", b"call 1"]


@pytest.mark.embedded_only("a genuine API server has admission policies")
def test_it_does_not_install_itself_upon_itself(lab: Lab) -> None:
    """The lab's API server could not confine the agents: said before anything is done, with the way out."""
    before = lab.kubectl("get", "crds,clusterroles", "-o", "name")
    done = subprocess.run([PODWIRE, "install"], env=lab.env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "podwire lab up --kubernetes --network none" in done.stderr, done.stderr
    assert lab.kubectl("get", "crds,clusterroles", "-o", "name") == before


def ready(lab: Lab, node: str) -> tuple[str, str]:
    found = json.loads(lab.kubectl("get", "node", node, "-o", "json"))["status"]["conditions"]
    condition = next(one for one in found if one["type"] == "Ready")
    return condition["status"], condition["message"]


@pytest.mark.embedded_only("without its network a lab of genuine Kubernetes has no agent of Podwire's")
def test_cni_files_by_hand_make_a_node_ready_and_not_ready(tmp_path: Path) -> None:
    with untouched(tmp_path) as lab:
        assert "waiting for the CNI plugin" in lab("up", "--config", "-", stdin=BARE).stdout
        node = "bare-control-plane"
        status, message = ready(lab, node)
        assert status == "False" and "cni plugin not initialized" in message
        install = (str(PODWIRE), "cni", "install", "--cache", str(cache_root()))
        said = lab("exec", node, "--", *install).stdout.splitlines()
        assert "installed /opt/cni/bin/podwire" in said and said[-1] == "installed /etc/cni/net.d/05-podwire.conflist"
        eventually(lambda: ready(lab, node)[0] == "True", 20)
        assert lab("exec", node, "--", *install).stdout == ""
        run_pod(lab, "one", "busybox", ["sleep", "3600"], nodeName=node)
        assert lab.kubectl("get", "pod", "one", "-o", "jsonpath={.status.podIP}").startswith("10.244.")
        left = lab("exec", node, "--", str(PODWIRE), "cni", "uninstall", code=1)
        assert "1 attachments are left" in left.stdout + left.stderr
        lab.kubectl("delete", "pod", "one")
        lab("exec", node, "--", str(PODWIRE), "cni", "uninstall")
        eventually(lambda: ready(lab, node)[0] == "False", 20)
        assert "cni plugin not initialized" in ready(lab, node)[1]
        assert lab("exec", node, "ls", "/etc/cni/net.d").stdout == ""
        lab("down")
