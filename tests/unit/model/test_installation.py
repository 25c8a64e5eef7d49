"""What is read of the operator's Installation."""

from __future__ import annotations

from typing import Any

import pytest

from podwire.model.installation import changes, read

STOCK = {
    "name": "default-ipv4-ippool",
    "blockSize": 26,
    "cidr": "192.168.0.0/16",
    "encapsulation": "VXLANCrossSubnet",
    "natOutgoing": "Enabled",
    "nodeSelector": "all()",
}


def installation(*pools: dict[str, Any], **network: Any) -> dict[str, Any]:
    return {"metadata": {"name": "default"}, "spec": {"calicoNetwork": {"ipPools": list(pools), **network}}}


def test_the_stock_file() -> None:
    found = read(installation(STOCK))
    (pool,) = found.pools
    assert (pool["metadata"]["name"], found.faults, found.ignored) == ("default-ipv4-ippool", (), ())
    assert pool["spec"] == {
        "cidr": "192.168.0.0/16",
        "blockSize": 26,
        "ipipMode": "Never",
        "vxlanMode": "CrossSubnet",
        "natOutgoing": True,
        "nodeSelector": "all()",
        "disabled": False,
        "disableBGPExport": False,
        "allowedUses": ["Workload", "Tunnel"],
        "assignmentMode": "Automatic",
    }


@pytest.mark.parametrize(
    ("encapsulation", "ipip", "vxlan"),
    [
        (None, "Always", "Never"),
        ("IPIP", "Always", "Never"),
        ("IPIPCrossSubnet", "CrossSubnet", "Never"),
        ("VXLAN", "Never", "Always"),
        ("VXLANCrossSubnet", "Never", "CrossSubnet"),
        ("None", "Never", "Never"),
    ],
)
def test_encapsulations(encapsulation: str | None, ipip: str, vxlan: str) -> None:
    asked = {"cidr": "10.0.0.0/16"} | ({"encapsulation": encapsulation} if encapsulation else {})
    spec = read(installation(asked)).pools[0]["spec"]
    assert (spec["ipipMode"], spec["vxlanMode"]) == (ipip, vxlan)


def test_the_other_fields_and_names() -> None:
    more = {"natOutgoing": "Disabled", "disableNewAllocations": True, "disableBGPExport": True}
    more |= {"allowedUses": ["Tunnel"], "assignmentMode": "Manual", "nodeSelector": "a == 'b'"}
    pools = read(installation({"cidr": "10.0.0.0/16", **more}, {"cidr": "10.1.0.0/16"}, {"cidr": "fd00::/64"})).pools
    assert [pool["metadata"]["name"] for pool in pools] == ["default-ipv4-ippool", "10-1-0-0-16", "default-ipv6-ippool"]
    first, _, six = (pool["spec"] for pool in pools)
    assert (first["natOutgoing"], first["disabled"], first["disableBGPExport"]) == (False, True, True)
    assert (first["allowedUses"], first["assignmentMode"]) == (["Tunnel"], "Manual")
    assert (six["blockSize"], six["ipipMode"], six["vxlanMode"]) == (122, "Never", "Never")


@pytest.mark.parametrize(
    ("pool", "words"),
    [
        ({}, "cidr: '' is not an IP address"),
        ({"cidr": "10.0.0.1/16"}, "did you mean 10.0.0.0/16"),
        ({"cidr": "10.0.0.0/28"}, "blockSize: /26 does not fit"),
        ({"cidr": "10.0.0.0/16", "encapsulation": "GRE"}, "encapsulation: 'GRE' is none of IPIP"),
        ({"cidr": "fd00::/64", "encapsulation": "IPIP"}, "for IPv4 pools only"),
        ({"cidr": "192.168.4.0/24"}, "overlaps 192.168.0.0/16 of pool default-ipv4-ippool"),
    ],
)
def test_a_bad_pool_is_named_and_the_others_stand(pool: dict[str, Any], words: str) -> None:
    found = read(installation(STOCK, pool))
    assert len(found.pools) == 1 and words in found.faults[0]
    assert found.faults[0].startswith("spec.calicoNetwork.ipPools[1]: ")


def test_what_means_nothing_here_is_named() -> None:
    whole = installation({**STOCK, "color": "red"}, bgp="Enabled", mtu=1400)
    whole["spec"] |= {"variant": "Calico", "registry": "r"}
    assert read(whole).ignored == (
        "spec.variant",
        "spec.registry",
        "spec.calicoNetwork.bgp",
        "spec.calicoNetwork.mtu",
        "spec.calicoNetwork.ipPools[0].color",
    )


@pytest.mark.parametrize("odd", [{}, {"spec": None}, {"spec": {"calicoNetwork": "x"}}, {"spec": {"calicoNetwork": {}}}])
def test_nothing_asked(odd: dict[str, Any]) -> None:
    assert read(odd).pools == () and read(odd).faults == ()


def test_differences_count_defaults_as_said() -> None:
    (pool,) = read(installation(STOCK)).pools
    bare = {"spec": {"cidr": "192.168.0.0/16", "blockSize": 26, "vxlanMode": "CrossSubnet", "natOutgoing": True}}
    assert list(changes(pool, bare)) == [] and list(changes(pool, {"spec": {}})) == [
        "cidr",
        "blockSize",
        "vxlanMode",
        "natOutgoing",
    ]
