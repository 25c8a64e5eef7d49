"""Address pools. Source: projectcalico.org/v3 IPPool, IPAMConfiguration."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from podwire.model.address import AddressError, Cidr
from podwire.model.expression import ExpressionError, parse_expression
from podwire.model.meta import Meta


class Condition(msgspec.Struct, frozen=True):
    type: str = ""
    status: str = ""


class IPPoolStatus(msgspec.Struct, frozen=True):
    conditions: list[Condition] = []


class IPPoolSpec(msgspec.Struct, frozen=True):
    cidr: str
    blockSize: int = 0
    vxlanMode: str = ""
    ipipMode: str = ""
    natOutgoing: bool = False
    disabled: bool = False
    nodeSelector: str = ""
    namespaceSelector: str = ""
    allowedUses: list[str] = []
    assignmentMode: str = ""


class IPPool(msgspec.Struct, frozen=True):
    metadata: Meta
    spec: IPPoolSpec
    status: IPPoolStatus | None = None

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def cidr(self) -> Cidr:
        """Raises AddressError for a pool that was written around validation."""
        return Cidr.parse(self.spec.cidr)

    @property
    def sound(self) -> bool:
        """The CIDR parses and the block size fits it; other pools are ignored."""
        try:
            cidr = self.cidr
        except AddressError:
            return False
        return cidr.length <= self.block_size <= cidr.width

    @property
    def block_size(self) -> int:
        """The prefix length of the pool's blocks."""
        return self.spec.blockSize or (122 if ":" in self.spec.cidr else 26)

    @property
    def encapsulation(self) -> str:
        """'vxlan', 'vxlan-cross-subnet', 'ipip' (any mode of it), or '' (none)."""
        if self.spec.ipipMode.lower() not in ("", "never"):
            return "ipip"
        mode = self.spec.vxlanMode.lower()
        return {"always": "vxlan", "crosssubnet": "vxlan-cross-subnet"}.get(mode, "")

    @property
    def usable(self) -> bool:
        """New addresses may be taken from it."""
        blocked = any(
            c.type == "Allocatable" and c.status == "False" for c in (self.status or IPPoolStatus()).conditions
        )
        return self.sound and not self.spec.disabled and not self.metadata.deletionTimestamp and not blocked

    def allows(self, use: str) -> bool:
        """`use` is Workload, Tunnel or LoadBalancer."""
        return use in (self.spec.allowedUses or ["Workload", "Tunnel"])

    def selects_node(self, labels: Mapping[str, str]) -> bool:
        """A selector that cannot be read selects nothing."""
        try:
            return parse_expression(self.spec.nodeSelector)(labels)
        except ExpressionError:
            return False


class IPAMConfigSpec(msgspec.Struct, frozen=True):
    strictAffinity: bool = False
    autoAllocateBlocks: bool = True
    maxBlocksPerHost: int = 0


class IPAMConfig(msgspec.Struct, frozen=True):
    metadata: Meta = Meta(name="default")
    spec: IPAMConfigSpec = IPAMConfigSpec()
