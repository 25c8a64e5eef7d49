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

    @property
    def obstacle(self) -> str:
        """Why it is not usable, in words that follow a comma."""
        if not self.sound:
            return "its CIDR or blockSize is not valid"
        if self.spec.disabled:
            return "it is disabled"
        if self.metadata.deletionTimestamp:
            return "it is being deleted"
        return "its status says that it is not allocatable"

    @property
    def automatic(self) -> bool:
        """Serves also who did not ask for it."""
        return self.spec.assignmentMode.lower() != "manual"

    def allows(self, use: str) -> bool:
        """`use` is Workload, Tunnel or LoadBalancer."""
        return use in (self.spec.allowedUses or ["Workload", "Tunnel"])

    def selects_node(self, labels: Mapping[str, str]) -> bool:
        """A selector that cannot be read selects nothing."""
        return _selects(self.spec.nodeSelector, labels)

    def selects_namespace(self, labels: Mapping[str, str]) -> bool:
        """No selector: every namespace; one that cannot be read: none."""
        return _selects(self.spec.namespaceSelector, labels)


def _selects(selector: str, labels: Mapping[str, str]) -> bool:
    try:
        return parse_expression(selector)(labels)
    except ExpressionError:
        return False


class IPAMConfigSpec(msgspec.Struct, frozen=True):
    strictAffinity: bool = False
    autoAllocateBlocks: bool = True
    maxBlocksPerHost: int = 0
    ipCooldownSeconds: int = 0


class IPAMConfig(msgspec.Struct, frozen=True):
    metadata: Meta = Meta(name="default")
    spec: IPAMConfigSpec = IPAMConfigSpec()


class IPReservationSpec(msgspec.Struct, frozen=True):
    reservedCIDRs: list[str] = []


class IPReservation(msgspec.Struct, frozen=True):
    """Addresses that automatic assignment leaves out."""

    metadata: Meta
    spec: IPReservationSpec = IPReservationSpec()

    @property
    def cidrs(self) -> list[Cidr]:
        """What of it can be read."""
        found = []
        for text in self.spec.reservedCIDRs:
            try:
                found.append(Cidr.parse(text, host_bits=True))
            except AddressError:
                continue
        return found
