"""What the node's podCIDR decides: the CNI configuration of kubenet and of host-local, and its constancy.

A node keeps the podCIDR it registered with. When the Node object says another one, pods of both would live side by
side and the routes to the old ones would be gone: the change is refused until the node registers anew (another Node
object of the same name), and said in the log, in an event of the Node, and by the agent not being ready.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path

import msgspec

from podwire.agent.config import AgentConfig
from podwire.agent.files import Files
from podwire.calc.routes import RouteCalc
from podwire.cni import listing
from podwire.cni.bridgeplan import DEFAULT_BRIDGE
from podwire.cni.listing import NETWORK, Entry
from podwire.ipam import hostlocal, hostranges
from podwire.ipam.wish import Wish
from podwire.model.block import IPAMBlock, IPAMBlockSpec
from podwire.model.ippool import IPPool
from podwire.model.meta import Meta
from podwire.model.node import Node

log = logging.getLogger(__name__)

KUBENET, HOST_LOCAL = "kubenet", "host-local"


class Kept(msgspec.Struct, frozen=True):
    """The podCIDRs in use, and the uid of the Node object that gave them; `former` are those of Nodes before it, whose
    last pods may still be here."""

    uid: str
    cidrs: tuple[str, ...]
    former: tuple[str, ...] = ()


def settle(kept: Kept | None, node: Node) -> tuple[Kept | None, str]:
    """What is in use from now on, and why the Node's podCIDR is refused ("" when it is not)."""
    uid, cidrs = node.metadata.uid, node.pod_cidrs
    if not cidrs or (kept is not None and kept.uid == uid and kept.cidrs == cidrs):
        return kept, ""
    if kept is None or kept.uid != uid:
        before = (*kept.former, *kept.cidrs) if kept is not None else ()
        return Kept(uid, cidrs, tuple(dict.fromkeys(one for one in before if one not in cidrs))), ""
    return kept, (
        f"podCIDR {','.join(cidrs)} refused: pods of this node use {','.join(kept.cidrs)}. "
        f"Drain the node, delete the Node object, and let it register anew"
    )


class PodCidr:
    """The podCIDRs in use, kept in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self.kept: Kept | None = msgspec.json.decode(path.read_bytes(), type=Kept)
        except (OSError, msgspec.MsgspecError):
            self.kept = None
        self.refused = ""

    def see(self, node: Node) -> str:
        """Take note of the Node; a refusal that is new, else "". Raises OSError."""
        kept, refused = settle(self.kept, node)
        if kept != self.kept and kept is not None:
            temporary = self._path.with_suffix(".new")
            temporary.write_bytes(msgspec.json.encode(kept))
            temporary.replace(self._path)
            self.kept = kept
            log.info("podCIDR in use cidr=%s", ",".join(kept.cidrs))
        fresh = refused if refused != self.refused else ""
        self.refused = refused
        return fresh

    @property
    def cidrs(self) -> tuple[str, ...]:
        return self.kept.cidrs if self.kept else ()

    @property
    def former(self) -> tuple[str, ...]:
        return self.kept.former if self.kept else ()


def dual(pod_cidrs: tuple[str, ...], pools: Iterable[IPPool]) -> bool:
    """Pods get both families: the node has a podCIDR of IPv6 beside that of IPv4, and there is a pool for it."""
    usable = any(pool.cidr.width == 128 and pool.usable and pool.allows("Workload") for pool in pools if pool.sound)
    return usable and {":" in cidr for cidr in pod_cidrs} == {True, False}


def entry(config: AgentConfig, mtu: int, cidrs: tuple[str, ...], *, both: bool = False) -> Entry | None:
    """The configuration to install; None while a podCIDR is needed and not known. `both`: pods get IPv4 and IPv6, where
    addresses are from blocks."""
    if config.network != KUBENET and config.ipam != HOST_LOCAL:
        families = {"assign_ipv4": "true", "assign_ipv6": "true"} if both else {}
        return Entry(mtu, ipam={**listing.BLOCKS, **families})
    if not cidrs:
        return None
    if config.network != KUBENET:
        return Entry(mtu, ipam=listing.host_local(cidrs))
    shape = {"bridge": DEFAULT_BRIDGE, "isDefaultGateway": True, "ipMasq": False, "hairpinMode": True}
    return Entry(mtu, "bridge", listing.host_local(cidrs), shape)


class PodCidrRoutes(RouteCalc):
    """Routes where addresses are host-local: each node's podCIDRs are its blocks."""

    def on_node(self, name: str, node: Node | None) -> None:
        super().on_node(name, node)
        for number in range(2):
            cidr = node.pod_cidrs[number] if node is not None and number < len(node.pod_cidrs) else ""
            block = IPAMBlock(Meta(name=name), IPAMBlockSpec(cidr=cidr, affinity=f"host:{name}")) if cidr else None
            self.on_block(f"podcidr-{number}.{name}", block)


class HostLocalClaims:
    """The allocator's place taken by files: addresses of the podCIDRs in use, for the routed wiring."""

    def __init__(self, files: Files, pod_cidr: PodCidr) -> None:
        self._files = files
        self._pod_cidr = pod_cidr

    async def assign(self, wish: Wish) -> list[str]:
        """One address of each podCIDR of a wanted family. Raises HostLocalError."""
        sets = hostranges.load({"ipam": listing.host_local(self._pod_cidr.cidrs)}, {}, {}).sets
        fitting = [one for one in sets if one.ranges[0].start.version in wish.families]
        exact = [address for text in wish.exact if (address := hostranges.parse_address(text))]
        given = await asyncio.to_thread(self._store().assign, _owner(wish.handle), fitting, exact)
        return [one.cidr.partition("/")[0] for one in given]

    def at_once(self, wish: Wish) -> list[str] | None:
        """Never: files have to be read."""
        return None

    async def release(self, handle: str) -> list[str]:
        return await asyncio.to_thread(self._store().release, _owner(handle))

    def _store(self) -> hostlocal.Store:
        return self._files.store(hostranges.DEFAULT_DIRECTORY, NETWORK)


def _owner(handle: str) -> hostlocal.Owner:
    """Of `plan.handle`: network, container and, if it is not eth0, interface."""
    container, _, interface = handle.removeprefix(f"{NETWORK}.").partition(".")
    return container, interface or "eth0"
