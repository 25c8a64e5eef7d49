"""Where addresses come from is each call's own choice, and STATUS answers for that choice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from podwire.model.gvr import IPPOOLS

NEW = {"cniVersion": "1.1.0"}


def files(tmp_path: Path, subnet: str = "10.88.0.0/24") -> dict[str, Any]:
    return {"ipam": {"type": "host-local", "subnet": subnet, "dataDir": str(tmp_path / "networks")}}


def kept(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "networks" / "k8s-pod-network").glob("10.*")}


def test_files_behind_the_routed_wiring(world: Any, tools: Any, tmp_path: Path) -> None:
    node, local = world.nodes[0], files(tmp_path)
    a, b, other = node.pod("a").add(**local), node.pod("b").add(**local), node.pod("other").add()
    assert (a.address, b.address) == ("10.88.0.2", "10.88.0.3")
    assert other.address.startswith("10.244.")
    assert a.result["ips"][0] == {"address": "10.88.0.2/32", "gateway": "169.254.1.1", "interface": 1}
    assert kept(tmp_path) == {a.address, b.address}
    assert tools.talk(a.space, b.space, b.address) == a.address
    assert tools.talk(other.space, b.space, b.address) == node.address  # out of the pools
    first = a.result
    assert a.add(**local).result == first
    node.restart()
    assert sum(node.writes().values()) == 0, node.writes()
    assert a.call("CHECK", **local, prevResult=a.result) == (0, "")
    a.delete()  # by the record alone, whatever the configuration says now
    tools.until("the file is gone", lambda: kept(tmp_path) == {b.address})
    gc = {"cni.dev/valid-attachments": [{"containerID": other.container_id, "ifname": "eth0"}]}
    assert other.call("GC", **NEW, **local, **gc) == (0, "")
    tools.until("collected", lambda: kept(tmp_path) == set())
    assert tools.talk(other.space, node.space, node.address) == other.address


def test_an_exhausted_range_leaves_nothing(world: Any, tools: Any, tmp_path: Path) -> None:
    node, local = world.nodes[0], files(tmp_path, "10.88.0.0/30")
    holder, late = node.pod("holder").add(**local), node.pod("late")
    code, output = late.call("ADD", **local)
    assert (code, json.loads(output)["code"]) == (1, 11), output
    tools.until("undone", lambda: node.space.run("ip", "link").count(": cali") == 1)
    tools.until("nothing in the pod", lambda: "eth0" not in late.space.run("ip", "link"))
    holder.delete()
    tools.until("the file is gone", lambda: kept(tmp_path) == set())
    late.add(**local)
    code, output = node.pod("wrong").call("ADD", ipam={"type": "host-local"})
    assert (code, json.loads(output)["code"]) == (1, 7)


def test_status_is_about_what_the_role_serves(world: Any, tools: Any, tmp_path: Path) -> None:
    node, local = world.nodes[0], files(tmp_path)
    pod = node.pod("a")
    six = {"ipam": {"type": "podwire-ipam", "assign_ipv6": "true"}}

    def status(**config: Any) -> tuple[int, str]:
        code, output = pod.call("STATUS", **NEW, **config)
        return (json.loads(output)["code"], json.loads(output).get("details", "")) if code else (0, "")

    assert status() == status(program="podwire-ipam") == status(**local) == (0, "")
    assert status(**six) == (50, "no IPPool of IPv6 is enabled for workloads")
    world.api.do(world.api.fake.patch(IPPOOLS, "default-ipv4-ippool", {"spec": {"disabled": True}}))
    tools.until("known", lambda: status()[0] == 50)
    assert status(program="podwire-ipam") == (50, "no IPPool of IPv4 is enabled for workloads")
    assert status(**local) == status(wiring="bridge", **local) == (0, "")
    assert status(program="portmap") == status(program="host-local", **local) == (0, "")
    pod.add(**local)


def test_status_of_a_damaged_datapath(world: Any, tools: Any) -> None:
    """The tunnel cannot be made again while its uplink has another name; when it can, all is well."""
    node = world.nodes[0]
    pod = node.pod("a").add()

    def code() -> int:
        failed, output = pod.call("STATUS", **NEW)
        return int(json.loads(output)["code"]) if failed else 0

    def rename(old: str, new: str) -> None:
        for words in (["down"], ["name", new]):
            node.space.run("ip", "link", "set", old, *words)
        node.space.run("ip", "link", "set", new, "up")

    assert code() == 0
    rename("eth0", "astray")
    node.space.run("ip", "link", "delete", "vxlan.calico")
    tools.until("damaged", lambda: code() == 51)
    assert "eth0" in pod.call("STATUS", **NEW)[1]
    assert pod.call("STATUS", **NEW, program="podwire-ipam") == (0, "")  # addresses do not suffer
    rename("astray", "eth0")
    tools.until("mended", lambda: code() == 0, seconds=30)
    assert "vxlan.calico" in node.space.run("ip", "link")
