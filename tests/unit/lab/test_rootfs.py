"""The plan of a node's file system."""

from __future__ import annotations

from podwire.lab import rootfs
from podwire.lab.rootfs import Bind, Directory, File, Host, KernelFs, NodeFiles, Overlay, Symlink

HOST = Host("/cache/root", (("bin", "usr/bin"), ("lib", "")), ("/opt/python",), ("null",), "/cache")
NODE = NodeFiles("lab-worker", "172.18.0.3", (("172.18.0.3", "lab-worker"),))


def test_usr_is_the_private_root_over_the_hosts() -> None:
    steps = rootfs.plan(HOST, NODE)
    assert Overlay("/usr", ("/cache/root/usr", "/usr")) in steps
    assert Symlink("/bin", "usr/bin") in steps
    assert Bind("/lib", "/lib", read_only=True) in steps


def test_without_a_private_root_the_hosts_usr_is_read_only() -> None:
    host = Host("", HOST.merged, (), (), "/cache")
    assert Bind("/usr", "/usr", read_only=True) in rootfs.plan(host, NODE)
    assert not any(isinstance(step, Overlay) for step in rootfs.plan(host, NODE))


def test_only_the_networks_kernel_settings_are_writable() -> None:
    steps = rootfs.plan(HOST, NODE)
    order = [steps.index(step) for step in (KernelFs("proc", "/proc"), Bind("@/proc/sys", "/proc/sys", read_only=True))]
    assert order == sorted(order)
    assert Bind("@/proc/sys/net", "/proc/sys/net") in steps
    assert KernelFs("sysfs", "/sys", read_only=True) in steps


def test_rootless_has_no_cgroups_and_no_bpf() -> None:
    host = Host("", (), (), (), "/cache", cgroups=False, rootless=True)
    paths = [step.path for step in rootfs.plan(host, NODE)]
    assert "/sys/fs/cgroup" not in paths
    assert "/sys/fs/bpf" not in paths


def test_every_place_is_made_before_it_is_used() -> None:
    made = {"/"}
    for step in rootfs.plan(HOST, NODE):
        if isinstance(step, KernelFs) and not step.path.startswith("/sys/"):
            assert step.path in made, step
        if isinstance(step, Directory):
            made.add(step.path)


def test_hosts_names_every_node() -> None:
    hosts = next(step for step in rootfs.plan(HOST, NODE) if isinstance(step, File) and step.path == "/etc/hosts")
    assert b"172.18.0.3\tlab-worker\n" in hosts.content


def test_paths_with_commas_survive_overlay_options() -> None:
    assert rootfs._escaped("/a:b,c\\d") == "/a\\:b\\,c\\\\d"
