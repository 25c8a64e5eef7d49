"""Roles beside another's plugins: behind one that wires, and under one as its IPAM; and lo."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

CACHE = Path(os.environ.get("PODWIRE_CACHE", "/var/cache/podwire"))


@pytest.fixture
def plugins(tmp_path: Path, world: Any) -> Path:
    """A folder of plugins as a node has them: the reference's bridge and ptp, our shim as host-local and loopback."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    reference = CACHE / "conformance" / "debian" / "usr" / "lib" / "cni"
    assert reference.is_dir(), f"{reference} is missing: `tools/setup conformance` puts it there"
    for name in ("bridge", "ptp"):
        (folder / name).symlink_to(reference / name)
    ours = world.nodes[0].bin_dir
    for name in ("podwire", "host-local", "loopback"):
        (folder / name).write_bytes((ours / "podwire").read_bytes())
        (folder / name).chmod(0o755)
        (folder / f"{name}.paths").write_bytes((ours / "podwire.paths").read_bytes())
    return folder


def call(plugins: Path, pod: Any, kind: str, command: str, interface: str = "eth0", **config: Any) -> tuple[int, Any]:
    """A plugin as a runtime calls it: exit code and what it answered."""
    env = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": pod.container_id,
        "CNI_IFNAME": interface,
        "CNI_NETNS": pod.space.path,
        "CNI_PATH": str(plugins),
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod.name}",
        "PATH": os.environ["PATH"],
    }
    stdin = json.dumps({"cniVersion": "1.0.0", "name": "chain", "type": kind, **config}).encode()
    command_line = ["nsenter", f"--net={pod.node.space.path}", str(plugins / kind)]
    done = subprocess.run(command_line, env=env, input=stdin, capture_output=True, timeout=60, check=False)
    return done.returncode, json.loads(done.stdout) if done.stdout.strip() else {}


def config(kind: str, tmp_path: Path) -> dict[str, Any]:
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": "10.66.0.0/24"}]],
        "dataDir": str(tmp_path / "networks"),
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    return {"bridge": "ref0", "isGateway": True, "ipam": ipam} if kind == "bridge" else {"ipam": ipam}


def test_host_ports_and_limits_of_a_pod_that_another_wired(world: Any, plugins: Path, tmp_path: Path) -> None:
    one, two = world.nodes
    pod = one.pod("a")
    mapping = {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}
    rates = {"ingressRate": 10**8, "ingressBurst": 10**7, "egressRate": 10**8, "egressBurst": 10**7}
    asking = {"runtimeConfig": {"portMappings": [mapping], "bandwidth": rates}}
    code, wired = call(plugins, pod, "ptp", "ADD", **config("ptp", tmp_path))
    assert code == 0, wired
    code, passed = call(plugins, pod, "podwire", "ADD", prevResult=wired, **asking)
    assert code == 0, passed
    with pod.space.listen("0.0.0.0", 80) as listener, two.space.socket() as client:
        client.connect((one.address, 8080))
        connection, peer = listener.accept()
        connection.close()
        assert peer[0] == two.address
    assert one.space.run("ip", "link", "show", "type", "ifb") != ""
    assert call(plugins, pod, "podwire", "CHECK", prevResult=passed) == (0, {})
    assert call(plugins, pod, "podwire", "DEL") == (0, {})
    assert one.space.run("ip", "link", "show", "type", "ifb") == ""
    assert "8080" not in one.space.run("nft", "list", "table", "inet", "podwire-ports")


