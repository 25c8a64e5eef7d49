"""Nothing is lost while agents, API servers, stores and machines go away. Seconds here; minutes under `make soak`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from podwire.kubelet import agentimage
from podwire.kubelet.debroot import private_root
from podwire.lab.state import cache_root
from tests.kubernetes import probe, soak
from tests.kubernetes.genuine import NAME, NODES, until, up
from tests.kubernetes.soak import Site, held, table
from tests.kubernetes.test_install_cluster import podwire
from tests.lab.host import Lab, lab_in
from tests.lab.kubectl import Kubectl

__all__ = ["table"]

IMAGES = ("docker.io/podwire/podwire:test-a", "docker.io/podwire/podwire:test-b")
Harm = Callable[[Site, float], None]
LONG: dict[str, tuple[Harm, float]] = {
    "agents killed, long": (soak.kills, 600),
    "agents restarted, long": (soak.restarts, 180),
    "API server away, long": (soak.outage, 600),
    "etcd away, long": (soak.store, 120),
    "node rebooted, long": (soak.reboot, 180),
}


@pytest.fixture(scope="module")
def site(real: Lab) -> Iterator[Site]:
    real.kubectl("create", "namespace", "soak")
    until("the namespace's account", lambda: "default" in real.kubectl("-n", "soak", "get", "serviceaccounts"))
    found = Site(real, NAME, NODES, Kubectl(real.env, "soak"))
    found.place(governed=True)
    yield found
    real.kubectl("delete", "namespace", "soak", "--wait=false")


@pytest.mark.timeout(900)
def test_nothing_is_lost(site: Site, table: list[str]) -> None:
    """All that the long series do, once each, in a minute of a quiet machine."""
    result = soak.watched(site, "brief", soak.each_once, 3)
    assert len(result["probes"]) == 4, "in both families, and through a Service"
    table.append(soak.row(result))
    held(result)


def enters(site: Site) -> bool:
    """Whether a connection of `near` comes to where nobody may."""
    ask = f"timeout 2 bash -c 'exec 3<>/dev/tcp/{site.pods[soak.SHUT]}/{probe.PORT}'"
    return not site.kubectl.full("exec", "near", "--", "bash", "-c", ask).returncode


@pytest.mark.timeout(300)
def test_the_probes_see_what_is_lost(site: Site) -> None:
    """A bar of zero is worth something when what counts can count: a filter on a node drops and resets for a moment;
    and a policy has a hole for another one."""
    rules = (
        "add table inet harm; add chain inet harm f { type filter hook forward priority 0; }; "
        "add rule inet harm f udp dport 7007 drop; add rule inet harm f tcp dport 7007 reject with tcp reset"
    )

    def filtered(site: Site, seconds: float) -> None:
        site.lab("exec", site.nodes[1], "--", "nft", rules)
        time.sleep(seconds)
        site.lab("exec", site.nodes[1], "--", "nft", "delete table inet harm")
        site.kubectl.run("patch", "networkpolicy", "closed", "-p", '{"spec": {"ingress": [{}]}}')
        until("the hole is there", lambda: enters(site))
        site.kubectl.run("patch", "networkpolicy", "closed", "-p", '{"spec": {"ingress": null}}')
        until("it is not any more", lambda: not enters(site))

    result = soak.watched(site, "filtered", filtered, 1, patience=2)
    for seen in result["probes"].values():
        assert 0 < seen["lost"] < seen["datagrams"] and seen["reset"] > 0 and seen["connections failed"] > 0, result
    for knocks in result["knocks"].values():
        assert knocks["answered"] > 0, result


@pytest.mark.soak
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("series", LONG)
def test_nothing_is_lost_for_long(series: str, site: Site, table: list[str]) -> None:
    harm, seconds = LONG[series]
    result = soak.watched(site, series, harm, seconds)
    table.append(soak.row(result))
    held(result)


@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_nothing_is_lost_by_another_version(built: Path, tmp_path: Path, table: list[str]) -> None:
    """Podwire as a DaemonSet: its image changed and changed back, under probes, for five minutes."""
    with lab_in(tmp_path) as lab:
        up(lab, built, "--network", "none", name="rolled", nodes=2)
        cache = cache_root()
        lab("load", str(agentimage.ensure(cache, IMAGES, private_root(cache))), seconds=180)
        podwire(lab, "install", "--set", f"image={IMAGES[0]}", "--set", "pull-policy=Never")
        lab.kubectl("create", "namespace", "soak")
        until("the namespace's account", lambda: "default" in lab.kubectl("-n", "soak", "get", "serviceaccounts"))
        site = Site(lab, "rolled", ("rolled-control-plane", "rolled-worker"), Kubectl(lab.env, "soak"))
        site.ready()
        site.place(governed=True)
        result = soak.watched(site, "DaemonSet rolled", partial(soak.rolled, images=IMAGES), 300)
        table.append(soak.row(result))
        held(result)
