"""Nodes, as far as the network reads them.

Source: core/v1 Node; the `projectcalico.org/` annotations are where Calico nodes tell each other their addresses.
"""

from __future__ import annotations

import hashlib

import msgspec

from podwire.model.meta import Meta

IPV4_ADDRESS = "projectcalico.org/IPv4Address"  # with the length of the node's subnet: 172.18.0.2/16
VXLAN_TUNNEL = "projectcalico.org/IPv4VXLANTunnelAddr"
VXLAN_TUNNEL6 = "projectcalico.org/IPv6VXLANTunnelAddr"
VXLAN_MAC = "projectcalico.org/VXLANTunnelMACAddr"


class NodeAddress(msgspec.Struct, frozen=True):
    type: str
    address: str


class NodeSpec(msgspec.Struct, frozen=True):
    podCIDR: str = ""
    podCIDRs: list[str] = []
    unschedulable: bool = False


class NodeStatus(msgspec.Struct, frozen=True):
    addresses: list[NodeAddress] = []


class Node(msgspec.Struct, frozen=True):
    metadata: Meta
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def pod_cidrs(self) -> tuple[str, ...]:
        return tuple(self.spec.podCIDRs) or ((self.spec.podCIDR,) if self.spec.podCIDR else ())

    @property
    def address(self) -> str:
        """The node's own IPv4 address: what its agent published, else its first InternalIP; '' while unknown."""
        if told := self.metadata.annotations.get(IPV4_ADDRESS):
            return told.partition("/")[0]
        found = [a.address for a in self.status.addresses if a.type == "InternalIP" and ":" not in a.address]
        return found[0] if found else ""

    @property
    def subnet(self) -> str:
        """The address with its subnet's length as published (`172.18.0.2/16`), '' if it was not."""
        told = self.metadata.annotations.get(IPV4_ADDRESS, "")
        return told if "/" in told else ""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every address that the node answers to (internal and external), IPv4."""
        found = [a.address for a in self.status.addresses if a.type in ("InternalIP", "ExternalIP")]
        return tuple(dict.fromkeys(a for a in [self.address, *found] if a and ":" not in a))

    @property
    def tunnel_address(self) -> str:
        return self.metadata.annotations.get(VXLAN_TUNNEL, "")

    @property
    def tunnel_address6(self) -> str:
        return self.metadata.annotations.get(VXLAN_TUNNEL6, "")

    @property
    def tunnel_mac(self) -> str:
        return self.metadata.annotations.get(VXLAN_MAC, "") or derived_mac(self.name)


def derived_mac(node: str) -> str:
    """The tunnel device's address when none is published: 'f' and the first five bytes of SHA-1(node name)."""
    digest = hashlib.sha1(node.encode(), usedforsecurity=False).digest()
    return ":".join(f"{byte:02x}" for byte in b"f" + digest[:5])