@pytest.mark.parametrize("kind", ["bridge", "ptp"])
def test_another_wires_and_podwire_admits(world: Any, plugins: Path, tools: Any, tmp_path: Path, kind: str) -> None:
    node, first = world.nodes[0], config(kind, tmp_path)
    pods, results = [node.pod("a"), node.pod("b")], []
    for pod in pods:
        code, wired = call(plugins, pod, kind, "ADD", **first)
        assert code == 0, wired
        code, passed = call(plugins, pod, "podwire", "ADD", prevResult=wired)
        assert code == 0, passed
        assert {key: passed[key] for key in ("interfaces", "ips")} == {key: wired[key] for key in ("interfaces", "ips")}
        results.append(passed)
        assert call(plugins, pod, "podwire", "ADD", prevResult=wired) == (0, passed)  # again: the same
    one, two = (str(result["ips"][0]["address"]).partition("/")[0] for result in results)
    a, b = pods
    assert tools.talk(a.space, b.space, two) == one
    # a foreign source address goes nowhere
    a.space.run("ip", "address", "add", "10.66.0.200/32", "dev", "eth0")
    with a.space.socket() as client, b.space.listen(two):
        client.bind(("10.66.0.200", 0))
        client.settimeout(0.3)
        assert client.connect_ex((two, 8080)) != 0
    assert call(plugins, a, "podwire", "CHECK", prevResult=results[0])[0] == 0
    # an agent that starts again knows them, and changes nothing
    before = node.space.run("nft", "-s", "list", "ruleset")
    node.restart()
    assert node.space.run("nft", "-s", "list", "ruleset") == before
    assert tools.talk(b.space, a.space, one) == two
    # DEL backwards: closed by ours, then taken away by theirs; the other pod does not notice
    assert call(plugins, a, "podwire", "DEL", prevResult=results[0])[0] == 0
    with b.space.socket(socket.SOCK_STREAM) as client, a.space.listen(one):
        client.settimeout(0.3)
        assert client.connect_ex((one, 8080)) != 0
    assert call(plugins, a, kind, "DEL", prevResult=results[0], **first)[0] == 0
    assert call(plugins, a, "podwire", "DEL")[0] == 0
    assert tools.talk(node.space, b.space, two)
    name = next(str(one["name"]) for one in results[0]["interfaces"] if "sandbox" not in one and one["name"] != "ref0")
    assert call(plugins, b, "podwire", "ADD", prevResult=results[1])[0] == 0  # looks what is gone meanwhile
    assert name not in node.space.run("nft", "list", "ruleset")
    valid: list[dict[str, str]] = []
    gc = {"cniVersion": "1.1.0", "cni.dev/valid-attachments": valid}
    assert call(plugins, b, "podwire", "GC", **gc)[0] == 0
    assert call(plugins, b, "host-local", "GC", ipam=first["ipam"], **gc)[0] == 0
    assert [p.name for p in (tmp_path / "networks" / "chain").iterdir() if p.name.startswith("10.")] == []
    assert two not in node.space.run("nft", "list", "ruleset")


def governed(node: Any) -> set[str]:
    """Names in the sets of both tables."""
    listed = "".join(
        node.space.run("nft", "list", "set", *table.split(), "governed")
        for table in ("bridge podwire", "inet podwire_adopted")
    )
    return set(re.findall('"([^"]*)"', listed.replace("comment", "")))


def test_rules_of_nobody_go(world: Any, plugins: Path, tools: Any, tmp_path: Path) -> None:
    """With GC, and when the agent starts; but what stands there yet stays closed."""
    node, first = world.nodes[0], config("ptp", tmp_path)
    pod = node.pod("a")
    code, wired = call(plugins, pod, "ptp", "ADD", **first)
    assert code == 0, wired
    assert call(plugins, pod, "podwire", "ADD", prevResult=wired)[0] == 0
    (name,) = governed(node)
    for table in ("bridge podwire", "inet podwire_adopted"):
        node.space.run("nft", "add", "element", *table.split(), "governed", "{ lost0 }")
    valid = [{"containerID": pod.container_id, "ifname": "eth0"}]
    gc = {"cniVersion": "1.1.0", "cni.dev/valid-attachments": valid}
    assert governed(node) == {name, "lost0"}
    assert call(plugins, pod, "podwire", "GC", **gc) == (0, {})
    assert governed(node) == {name}
    # unwired by somebody, and never told: nothing of it is left after GC
    node.space.run("ip", "link", "delete", name)
    assert call(plugins, pod, "podwire", "GC", **gc | {"cni.dev/valid-attachments": []}) == (0, {})
    assert governed(node) == set()
    # the same for an agent that starts, when it knows of no attachment at all
    node.space.run("ip", "link", "add", "still0", "type", "bridge")
    node.stop()
    for table in ("bridge podwire", "inet podwire_adopted"):
        node.space.run("nft", "add", "element", *table.split(), "governed", "{ lost0, still0 }")
    node.start()
    assert governed(node) == {"still0"}
    node.space.run("ip", "link", "delete", "still0")
    assert call(plugins, pod, "podwire", "GC", **gc) == (0, {})
    assert governed(node) == set()


