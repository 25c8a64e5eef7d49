"""Podwire on a genuine cluster as a user puts it there: from its image, over a former network, upgraded, off again."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from podwire.kubelet import agentimage
from podwire.kubelet.debroot import private_root
from podwire.lab.state import cache_root
from tests.kubernetes import formernetworks, soak
from tests.kubernetes.genuine import until, up
from tests.kubernetes.soak import Site, held, table
from tests.kubernetes.versions import Version, earlier
from tests.lab.host import PODWIRE, Lab, lab_in
from tests.lab.kubectl import Kubectl

__all__ = ["table"]

pytestmark = pytest.mark.timeout(600)  # the first test's includes a cluster's start, on a machine that others use, too

NAME = "installed"
NODES = (f"{NAME}-control-plane", f"{NAME}-worker")
THIS, EARLIER = "docker.io/podwire/podwire:this", "docker.io/podwire/podwire:earlier"


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """Another version, whose tables, records and shim differ."""
    return earlier(tmp_path_factory.mktemp("former"))


@pytest.fixture(scope="module")
def lab(built: Path, former: Version, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two nodes that ran other networks, flannel and kindnet, each with a pod; and Podwire in their place."""
    with lab_in(tmp_path_factory.mktemp("installed")) as found:
        up(found, built, "--network", "none", name=NAME, nodes=2)
        cache = cache_root()
        for archive in (agentimage.ensure(cache, (THIS,), private_root(cache)), former.image(EARLIER)):
            found("load", str(archive), seconds=120)
        for node, kind in zip(NODES, ("flannel", "kindnet"), strict=True):
            formernetworks.leave(found, node, kind)
        addresses = found.kubectl(
            "get", "nodes", "-o", "jsonpath={.items[*].status.addresses[?(@.type=='InternalIP')].address}"
        ).split()  # in the order of names, as the nodes are here
        for node, subnet, via in zip(NODES, ("10.42.1.0/24", "10.42.0.0/24"), reversed(addresses), strict=True):
            found("exec", node, "--", "ip", "route", "add", subnet, "via", via)
        apply(found, *formernetworks.flannel_and_kindnet())
        until("every node is Ready", lambda: ready(found))
        apply(
            found, *(soak.sleeper(name, node) for name, node in zip(("was-flannel", "was-kindnet"), NODES, strict=True))
        )
        found.kubectl("wait", "--for=condition=Ready", "pod/was-flannel", "pod/was-kindnet", "--timeout=60s")
        refused = podwire(found, "install", "--set", f"image={THIS}", code=1)
        assert "flannel is installed (DaemonSet kube-flannel/kube-flannel-ds)" in refused
        found.kubectl("-n", "kube-flannel", "delete", "daemonset", "kube-flannel-ds")
        refused = podwire(found, "install", "--set", f"image={THIS}", code=1)
        assert "kindnet is installed (DaemonSet kube-system/kindnet)" in refused
        found.kubectl("-n", "kube-system", "delete", "daemonset", "kindnet")
        podwire(found, "install", "--set", f"image={THIS}", "--set", "pull-policy=Never")
        yield found


@pytest.fixture(scope="module")
def site(lab: Lab) -> Site:
    """Pods that probe each other, and stay."""
    lab.kubectl("create", "namespace", "soak")
    until("the namespace's account", lambda: "default" in lab.kubectl("-n", "soak", "get", "serviceaccounts"))
    found = Site(lab, NAME, NODES, Kubectl(lab.env, "soak"))
    found.place()
    return found


def podwire(lab: Lab, *words: str, code: int = 0) -> str:
    """`podwire WORDS` for the lab's cluster; what it said."""
    done = subprocess.run([PODWIRE, *words], env=lab.env, capture_output=True, text=True, timeout=320, check=False)
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def apply(lab: Lab, *objects: dict[str, object]) -> None:
    lab.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))


def delete(lab: Lab, *objects: dict[str, object]) -> None:
    written = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    lab.kubectl("delete", "-f", "-", "--timeout=60s", stdin=written)


def configurations(lab: Lab, node: str) -> list[str]:
    return lab("exec", node, "--", "ls", "/etc/cni/net.d").stdout.split()


def ready(lab: Lab) -> bool:
    found = lab.kubectl("get", "nodes", "-o", "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}")
    return found.split() == ["True"] * len(NODES)


def test_the_former_networks_made_way(lab: Lab) -> None:
    """Their pods keep their network beside ours, and end without a trace."""
    for node, name in zip(NODES, ("10-flannel", "10-kindnet"), strict=True):
        until("ours is in place", lambda node=node: "05-podwire.conflist" in configurations(lab, node))
        assert f"{name}.conflist.before-podwire" in configurations(lab, node)
    assert events(lab, "OtherNetworkSetAside") == len(NODES)
    until("every node is Ready", lambda: ready(lab))
    for number, (node, name) in enumerate(zip(NODES, ("was-flannel", "was-kindnet"), strict=True)):
        address = lab.kubectl("get", "pod", name, "-o", "jsonpath={.status.podIP}")
        assert address.startswith(f"10.42.{number}.")
        lab("exec", node, "--", "ping", "-c", "1", "-W", "10", address)
        lab.kubectl("delete", "pod", name, "--timeout=60s")
        assert f"{address} " not in lab("exec", node, "--", "ip", "route", "show", "table", "all").stdout
        lab("exec", node, "--", "sh", "-c", "rm -rf /var/lib/cni/networks/* /run/cni-ipam-state")  # leases nobody ends
    for label in ("k8s-app=kube-dns", "app.kubernetes.io/component=controller"):  # these began on the former ones, too
        lab.kubectl("-n", "kube-system", "delete", "pods", "-l", label, "--timeout=60s")


