"""IPAM's stored objects as slim records, and the names that upstream gives them.

Source: projectcalico.org/v3 IPAMBlock, BlockAffinity, IPAMHandle (shapes and names as Calico stores them, so that its
state can be read and continued).
"""

from __future__ import annotations

import base64
import hashlib

import msgspec

from podwire.model.meta import Meta

TUNNEL_TYPES = ("ipipTunnelAddress", "vxlanTunnelAddress", "vxlanV6TunnelAddress", "wireguardTunnelAddress")


class AllocationAttribute(msgspec.Struct, frozen=True):
    handle_id: str | None = None
    secondary: dict[str, str] | None = None


class IPAMBlockSpec(msgspec.Struct, frozen=True):
    cidr: str
    affinity: str | None = None
    allocations: list[int | None] = []
    attributes: list[AllocationAttribute] = []
    deleted: bool = False


class IPAMBlock(msgspec.Struct, frozen=True):
    metadata: Meta
    spec: IPAMBlockSpec

    @property
    def node(self) -> str:
        """The node that owns the block, or '' (nobody, or something virtual)."""
        kind, _, name = (self.spec.affinity or "").partition(":")
        return name if kind == "host" else ""


class BlockAffinitySpec(msgspec.Struct, frozen=True):
    cidr: str
    node: str
    state: str = "confirmed"
    type: str = "host"
    deleted: bool | str = False


class BlockAffinity(msgspec.Struct, frozen=True):
    metadata: Meta
    spec: BlockAffinitySpec


def block_name(cidr: str) -> str:
    """`10.244.0.0/26` → `10-244-0-0-26`."""
    return cidr.replace(".", "-").replace(":", "-").replace("/", "-")


def affinity_name(node: str, cidr: str) -> str:
    """`<node>-<block name>`, shortened by a hash when it would be too long for a name."""
    name = f"{node}-{block_name(cidr)}"
    if len(name) < 253:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:11]
    return f"{name[: 252 - len(digest) - 1]}-{digest}"


def hostname_hash(node: str) -> str:
    """The value of label projectcalico.org/hostname-hash: base32 (no padding) of SHA3-256 of the name."""
    return base64.b32encode(hashlib.sha3_256(node.encode()).digest()).decode().rstrip("=")
