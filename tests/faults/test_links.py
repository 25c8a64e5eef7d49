"""Symbolic links where the node keeps its state: never followed, said where a human has to look, and got over."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import Site
from tests.netns.agent.conftest import until

SECRET = "not to be touched"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    made = tmp_path / "victim"
    made.write_text(SECRET)
    return made


def _to(victim: Path) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(victim)


PLANTED = [_to, lambda _: os.mkfifo]


@pytest.mark.parametrize("planted", PLANTED, ids=["link", "fifo"])
def test_among_the_records(site: Site, victim: Path, planted: Callable[[Path], Callable[[Path], None]]) -> None:
    """What is no file of ours is set aside when the agent starts, and a record's place is taken back by an ADD."""
    records = site.node.folder / "state" / "attachments"
    kept = site.space()
    site.add("kept", kept)
    site.node.stop()
    planted(victim)(records / "odd:eth0.json")
    planted(victim)(records / "one:eth0.new")
    site.node.start()
    assert (records / "odd:eth0.broken").is_symlink() or (records / "odd:eth0.broken").is_fifo()
    (records / "odd:eth0.broken").unlink()
    space = site.space()
    code, _ = site.call("ADD", "one", space.path)
    answer = site.add("one", space)  # at once, or as the runtime asks again
    assert code in (0, 1)
    site.answers(space, answer)
    assert (records / "one:eth0.json").is_file() and not (records / "one:eth0.json").is_symlink()
    site.delete("one", space)
    site.delete("kept", kept)
    site.clean()
    assert victim.read_text() == SECRET


@pytest.mark.parametrize("planted", PLANTED, ids=["link", "fifo"])
def test_in_the_spool(site: Site, victim: Path, planted: Callable[[Path], Callable[[Path], None]]) -> None:
    """What lies in a kept DEL's place is replaced by the executable, and never done by the agent."""
    spool = site.node.folder / "state" / "cni-spool"
    space = site.space()
    answer = site.add("going", space)
    site.node.stop()
    planted(victim)(spool / "podwire,going,eth0")
    planted(victim)(spool / "podwire,odd,eth0")
    site.delete("going", space, prevResult=answer)
    assert (spool / "podwire,going,eth0").is_file() and not (spool / "podwire,going,eth0").is_symlink()
    site.node.start()
    aside = spool / ".broken.podwire,odd,eth0"
    until("the DEL is done, the other set aside", lambda: site.traces()["links"] == [] and os.path.lexists(aside))
    aside.unlink()
    site.clean()
    assert victim.read_text() == SECRET


@pytest.mark.parametrize("name", ["lock", "last_reserved_ip.0", "10.9.0.2", ""])
def test_in_host_locals_directory(shared: Site, tmp_path: Path, victim: Path, name: str) -> None:
    """A link for the network's directory or in it gives nobody a file elsewhere: refused, or passed over."""
    data = tmp_path / "networks"
    network = data / "k8s-pod-network"
    if name:
        network.mkdir(parents=True)
        (network / name).symlink_to(victim)
    else:
        data.mkdir()
        network.symlink_to(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    ipam: dict[str, Any] = {"type": "host-local", "dataDir": str(data), "ranges": [[{"subnet": "10.9.0.0/29"}]]}
    link = shared.node.bin_dir / "host-local"
    if not link.exists():
        link.symlink_to("podwire")
    code, answer = shared.call("ADD", "one", shared.space().path, role="host-local", ipam=ipam)
    if name == "10.9.0.2":  # not an address that can be had; the next is
        assert code == 0 and answer["ips"][0]["address"] == "10.9.0.3/29", answer
    else:
        assert code == 1 and answer["code"] and "link" in answer["msg"] + answer.get("details", ""), answer
    assert victim.read_text() == SECRET
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    if name:
        (network / name).unlink()
        given = shared.call("ADD", "one", shared.space().path, role="host-local", ipam=ipam)
        assert given[0] == 0, given
