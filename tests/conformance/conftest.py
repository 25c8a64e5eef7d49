"""A node with the real agent (its API a fake), and beside it a machine in the same network namespace with runtimes."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from podwire.cni import build
from podwire.kernel import netns
from podwire.kube.fake import FakeApi
from podwire.model.gvr import IPAMHANDLES, IPPOOLS
from tests.conformance.machine import Machine
from tests.netns.agent.conftest import ApiServer, Node, make_node, until
from tests.netns.conftest import programs

__all__ = ["programs"]

CACHE = Path(os.environ.get("PODWIRE_CACHE", "/var/cache/podwire"))
PEERS = (CACHE / "conformance").resolve()  # a machine of its own root would not follow a link out of the cache
POOL = {"cidr": "10.244.0.0/16", "blockSize": 26, "vxlanMode": "Always", "natOutgoing": True, "nodeSelector": "all()"}


@dataclass
class Space:
    """A network namespace of the machine, at /run/netns/NAME in there; gone when nothing is in it and it is removed."""

    name: str
    machine: Machine

    @property
    def path(self) -> str:
        return f"/run/netns/{self.name}"

    def run(self, *program: str) -> str:
        return self.machine.run("ip", "netns", "exec", self.name, *program)

    def remove(self) -> None:
        self.machine.run("ip", "netns", "delete", self.name)

    def socket(self, kind: int = socket.SOCK_STREAM) -> socket.socket:
        descriptor = netns.open_path(str(self.machine.path(self.path)))
        try:
            with netns.inside(descriptor):
                made = socket.socket(socket.AF_INET, kind)
        finally:
            os.close(descriptor)
        made.settimeout(5)
        return made

    def listen(self, port: int, address: str = "0.0.0.0") -> socket.socket:
        listener = self.socket()
        listener.bind((address, port))
        listener.listen()
        return listener


def talk(source: Space, target: Space, port: int, *, address: str, to_port: int = 0) -> str:
    """The source address that `target`, listening on `port`, sees when `source` connects to `address`, `to_port`."""
    with target.listen(port) as listener, source.socket() as client:
        client.connect((address, to_port or port))
        connection, peer = listener.accept()
        connection.close()
        return str(peer[0])


@dataclass
class Site:
    """One node: agent, API, and the machine whose programs call our plugins."""

    node: Node
    api: ApiServer
    machine: Machine
    folder: Path
    names: Iterator[int] = field(default_factory=lambda: iter(range(1, 1_000_000)))

    @property
    def plugins(self) -> Path:
        """Our executables."""
        return self.node.bin_dir

    @property
    def reference(self) -> Path:
        """The current release of the reference plugins, and cnitool."""
        return PEERS / "bin"

    def handles(self) -> set[str]:
        fake: FakeApi = self.api.fake
        return {item["metadata"]["name"] for item in fake.objects(IPAMHANDLES)}

    def space(self) -> Space:
        """A fresh network namespace in the machine."""
        name = f"pod{next(self.names)}"
        self.machine.run("ip", "netns", "add", name)
        return Space(name, self.machine)

    def choose(self, **programs: Path) -> Path:
        """A folder for CNI_PATH with just these plugins; `_` in a name stands for `-`."""
        folder = self.folder / f"bin{next(self.names)}"
        folder.mkdir()
        for name, path in programs.items():
            (folder / name.replace("_", "-")).symlink_to(path)
        return folder

    def until(self, what: str, true: Callable[[], bool]) -> None:
        until(what, true, log=self.node.folder / "agent.log")


@pytest.fixture(scope="session")
def peers() -> Path:
    """The programs that tools/setup fetched."""
    for part in ("bin/cnitool", "bin/cri", "debian/usr/bin/containerd", "debian/usr/bin/podman"):
        assert (PEERS / part).exists(), f"{PEERS / part} is not there: run `tools/setup conformance`"
    return PEERS


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, peers: Path) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    api = ApiServer(folder / "api.sock")
    node = None
    try:
        api.do(api.fake.create(IPPOOLS, {"metadata": {"name": "default-ipv4-ippool"}, "spec": POOL}))
        node = make_node(folder, api, build.build(CACHE), 1)
        _uplink(node)
        node.start()
        until("conflist", node.conflist.exists)
        machine = Machine(node.space.path, peers / "debian", folder, peers.resolve())
        try:
            shutil.copy2(CACHE / "root/usr/bin/busybox", machine.path("/usr/bin/busybox"))
            yield Site(node, api, machine, folder)
        finally:
            machine.close()
    finally:
        if node is not None:
            node.close()
        api.close()


def _uplink(node: Node) -> None:
    """The node's own interface; nothing is behind it."""
    with node.space.links() as links:
        links.set_link(1, up=True)
        index = links.add_bridge("eth0")
        links.set_link(index, up=True)
        links.add_address(index, f"{node.address}/16")


def conflist(site: Site, name: str, plugins: list[dict[str, Any]], version: str = "1.0.0", **more: Any) -> Path:
    """A folder that holds just this network."""
    folder = site.folder / f"net.d-{name}"
    folder.mkdir(exist_ok=True)
    text = json.dumps({"cniVersion": version, "name": name, "plugins": plugins, **more})
    (folder / "10.conflist").write_text(text)
    return folder
