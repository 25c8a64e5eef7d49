"""podman runs containers through our conflist, taken by its name. A folder does for an image."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from podwire.cni.listing import NETWORK
from podwire.kernel.nft import program
from tests.conformance.conftest import CACHE, Site

CONTAINERS = """\
[network]
network_backend = "cni"
cni_plugin_dirs = ["{bin_dir}"]
network_config_dir = "{conf_dir}"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "runc"
"""


@dataclass
class Podman:
    site: Site
    root: Path

    def run(self, name: str, *options: str) -> None:
        """Start a container that sleeps."""
        group = f"/{self.site.machine.cgroup}"
        fixed = [
            "--cgroups=no-conmon",
            f"--cgroup-parent={group}",
            "--security-opt=seccomp=unconfined",
            "--cap-add=NET_RAW",
            "--pull=never",
            f"--name={name}",
        ]
        self("run", "--detach", *fixed, *options, "--rootfs", str(self.root), "/bin/busybox", "sleep", "1000000")

    def remove(self, name: str) -> None:
        self("rm", "--force", "--time=0", name)

    def inspect(self, name: str, what: str) -> str:
        return self("inspect", "--format", what, name).strip()

    def __call__(self, *words: str) -> str:
        return self.site.machine.run("podman", "--storage-driver=vfs", *words)


@pytest.fixture(scope="module")
def podman(site: Site) -> Podman:
    root = site.folder / "rootfs"
    for name in ("bin", "proc", "sys", "dev", "etc", "tmp", "run"):
        (root / name).mkdir(parents=True)
    shutil.copy2(CACHE / "root/usr/bin/busybox", root / "bin/busybox")
    text = CONTAINERS.format(bin_dir=site.plugins, conf_dir=site.node.conflist.parent)
    site.machine.write("/etc/containers/containers.conf", text)
    return Podman(site, root)


def test_run_and_remove(site: Site, podman: Podman) -> None:
    podman.run("one", f"--network={NETWORK}")
    address = podman.inspect("one", f'{{{{(index .NetworkSettings.Networks "{NETWORK}").IPAddress}}}}')
    assert address.startswith("10.244.")
    assert f"inet {address}/32" in podman("exec", "one", "/bin/busybox", "ip", "address", "show", "eth0")
    podman("exec", "one", "/bin/busybox", "ping", "-c1", "-W2", site.node.address)
    podman.remove("one")
    assert address not in site.machine.run("ip", "route")
    site.until("address given back", lambda: not any(h.startswith(NETWORK) for h in site.handles()))


def test_published_port(site: Site, podman: Podman) -> None:
    podman.run("two", f"--network={NETWORK}", "--publish=24000:80")
    assert "24000" in site.node.space.run(program(), "list", "ruleset")
    podman.remove("two")
    assert "24000" not in site.node.space.run(program(), "list", "ruleset")