def upgrade(site: Site) -> None:
    """To this version; a new pod works."""
    said = podwire(site.lab, "install", "--set", f"image={THIS}", "--set", "pull-policy=Never")
    assert "Podwire runs on 2 nodes" in said
    _new_pod(site)


def downgrade(site: Site, former: Version) -> None:
    """To the other version, by its own command. It knows no policy: what the kernel has of it would shut pods off."""
    podwire(site.lab, "install", "--set", f"image={THIS}", "--set", "pull-policy=Never", "--set", "policy-enforce=off")
    for node in site.nodes:
        assert "podwire_policy" not in site.lab("exec", node, "--", "nft", "list", "tables").stdout
    former.podwire(site.lab.env, "install", "--set", f"image={EARLIER}", "--set", "pull-policy=Never")
    _new_pod(site)


def _new_pod(site: Site) -> None:
    """A pod that starts now reaches one on another node that started before, and is reached."""
    name = f"fresh-{time.monotonic_ns()}"
    site.kubectl.run("create", "-f", "-", stdin=json.dumps(soak.sleeper(name, site.nodes[1])))
    site.kubectl.run("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=100s", seconds=110)
    site.kubectl.run("exec", name, "--", "ping", "-c", "1", "-W", "10", site.pods["far"])
    site.kubectl.run("delete", "pod", name, "--wait=false")


def test_pods_reach_each_other_and_another_version_loses_no_packet(
    lab: Lab, site: Site, former: Version, table: list[str]
) -> None:
    """Down to a version with other tables, records and shim, and up again; `make soak` has the long form."""
    lab.kubectl(
        "-n", "kube-system", "wait", "--for=condition=Available", "deployment/podwire-controller", "--timeout=60s"
    )
    harm = partial(soak.versions, installs=(partial(downgrade, site, former), partial(upgrade, site)))
    result = soak.watched(site, f"down to {former.told} and up again", harm, 1)
    table.append(soak.row(result))
    held(result)


def test_calico_on_top_gets_a_clear_answer(lab: Lab) -> None:
    """Its manifest is applied beside us: pods go on with us, the nodes say what is wrong, and nobody undoes anybody's
    work. Our addresses stay where they are, though its older kinds are there now. When it goes, all is well again."""
    apply(lab, *formernetworks.calico())
    asks = ("exec", NODES[1], "--", "curl", "-s")
    until("the agent is unready", lambda: "10-calico.conflist" in lab(*asks, "http://127.0.0.1:9098/readyz").stdout)
    said = lab(*asks, "http://127.0.0.1:9098/readyz").stdout
    assert "(calico, portmap, bandwidth)" in said and "the names of Podwire's own" in said, said
    assert "podwire_other_configurations 1\n" in lab(*asks, "http://127.0.0.1:9098/metrics").stdout
    until("every node tells", lambda: events(lab, "OtherNetwork") == len(NODES))
    assert ready(lab), "the nodes stay Ready: nobody's pods are driven away"
    assert "Calico is installed (DaemonSet kube-system/calico-node)" in podwire(lab, "install", code=1)
    lab("exec", NODES[1], "--", "ip", "link", "set", "vxlan.calico", "mtu", "1400")  # as its agent might
    apply(lab, soak.sleeper("beside", NODES[1]))
    lab.kubectl("wait", "--for=condition=Ready", "pod/beside", "--timeout=60s")
    assert lab.kubectl("get", "pod", "beside", "-o", "jsonpath={.status.podIP}").startswith("10.244.")
    assert "mtu 1400" in lab("exec", NODES[1], "--", "ip", "link", "show", "vxlan.calico").stdout
    delete(lab, *formernetworks.calico())
    for node in NODES:
        lab("exec", node, "--", "rm", "/etc/cni/net.d/10-calico.conflist")
    until("the agent is ready again", lambda: lab(*asks, "http://127.0.0.1:9098/readyz").stdout == "ok\n")
    shown = ("exec", NODES[1], "--", "ip", "link", "show", "vxlan.calico")
    until("the tunnel is mended", lambda: "mtu 1400" not in lab(*shown).stdout)
    lab.kubectl("delete", "pod", "beside", "--timeout=60s")


def events(lab: Lab, reason: str) -> int:
    return lab.kubectl("get", "events", "-n", "default", "-o", "jsonpath={.items[*].reason}").split().count(reason)


def test_uninstall_puts_the_former_networks_back(lab: Lab, site: Site) -> None:
    """Afterwards the running pods still reach each other."""
    address = site.pods["here"]
    podwire(lab, "uninstall")
    for node, name in zip(NODES, ("10-flannel", "10-kindnet"), strict=True):
        assert configurations(lab, node) == [f"{name}.conflist"]
        assert "podwire" not in lab("exec", node, "--", "ls", "/opt/cni/bin").stdout.split()
    left = lab.kubectl("get", "clusterroles,clusterrolebindings,validatingadmissionpolicies", "-o", "name")
    assert "podwire" not in left
    assert lab.kubectl("get", "ippools", "-o", "name").strip() == "ippool.projectcalico.org/default-ipv4-ippool"
    lab.kubectl("-n", "soak", "exec", "far", "--", "ping", "-c", "3", "-W", "10", address)
    for number, node in enumerate(NODES):
        apply(lab, soak.sleeper(f"again-{number}", node))
        lab.kubectl("wait", "--for=condition=Ready", f"pod/again-{number}", "--timeout=60s")
        address = lab.kubectl("get", "pod", f"again-{number}", "-o", "jsonpath={.status.podIP}")
        assert address.startswith(f"10.42.{number}."), "the former network gives addresses again"
