"""Other networks' configurations: told once, by Event and readiness, and no longer when they are gone."""

from __future__ import annotations

from pathlib import Path

from podwire.agent.claimer import Claimer
from podwire.agent.health import Health
from podwire.agent.othernetworks import PART, OtherNetworks
from podwire.agent.readiness import Readiness
from podwire.agent.turns import Turns
from podwire.cni import install, listing
from podwire.cni.install import Places
from podwire.cni.listing import Entry
from podwire.kube.fake import FakeApi
from podwire.model.gvr import EVENTS

CALICO = '{"name": "k8s-pod-network", "cniVersion": "0.3.1", "plugins": [{"type": "calico"}, {"type": "portmap"}]}'


def others(tmp_path: Path) -> tuple[OtherNetworks, Places, Health, FakeApi]:
    places = Places(tmp_path / "net.d", tmp_path / "bin", tmp_path / "cni.sock", tmp_path / "spool")
    places.conf_dir.mkdir()
    places.listing.write_text(listing.conflist(Entry(1450)))
    api, health = FakeApi(), Health()
    return OtherNetworks(api, "n1", places, health), places, health, api


def told(api: FakeApi) -> list[str]:
    found = api.objects(EVENTS)
    assert all(event["source"]["host"] == "n1" and event["involvedObject"]["name"] == "n1" for event in found)
    return [event["reason"] for event in found]


async def test_what_a_former_network_left_is_renamed_and_told(tmp_path: Path) -> None:
    page, places, health, api = others(tmp_path)
    (places.conf_dir / "10-calico.conflist").write_text(CALICO)
    await page.make_way()
    await page.look()
    assert not (places.conf_dir / "10-calico.conflist").exists()
    assert told(api) == ["OtherNetworkSetAside"] and PART not in health.reasons


async def test_what_appears_later_makes_the_agent_unready_until_it_is_gone(tmp_path: Path) -> None:
    page, places, health, api = others(tmp_path)
    await page.make_way()
    (places.conf_dir / "10-calico.conflist").write_text(CALICO)
    await page.look()
    await page.look()
    assert told(api) == ["OtherNetwork"]
    assert "10-calico.conflist (calico, portmap)" in health.reasons[PART]
    assert (places.conf_dir / "10-calico.conflist").exists(), "whose it is, a human knows"
    (places.conf_dir / "10-calico.conflist").unlink()
    await page.look()
    assert PART not in health.reasons


async def test_what_cannot_be_renamed_is_told(tmp_path: Path) -> None:
    page, places, health, _ = others(tmp_path)
    (places.conf_dir / "10-calico.conflist").write_text(CALICO)
    (places.conf_dir / "10-calico.conflist.before-podwire").mkdir()
    await page.make_way()
    await page.look()
    assert PART in health.reasons


async def test_a_node_beside_another_network_still_serves(tmp_path: Path) -> None:
    """The agent is unready for people; STATUS, by which a node turns NotReady, says that pods can be started."""
    claimer = Claimer(Turns())
    network, places, health, _ = others(tmp_path)
    (places.conf_dir / "10-calico.conflist").write_text('{"plugins": [{"type": "calico"}]}')
    await network.look()
    assert not health.ready and network.yields and [row[2] for row in network.figures()] == [1]
    health.good("start")
    Readiness(health, claimer, list, blocks=True).check()
    (places.conf_dir / "10-calico.conflist").unlink()
    await network.look()
    assert health.ready and not network.yields


async def test_an_agent_that_starts_anew_leaves_what_came_meanwhile(tmp_path: Path) -> None:
    """Ours was there first: another network's agents run. What is older than ours was left by a former network."""
    page, places, health, api = others(tmp_path)
    (places.conf_dir / "10-calico.conflist").write_text(CALICO)
    since = install.listed_at(places)
    assert since is not None
    await page.make_way(since - 1)
    await page.look()
    assert told(api) == ["OtherNetwork"] and PART in health.reasons
    await page.make_way(since + 3600)
    assert not (places.conf_dir / "10-calico.conflist").exists()
    places.listing.unlink()
    assert install.listed_at(places) is None
