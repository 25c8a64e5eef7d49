"""CRI-O's CNI library: every verb, as CRI-O calls it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.conftest import CACHE, Site, Space, talk

BUILD = Path(__file__).parent / "build"


@dataclass
class Library:
    """The library on the network that the agent installed."""

    site: Site
    program: str

    def ask(self, verb: str, *pods: str) -> tuple[int, str]:
        """Exit code and words. A pod is `name/space` and then its settings, see ocicni/main.go."""
        folders = (str(self.site.node.conflist.parent), "/var/lib/cni", str(self.site.plugins))
        done = self.site.machine.try_run(self.program, verb, *folders, *pods)
        return done.returncode, done.stdout if done.returncode == 0 else done.stderr

    def must(self, verb: str, *pods: str) -> str:
        """What it printed, without the library's log."""
        code, output = self.ask(verb, *pods)
        assert code == 0, f"ocicni {verb}: {output}"
        return output

    def add(self, *pod: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.must("add", *pod))
        return answer


@pytest.fixture(scope="module")
def library(site: Site) -> Library:
    done = subprocess.run([BUILD, "ocicni"], stdout=subprocess.PIPE, text=True, check=True)
    shutil.copy(Path(done.stdout.strip()) / "ocicni", site.machine.path("/usr/bin/ocicni"))
    shutil.copy(CACHE / "root/usr/bin/nsenter", site.machine.path("/usr/bin/nsenter"))  # which the library calls
    return Library(site, "/usr/bin/ocicni")


def pod(space: Space, name: str) -> str:
    return f"default/{name}/{space.name}/{space.path}"


def address(result: dict[str, Any]) -> str:
    return str(result["ips"][0]["address"]).partition("/")[0]


def test_every_verb(site: Site, library: Library) -> None:
    space = site.space()
    subject = pod(space, "multitool")
    library.must("status")
    result = library.add(subject)
    assert f"inet {address(result)}/32" in space.run("ip", "address", "show", "eth0")
    assert address(json.loads(library.must("check", subject))) == address(result)
    space.run("busybox", "ping", "-c1", "-W2", site.node.address)
    space.run("ip", "address", "flush", "dev", "eth0")
    code, words = library.ask("check", subject)
    assert (code, f"address {address(result)} is missing" in words) == (1, True), words
    library.must("del", subject)
    assert "eth0" not in space.run("ip", "link")
    library.must("del", subject)


def test_ports_and_bandwidth(site: Site, library: Library) -> None:
    server, client = site.space(), site.space()
    asked = (pod(server, "server"), "hostPort=18080:80/tcp", "ingress=10000000")
    interface = library.add(*asked)["interfaces"][0]["name"]
    seen = address(library.add(pod(client, "client")))
    assert talk(client, server, 80, address=site.node.address, to_port=18080) == seen
    assert "rate 10Mbit" in site.machine.run("tc", "qdisc", "show", "dev", interface)
    library.must("del", *asked)
    library.must("del", pod(client, "client"))


def test_gc_collects_what_is_not_valid(site: Site, library: Library) -> None:
    kept, lost = site.space(), site.space()
    held = {name: address(library.add(pod(space, name))) for name, space in (("kept", kept), ("lost", lost))}
    library.must("gc", pod(kept, "kept"))
    site.until("address given back", lambda: not any(handle.endswith(f".{lost.name}") for handle in site.handles()))
    assert f"inet {held['kept']}/32" in kept.run("ip", "address", "show", "eth0")
    assert held["lost"] not in site.machine.run("ip", "route")
    library.must("check", pod(kept, "kept"))
    library.must("gc")
    assert held["kept"] not in site.machine.run("ip", "route")


def test_agent_down(site: Site, library: Library) -> None:
    space = site.space()
    subject = pod(space, "before")
    held = address(library.add(subject))
    site.node.stop(signal.SIGKILL)
    try:
        code, words = library.ask("status")
        assert (code, "the Podwire agent is not available" in words) == (1, True), words
        code, words = library.ask("add", pod(site.space(), "x"))
        assert (code, "try again later" in words) == (1, True), words
        library.must("del", subject)
    finally:
        site.node.start()
    site.until("the kept DEL is done", lambda: held not in site.machine.run("ip", "route"))
    site.until("network ready", lambda: library.ask("status")[0] == 0)
