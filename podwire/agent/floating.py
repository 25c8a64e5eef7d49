"""Floating addresses: who has which on this node, in memory and as elements of `inet podwire-floating`.

The table is made when the first pod asks for one; nodes without such pods do not have it.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from podwire.agent.elements import OwnedElements
from podwire.agent.wiring import Sockets
from podwire.cni import plan, spec
from podwire.cni.spec import CniError
from podwire.kernel.netlink import KernelError
from podwire.kernel.nfelements import SetName
from podwire.kernel.tables import NftProgram
from podwire.render import nft_floating
from podwire.render.elements import Row

log = logging.getLogger(__name__)

ADDRESS_TAKEN = 102
"""CNI error code: the floating address is another attachment's, or the node's."""


@dataclass(frozen=True, slots=True)
class Floats:
    """What one attachment asks; `label` names the pod in messages."""

    floating: Sequence[str]
    addresses: Sequence[str]
    label: str = ""


class FloatingAddresses:
    """Owners are named "container_id/ifname". Threads may call at the same time; each raises KernelError."""

    def __init__(self, program: NftProgram, sockets: Sockets) -> None:
        self._sockets = sockets
        self._elements = OwnedElements(
            nft_floating.TABLE, nft_floating.SETS, nft_floating.body, program, sockets.elements
        )
        self._held: dict[str, Floats] = {}
        self._made = False
        self._guard = threading.Lock()

    def held(self) -> dict[str, list[str]]:
        """Rows of the table by their owner."""
        return self._elements.held()

    def restore(self, wanted: Mapping[str, Floats]) -> None:
        """At the start: the table holds exactly this; silent when it does, or when there is neither."""
        with self._guard:
            self._held = {}
            for owner, floats in wanted.items():
                try:
                    self._free(owner, floats)
                except CniError as error:
                    log.error("floating addresses not restored owner=%s error=%s", owner, error)
                    continue
                self._held[owner] = floats
            if self._held or self._there():
                self._elements.restore({owner: _rows(floats) for owner, floats in self._held.items()})
                self._made = True

    def claim(self, owner: str, floats: Floats) -> None:
        """Idempotent. Raises CniError: 102 when an address is another owner's or the node's, 7 when the pod has no
        address of its family."""
        with self._guard:
            self._free(owner, floats)
            self._foreign(floats)
            if not self._made:
                self._elements.restore({})
                self._made = True
            self._elements.put(owner, _rows(floats))
            self._held[owner] = floats

    def release(self, owner: str) -> None:
        """Absent is fine."""
        if owner not in self._held:  # almost always, and then at no cost
            return
        with self._guard:
            self._elements.drop(owner)
            self._held.pop(owner, None)

    def repair(self) -> None:
        """Somebody else may have changed the table."""
        if self._made:
            self._elements.repair()

    def faults(self, floats: Floats) -> list[str]:
        """What the kernel lacks, in words."""
        try:
            return self._elements.faults(_rows(floats)) if floats.floating else []
        except KernelError as error:
            return [f"floating addresses: {error}"]

    def _there(self) -> bool:
        try:
            self._sockets.elements().read(SetName("inet", "podwire-floating", "to4"))
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
            return False
        return True

    def _free(self, owner: str, floats: Floats) -> None:
        """No other owner has one of them. Raises CniError."""
        taken = {one: other for other, theirs in self._held.items() if other != owner for one in theirs.floating}
        leads = dict(nft_floating.pairs(floats.floating, floats.addresses))
        for one in floats.floating:
            if one not in leads:
                has = ", ".join(floats.addresses) or "no address"
                raise CniError(spec.BAD_CONFIG, f"floating address {one} cannot lead to {has}", "another family")
            if other := taken.get(one):
                label = self._held[other].label
                pod = f"pod {label}, " if label else ""
                raise CniError(
                    ADDRESS_TAKEN, f"floating address {one} is taken", f"by {pod}attachment {other}: delete it first"
                )

    def _foreign(self, floats: Floats) -> None:
        """None of them is what the node itself, or a pod on it, is reached by. Raises CniError 102."""
        wire = self._sockets.route()
        own = {address.cidr.partition("/")[0] for address in wire.addresses()}
        for one in floats.floating:
            if one in own:
                raise CniError(ADDRESS_TAKEN, f"floating address {one} is taken", "it is an address of this node")
            route = wire.route_to(one)
            if route is not None and route.index:
                name = next((link.name for link in wire.links() if link.index == route.index), "")
                if name.startswith(plan.PREFIX):
                    text = f"it is the address of a pod on this node, behind {name}"
                    raise CniError(ADDRESS_TAKEN, f"floating address {one} is taken", text)


def _rows(floats: Floats) -> frozenset[Row]:
    return nft_floating.rows(nft_floating.pairs(floats.floating, floats.addresses))