def test_admission_behind_another_is_repaired(world: Any, plugins: Path, tools: Any, tmp_path: Path) -> None:
    node, first = world.nodes[0], config("bridge", tmp_path)
    pods = [node.pod("a"), node.pod("b")]
    results = []
    for pod in pods:
        code, wired = call(plugins, pod, "bridge", "ADD", **first)
        assert code == 0, wired
        code, passed = call(plugins, pod, "podwire", "ADD", prevResult=wired)
        results.append(passed)
    before = node.space.run("nft", "-s", "list", "ruleset")
    for table in ("bridge podwire", "inet podwire_adopted"):
        node.space.run("nft", "delete", "table", *table.split())

    def tables() -> list[str]:
        """Each table apart: which one was made first says nothing."""
        return sorted(node.space.run("nft", "-s", "list", "ruleset").split("\n}\n"))

    tools.until("as before", lambda: tables() == sorted(before.split("\n}\n")))
    one, two = (str(result["ips"][0]["address"]).partition("/")[0] for result in results)
    assert tools.talk(pods[0].space, pods[1].space, two) == one


def test_a_pod_without_an_end_on_the_node_is_refused(world: Any, plugins: Path) -> None:
    pod = world.nodes[0].pod("odd")
    pod.space.run("ip", "link", "add", "eth0", "type", "bridge")
    previous = {
        "interfaces": [{"name": "eth0", "sandbox": pod.space.path}],
        "ips": [{"address": "10.66.0.9/24", "interface": 0}],
    }
    code, answer = call(plugins, pod, "podwire", "ADD", prevResult=previous)
    assert (code, answer["code"]) == (1, 7)
    assert "eth0 is a bridge without an end on the node" in answer["msg"]
    code, answer = call(plugins, pod, "podwire", "ADD", "eth7", prevResult=previous)
    assert "made no interface eth7" in answer["msg"]


def test_host_local_as_a_role(world: Any, plugins: Path, tmp_path: Path) -> None:
    ipam = config("ptp", tmp_path)["ipam"]
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("nameserver 10.96.0.10\n")
    ipam |= {"resolvConf": str(resolv), "ranges": [[{"subnet": "10.66.0.0/30"}], [{"subnet": "fd66::/120"}]]}
    a, b = world.nodes[0].pod("a"), world.nodes[0].pod("b")
    code, answer = call(plugins, a, "host-local", "ADD", ipam=ipam)
    assert code == 0
    assert answer["ips"] == [
        {"address": "10.66.0.2/30", "gateway": "10.66.0.1"},
        {"address": "fd66::2/120", "gateway": "fd66::1"},
    ]
    assert answer["dns"] == {"nameservers": ["10.96.0.10"]} and answer["routes"] == [{"dst": "0.0.0.0/0"}]
    assert call(plugins, a, "host-local", "ADD", ipam=ipam) == (0, answer)
    assert call(plugins, a, "host-local", "CHECK", ipam=ipam, prevResult=answer)[0] == 0
    code, refused = call(plugins, b, "host-local", "ADD", ipam=ipam)
    assert code == 1 and "no IP addresses available in range set: 10.66.0.1-10.66.0.2" in refused["msg"]
    assert call(plugins, b, "host-local", "CHECK", ipam=ipam, prevResult=answer)[1]["code"] == 3
    assert call(plugins, a, "host-local", "STATUS", cniVersion="1.1.0", ipam=ipam) == (0, {})
    assert call(plugins, a, "host-local", "DEL", ipam=ipam) == (0, {})
    assert call(plugins, b, "host-local", "ADD", ipam=ipam)[0] == 0


def test_loopback(world: Any, plugins: Path) -> None:
    pod = world.nodes[0].pod("a")
    code, answer = call(plugins, pod, "loopback", "ADD", "lo", cniVersion="0.3.1")
    assert code == 0
    assert answer["interfaces"] == [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": pod.space.path}]
    assert {"version": "4", "address": "127.0.0.1/8", "interface": 0} in answer["ips"]
    assert call(plugins, pod, "loopback", "CHECK", "lo", prevResult=answer)[0] == 0
    with pod.space.listen("127.0.0.1"), pod.space.socket() as client:
        client.connect(("127.0.0.1", 8080))
    previous = {"ips": [{"address": "10.1.1.1/24"}], "dns": {}}
    assert call(plugins, pod, "loopback", "ADD", "lo", prevResult=previous)[1]["ips"] == previous["ips"]
    pod.space.run("ip", "link", "set", "lo", "down")
    assert call(plugins, pod, "loopback", "CHECK", "lo", prevResult=answer)[0] == 1
    assert call(plugins, pod, "loopback", "DEL", "lo") == (0, {})
    assert "state DOWN" in pod.space.run("ip", "link", "show", "lo")
