"""`podwire ipam check` and `release` on a running lab: each kind of damage is planted, found, and mended."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from host import PODWIRE, Lab, lab_in
from kubectl import eventually
from pods import genuine

from podwire.model.workload import host_interface

pytestmark = pytest.mark.timeout(180)

NODE, OTHER = "mend-control-plane", "mend-worker"
LIVE, DOOMED = "live", "unwired"
GHOST = "0" * 64


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab_in(tmp_path_factory.mktemp("mend")) as one:
        one("up", "--name", "mend", "--nodes", "2")
        for name in (LIVE, DOOMED):
            run(one, name)
        one.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
        yield one


def run(lab: Lab, name: str) -> None:
    container = {"name": "c", "image": "busybox", "command": ["sleep", "3600"]}
    spec = {"nodeName": OTHER, "containers": [container], "terminationGracePeriodSeconds": 0}
    make(lab, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})


def make(lab: Lab, obj: dict[str, Any], verb: str = "create") -> None:
    lab.kubectl(verb, "-f", "-", stdin=json.dumps(obj))


def podwire(lab: Lab, *words: str, stdin: str = "", code: int = 0) -> str:
    done = subprocess.run(
        [PODWIRE, *words], env=lab.env, input=stdin, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def found(lab: Lab, *words: str) -> dict[str, dict[str, Any]]:
    """The findings by kind; a lab that was left alone has none."""
    done = subprocess.run(
        [PODWIRE, "ipam", "check", "--grace", "0", "--wait", "0.2", "-o", "json", *words],
        env=lab.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout, done.stderr
    findings = json.loads(done.stdout)["findings"]
    assert done.returncode == bool(findings), done.stderr
    return {one["kind"]: one for one in findings}


def address_of(lab: Lab, pod: str) -> str:
    return lab.kubectl("get", "pod", pod, "-o", "jsonpath={.status.podIP}")


def block_of(lab: Lab, node: str) -> dict[str, Any]:
    blocks = json.loads(lab.kubectl("get", "ipamblocks.projectcalico.org", "-o", "json"))["items"]
    return next(block for block in blocks if block["spec"].get("affinity") == f"host:{node}")


def plant_leak(lab: Lab) -> str:
    """An address that a Pod long gone holds, with its handle."""
    block = block_of(lab, OTHER)
    spec, handle = block["spec"], f"k8s-pod-network.{GHOST}"
    ordinal = spec["unallocated"].pop()
    spec["allocations"][ordinal] = len(spec["attributes"])
    secondary = {"namespace": "default", "pod": "ghost", "node": OTHER, "timestamp": "2026-01-01T00:00:00Z"}
    spec["attributes"].append({"handle_id": handle, "secondary": secondary})
    make(lab, block, "replace")
    plant_handle(lab, handle, {spec["cidr"]: 1})
    return str(spec["cidr"].rpartition(".")[0] + f".{int(spec['cidr'].rpartition('.')[2].partition('/')[0]) + ordinal}")


def plant_handle(lab: Lab, name: str, counts: dict[str, int]) -> None:
    head = {"apiVersion": "projectcalico.org/v3", "kind": "IPAMHandle", "metadata": {"name": name.lower()}}
    make(lab, {**head, "spec": {"handleID": name, "block": counts, "deleted": False}})


def plant_affinity(lab: Lab) -> None:
    head = {"apiVersion": "projectcalico.org/v3", "kind": "BlockAffinity"}
    spec = {"cidr": "10.244.77.0/26", "node": OTHER, "state": "confirmed", "type": "host", "deleted": False}
    make(lab, {**head, "metadata": {"name": f"{OTHER}-10-244-77-0-26"}, "spec": spec})


def plant_pod(lab: Lab, name: str, address: str) -> None:
    """A Pod of a node that does not exist, which says that it has that address."""
    spec = {
        "nodeName": "nowhere",
        "containers": [{"name": "c", "image": "busybox"}],
        "terminationGracePeriodSeconds": 0,
    }
    make(lab, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
    status = json.dumps({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}})
    lab.kubectl("patch", "pod", name, "--subresource=status", "--type=merge", "-p", status)


def plant_route(lab: Lab) -> None:
    lab("exec", OTHER, "--", "ip", "link", "add", "calidead", "type", "veth", "peer", "name", "dead")
    lab("exec", OTHER, "--", "ip", "link", "set", "calidead", "up")
    lab("exec", OTHER, "--", "ip", "link", "set", "dead", "up")
    lab("exec", OTHER, "--", "ip", "route", "add", "10.244.99.9/32", "dev", "calidead")


def plant_file(lab: Lab) -> None:
    text = f"mkdir -p /var/lib/cni/networks/old; printf '{GHOST}\\r\\neth0' > /var/lib/cni/networks/old/10.88.0.5"
    lab("exec", OTHER, "--", "sh", "-c", text)


def test_a_sound_lab_has_no_findings(lab: Lab) -> None:
    assert found(lab) == {}
    told = podwire(lab, "ipam", "check")
    assert told.startswith("nothing found in 1 pool, 2 blocks") and told.rstrip().endswith("kernel of 2 nodes")


def test_a_live_address_is_not_released(lab: Lab) -> None:
    address = address_of(lab, LIVE)
    told = podwire(lab, "ipam", "release", "--ip", address, code=1)
    assert f"Pod default/{LIVE} on node {OTHER} has it" in told and "nothing was released" in told
    tunnel = lab.kubectl(
        "get", "node", OTHER, "-o", r"jsonpath={.metadata.annotations.projectcalico\.org/IPv4VXLANTunnelAddr}"
    )
    assert f"tunnel's address of node {OTHER}" in podwire(lab, "ipam", "release", "--ip", tunnel, code=1)
    assert "nobody holds it" in podwire(lab, "ipam", "release", "--ip", "10.244.200.1", code=1)
    assert found(lab) == {}


def test_a_leaked_address_is_released_by_address(lab: Lab) -> None:
    address = plant_leak(lab)
    assert f"{address}, in use" in podwire(lab, "ipam", "show", "--ip", address)
    assert found(lab)["leaked address"]["address"] == address
    assert "which default/ghost held" in podwire(lab, "ipam", "release", "--ip", address)
    assert f"{address}, free" in podwire(lab, "ipam", "show", "--ip", address)
    assert found(lab) == {}


def test_each_damage_is_found_and_mended(lab: Lab) -> None:
    leak = plant_leak(lab)
    plant_handle(lab, "k8s-pod-network.stale", {block_of(lab, OTHER)["spec"]["cidr"]: 3})
    plant_affinity(lab)
    plant_route(lab)
    plant_file(lab)
    plant_pod(lab, "twin", address_of(lab, LIVE))
    plant_pod(lab, "stranger", "192.0.2.7")
    plant_pod(lab, "unrecorded", "10.244.99.1")
    lab("exec", OTHER, "--", "ip", "link", "del", host_interface("default", DOOMED))
    kinds = found(lab)
    assert {kind: (one["address"], one["node"]) for kind, one in kinds.items()} == {
        "leaked address": (leak, OTHER),
        "handle mismatch": ("", ""),
        "affinity orphan": ("", OTHER),
        "kernel without allocation": ("10.244.99.9", OTHER),
        "leaked file": ("10.88.0.5", OTHER),
        "double use": (address_of(lab, LIVE), kinds["double use"]["node"]),
        "outside pools": ("192.0.2.7", "nowhere"),
        "not allocated": ("10.244.99.1", "nowhere"),
        "allocation without kernel": (address_of(lab, DOOMED), OTHER),
    }
    assert all(one["problem"] and one["remedy"] for one in kinds.values())
    assert found(lab, "--node", NODE) == {}

    report = podwire(lab, "ipam", "check", "--grace", "0", "-o", "json", code=1)
    told = podwire(lab, "ipam", "release", "--from-report", "-", stdin=report, code=1)
    assert f"released {leak} of block" in told and "removed interface calidead" in told
    assert sorted(found(lab)) == ["allocation without kernel", "double use", "not allocated", "outside pools"]
    assert told.count("left for you") == 4

    lab.kubectl("delete", "pod", "twin", "stranger", "unrecorded", DOOMED, "--force", "--grace-period=0")
    eventually(lambda: found(lab) == {}, 30)
    again = podwire(lab, "ipam", "release", "--from-report", "-", stdin=report)
    assert "are not found any more" in again and "released" not in again


def test_forced(lab: Lab) -> None:
    """What is released in spite of its Pod is found as such."""
    address = address_of(lab, LIVE)
    told = podwire(lab, "ipam", "release", "--ip", address, "--force")
    assert "(--force given)" in told and f"released {address}" in told
    kinds = found(lab)
    assert kinds["not allocated"]["address"] == kinds["kernel without allocation"]["address"] == address
    lab.kubectl("delete", "pod", LIVE, "--force", "--grace-period=0")
    eventually(lambda: found(lab) == {}, 30)


def test_files_of_this_machine_alone(tmp_path: Path) -> None:
    network = tmp_path / "networks" / "podman"
    network.mkdir(parents=True)
    for address in ("10.89.0.2", "10.89.0.3"):
        network.joinpath(address).write_text(f"{GHOST}\r\neth0")
    directory = str(tmp_path / "networks")
    alone = Lab(tmp_path)
    shown = podwire(alone, "ipam", "show", "--host-local", directory).splitlines()
    assert shown[1].split()[:4] == ["podman", "10.89.0.2", GHOST[:13], "eth0"] and "in no network namespace" in shown[1]
    assert found(alone, "--host-local", directory)["leaked file"]["directory"] == directory
    podwire(alone, "ipam", "release", "--host-local", directory, "--ip", "10.89.0.2")
    assert not network.joinpath("10.89.0.2").exists()
    assert "no file of that name" in podwire(
        alone, "ipam", "release", "--host-local", directory, "--ip", "10.89.0.2", code=1
    )
    report = podwire(alone, "ipam", "check", "--host-local", directory, "--grace", "0", "-o", "json", code=1)
    podwire(alone, "ipam", "release", "--from-report", "-", stdin=report)
    assert found(alone, "--host-local", directory) == {} and not network.joinpath("10.89.0.3").exists()


def test_endpoints_of_nodes(lab: Lab) -> None:
    run(lab, "third")
    lab.kubectl("wait", "--for=condition=Ready", "pod/third", "--timeout=60s")
    rows = json.loads(podwire(lab, "node", "endpoints", "-o", "json"))
    ours = [row for row in rows if not row["pod"].startswith("coredns-")]
    assert [(row["node"], row["pod"], row["state"]) for row in ours] == [(OTHER, "third", "ok")]
    assert podwire(lab, "node", "status").count("ready") == 2
    # inside the pod, as what is amiss on the node the agent mends by itself
    record = '$(grep -l \'"pod":"third"\' /var/lib/podwire/attachments/*.json)'
    space = f"""$(sed -n 's/.*"netns":"\\([^"]*\\)".*/\\1/p' {record})"""
    lab("exec", OTHER, "--", "sh", "-c", f"nsenter --net={space} ip route del default")
    told = podwire(lab, "node", "endpoints", code=1)
    assert "damaged" in told and "default route 0.0.0.0/0 by eth0 is missing" in told
    assert "damaged endpoint" in found(lab)
    if genuine():  # no kind of that name is served there
        return
    wep = lab.kubectl("get", "wep", "-A").splitlines()
    api = podwire(lab, "node", "endpoints", "--all").splitlines()
    assert wep[0].split() == ["NAMESPACE", "WORKLOAD", "NODE", "NETWORKS", "INTERFACE"]
    assert wep[1].split() == api[1].split()[:5]
