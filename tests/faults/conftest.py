"""One node with a real agent, and everything that its pods leave traces in."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from podwire.cni import build
from podwire.kernel import netns
from podwire.kernel.nft import program
from podwire.lab import syscalls
from podwire.model.gvr import IPAMBLOCKS, IPPOOLS
from tests.netns.agent.conftest import ApiServer, Node, make_node, until
from tests.netns.conftest import programs

__all__ = ["programs"]

CACHE = Path(os.environ.get("PODWIRE_CACHE", "/var/cache/podwire"))
POOL = {"cidr": "10.244.0.0/16", "blockSize": 26, "vxlanMode": "Always", "natOutgoing": True, "nodeSelector": "all()"}


class Space:
    """A network namespace held by a descriptor of ours."""

    def __init__(self) -> None:
        self.fd = -1
        thread = threading.Thread(target=self._make)
        thread.start()
        thread.join()
        self.path = f"/proc/{os.getpid()}/fd/{self.fd}"

    def _make(self) -> None:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        self.fd = netns.open_own()

    def run(self, *command: str) -> str:
        done = subprocess.run(["nsenter", f"--net={self.path}", *command], capture_output=True, text=True, check=True)
        return done.stdout

    def socket(self) -> socket.socket:
        with netns.inside(self.fd):
            made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        made.settimeout(3)
        return made

    def close(self) -> None:
        os.close(self.fd)


@dataclass
class Site:
    """The node, its API, and calls of its plugin."""

    node: Node
    api: ApiServer
    spaces: list[Space] = field(default_factory=list)

    def space(self) -> Space:
        self.spaces.append(Space())
        return self.spaces[-1]

    def call(
        self,
        command: str,
        container: str,
        path: str,
        *,
        role: str = "podwire",
        env: dict[str, str] | None = None,
        **config: Any,
    ) -> tuple[int, dict[str, Any]]:
        """Exit code and answer ({} for none) of one call."""
        settings = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_IFNAME": "eth0",
            "CNI_NETNS": path,
            "CNI_PATH": str(self.node.bin_dir),
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=p-{container[:40]}",
            **(env or {}),
        }
        network = {"cniVersion": "1.1.0", "name": "k8s-pod-network", "type": role, **config}
        code, output = self.run(settings, json.dumps(network).encode(), role)
        return code, json.loads(output) if output.strip() else {}

    def run(self, env: dict[str, str], stdin: bytes, role: str = "podwire") -> tuple[int, str]:
        """The executable with just this environment and input."""
        program = self.node.bin_dir / role
        done = subprocess.run([program], env=env, input=stdin, capture_output=True, timeout=90, check=False)
        return done.returncode, done.stdout.decode(errors="replace")

    def add(self, container: str, space: Space, **config: Any) -> dict[str, Any]:
        code, answer = self.call("ADD", container, space.path, **config)
        assert code == 0, answer
        return answer

    def delete(self, container: str, space: Space | None, **config: Any) -> None:
        assert self.call("DEL", container, space.path if space else "", **config) == (0, {})

    def held(self) -> dict[str, list[str]]:
        """Addresses of pods on the API: pod → addresses, as the blocks' attributes say."""
        found: dict[str, list[str]] = {}
        for block in self.api.fake.objects(IPAMBLOCKS):
            spec = block["spec"]
            base, _, _ = spec["cidr"].partition("/")
            first = struct.unpack("!I", socket.inet_aton(base))[0]
            for ordinal, index in enumerate(spec["allocations"]):
                if index is not None:
                    pod = (spec["attributes"][index].get("secondary") or {}).get("pod")
                    if pod:
                        found.setdefault(pod, []).append(socket.inet_ntoa(struct.pack("!I", first + ordinal)))
        return found

    def settle(self) -> None:
        """Wait until pods' addresses are noted under the pods' own names."""
        until("addresses noted", lambda: len(self.held()) == len(self.traces()["links"]))

    def traces(self) -> dict[str, list[str]]:
        """What pods leave on the node, and the names that the API has addresses for: empty where no pod is."""
        node = self.node
        rules = node.space.run(program(), "list", "ruleset")
        links = [line.split()[1] for line in node.space.run("ip", "-o", "link").splitlines()]
        state = node.folder / "state"
        return {
            "links": [name for name in links if name.startswith(("cali", "pw", "ifb", "bwp"))],
            "routes": [line for line in node.space.run("ip", "route").splitlines() if " dev cali" in line],
            "neighbours": [line for line in node.space.run("ip", "neigh").splitlines() if " dev cali" in line],
            "elements": sorted(set(re.findall(r'"(cali[^"*]+)"', rules))),
            "records": sorted(path.name for path in (state / "attachments").iterdir()),
            "spooled": sorted(path.name for path in (state / "cni-spool").glob("*")),
            "addresses": sorted(self.held()),
        }

    def clean(self) -> None:
        """Wait until no trace of a pod is left."""
        until("traces gone", lambda: not any(self.traces().values()) or not print(self.traces()), seconds=20)

    def answers(self, space: Space, answer: dict[str, Any]) -> None:
        """The node reaches the pod at its address."""
        address = answer["ips"][0]["address"].partition("/")[0]
        with space.socket() as listener, self.node.space.socket() as client:
            listener.bind((address, 8080))
            listener.listen()
            client.connect((address, 8080))

    def refuses(self, container: str, space: Space, **config: Any) -> dict[str, Any]:
        """The error of an ADD."""
        code, answer = self.call("ADD", container, space.path, **config)
        assert code == 1, answer
        return answer


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    yield from _site(tmp_path, POOL)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One for a whole page of calls that leave nothing behind."""
    yield from _site(tmp_path_factory.mktemp("site"), POOL)


def _site(folder: Path, pool: dict[str, Any]) -> Iterator[Site]:
    assert shutil.which("nsenter"), "nsenter (util-linux) is needed"
    api = ApiServer(folder / "api.sock")
    made: Site | None = None
    try:
        api.do(api.fake.create(IPPOOLS, {"metadata": {"name": "default-ipv4-ippool"}, "spec": pool}))
        made = Site(make_node(folder, api, build.build(CACHE), 1), api)
        with made.node.space.links() as links:
            links.set_link(1, up=True)
            index = links.add_bridge("eth0")
            links.set_link(index, up=True)
            links.add_address(index, f"{made.node.address}/16")
        made.node.start()
        until("conflist", made.node.conflist.exists)
        yield made
    finally:
        if made is not None:
            made.node.close()
            for space in made.spaces:
                space.close()
        api.close()


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Site]:
    """A node whose pool has eight addresses, of which the tunnel takes one."""
    yield from _site(tmp_path, POOL | {"cidr": "10.244.0.0/29", "blockSize": 29})
