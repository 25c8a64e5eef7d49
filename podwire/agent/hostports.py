"""Host ports: who has which port of this node, in memory and as elements of `inet podwire-ports`.

UDP clients that talk without a pause would keep their old way for ever: what connection tracking knows of a port is
forgotten soon after a pod gets it, and after it loses it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from podwire.agent.elements import OwnedElements
from podwire.agent.forget import Forgetter
from podwire.agent.wiring import Sockets
from podwire.cni import spec
from podwire.cni.capabilities import PortMapping
from podwire.cni.spec import CniError
from podwire.kernel.netlink import KernelError
from podwire.kernel.nfelements import SetName
from podwire.kernel.tables import NftProgram
from podwire.render import nft_hostports
from podwire.render.elements import Row
from podwire.render.nft_hostports import Forward

log = logging.getLogger(__name__)

PORT_TAKEN = 101
"""CNI error code: another attachment of this node has the host port."""


@dataclass(frozen=True, slots=True)
class Ports:
    """What one attachment asks: the first address of each family gets the ports. `interface` is the host's towards the
    pod ("": the one that the pod is routed by); `snat` masquerades clients on the pod's own side, `masked` all;
    `label` names the pod in messages."""

    mappings: Sequence[PortMapping]
    addresses: Sequence[str]
    interface: str = ""
    snat: bool = True
    masked: bool = False
    label: str = ""


class HostPorts:
    """Owners are named "container_id/ifname". Threads may call at the same time; each raises KernelError."""

    def __init__(self, program: NftProgram, sockets: Sockets) -> None:
        self._sockets = sockets
        self._elements = OwnedElements(
            nft_hostports.TABLE, nft_hostports.SETS, nft_hostports.body, program, sockets.elements
        )
        self._forwards: dict[str, tuple[Forward, ...]] = {}
        self._labels: dict[str, str] = {}
        self._forgetter = Forgetter()
        self._guard = threading.Lock()

    def held(self) -> dict[str, list[str]]:
        """Rows of the table by their owner."""
        return self._elements.held()

    def restore(self, wanted: Mapping[str, Ports]) -> None:
        """At the start, when routes to the pods stand: the table holds exactly this; silent when it does."""
        with self._guard:
            self._forwards = {}
            rows = {}
            for owner, ports in wanted.items():
                try:
                    found = self._free(owner, ports)
                except CniError as error:
                    log.error("host ports not restored owner=%s error=%s", owner, error)
                    continue
                self._forwards[owner] = found
                self._labels[owner] = ports.label
                rows[owner] = self._rows(found, ports)
            self._elements.restore(rows)
            known = [forward for forwards in self._forwards.values() for forward in forwards]
        self._forgetter.claimed(known)

    def claim(self, owner: str, ports: Ports) -> None:
        """Idempotent. Raises CniError: 101 when a port is another owner's, 7 when a host address cannot lead to the
        pod's."""
        with self._guard:
            forwards = self._free(owner, ports)
            former = self._forwards.get(owner, ())
            self._elements.put(owner, self._rows(forwards, ports))
            self._forwards.pop(owner, None)
            if forwards:
                self._forwards[owner] = forwards
                self._labels[owner] = ports.label
        self._forgetter.claimed(forward for forward in forwards if forward not in former)

    def release(self, owner: str) -> None:
        """Absent is fine."""
        with self._guard:
            self._elements.drop(owner)
            forwards = self._forwards.pop(owner, ())
            self._labels.pop(owner, None)
        self._forgetter.released(forwards)

    def repair(self) -> None:
        """Somebody else may have changed the table."""
        self._elements.repair()

    def ready(self) -> None:
        """Raises KernelError when the table is not there."""
        self._sockets.elements().read(SetName("inet", "podwire-ports", "any4"))

    def faults(self, owner: str, ports: Ports) -> list[str]:
        """What the kernel lacks, in words."""
        if not ports.mappings:
            return []
        rows = self._rows(planned(ports), ports)
        try:
            found = self._elements.faults(rows)
        except KernelError as error:
            return [f"host ports: {error}"]
        return found if owner in self._forwards else [f"no host ports are held for {owner}", *found]

    def _free(self, owner: str, ports: Ports) -> tuple[Forward, ...]:
        forwards = planned(ports)
        taken = {each.front: other for other, those in self._forwards.items() if other != owner for each in those}
        for forward in forwards:
            if forward.front in taken:
                other = taken[forward.front]
                pod = f"pod {self._labels[other]}, " if self._labels.get(other) else ""
                raise CniError(PORT_TAKEN, f"{forward} is taken", f"by {pod}attachment {other}: delete it first")
        return forwards

    def _rows(self, forwards: tuple[Forward, ...], ports: Ports) -> frozenset[Row]:
        shared = not ports.interface
        near, speak = self._near(ports), self._speak(forwards, ports)
        return nft_hostports.rows(forwards, near, speak, masked=ports.masked, shared=shared)

    def _speak(self, forwards: tuple[Forward, ...], ports: Ports) -> dict[str, str]:
        """The address that the node itself has towards the pod, for what it says from 127.0.0.1."""
        if not ports.snat:
            return {}
        found = {}
        for target in {forward.target for forward in forwards if ":" not in forward.target}:
            route = self._sockets.route().route_to(target)
            if route is not None and route.source:
                found[target] = route.source
        return found

    def _near(self, ports: Ports) -> list[tuple[str, str]]:
        """Pairs (interface, pod's address): who comes in there would be answered past this node's NAT."""
        if not ports.snat or not ports.mappings:
            return []
        wire = self._sockets.route()
        pairs = []
        for address in targets(ports.addresses):
            name = ports.interface
            if not name and (route := wire.route_to(address)) is not None:
                name = next((link.name for link in wire.links() if link.index == route.index), "")
            if name:
                pairs.append((name, address))
        return pairs


def targets(addresses: Sequence[str]) -> list[str]:
    """The first address of each family."""
    found: dict[bool, str] = {}
    for address in addresses:
        found.setdefault(":" in address, address)
    return list(found.values())


def planned(ports: Ports) -> tuple[Forward, ...]:
    """Pure: what is forwarded where. Raises CniError 7 for a host address of a family that the pod has not."""
    found: dict[Forward, None] = {}
    for mapping in ports.mappings:
        wanted = targets(ports.addresses)
        fitting = [to for to in wanted if not mapping.host_ip or (":" in to) == (":" in mapping.host_ip)]
        if not fitting:
            has = ", ".join(ports.addresses) or "no address"
            raise CniError(
                spec.BAD_CONFIG, f"host port {mapping.host_port}: {mapping.host_ip or 'the node'} cannot lead to {has}"
            )
        for to in fitting:
            found[Forward(mapping.protocol, mapping.host_ip, mapping.host_port, to, mapping.container_port)] = None
    return tuple(found)
