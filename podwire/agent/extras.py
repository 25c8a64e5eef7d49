"""What an attachment has beside its wiring: host ports, floating addresses, bandwidth limits, as its record says.

Every wiring calls `attach` when the pod is addressed and routed, and `detach` when that ends; both may come again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from podwire.agent import bandwidth
from podwire.agent import wiring as wire
from podwire.agent.attachments import READY, ROUTED, Attachment
from podwire.agent.floating import FloatingAddresses, Floats
from podwire.agent.hostports import HostPorts, Ports
from podwire.agent.wiring import Sockets
from podwire.kernel.netlink import KernelError

log = logging.getLogger(__name__)

NO_SNAT, MASK_ALL = "none", "all"


class Extras:
    """`wake` tells the reaper that there is a doomed link. Each method raises KernelError."""

    def __init__(
        self, hostports: HostPorts, floating: FloatingAddresses, sockets: Sockets, wake: Callable[[], None]
    ) -> None:
        self._hostports = hostports
        self._floating = floating
        self._sockets = sockets
        self._wake = wake

    def restore(self, records: Iterable[Attachment]) -> None:
        """At the start, when routes to the pods stand: what records of attachments in use say, and nothing else; silent
        when it is so. What cannot be had is logged: pods in use shall not keep the agent from starting."""
        known = list(records)
        ready = [record for record in known if record.state == READY]
        self._hostports.restore({owner(record): _ports(record) for record in ready if record.ports})
        self._floating.restore({owner(record): _floats(record) for record in ready if record.floating})
        limited = {record.host_name for record in ready if record.limits is not None}
        for record in known:
            if record.limits is not None and record.host_name not in limited:
                self.forget(record.host_name)
        self._limit(ready)

    def repair(self, records: Iterable[Attachment]) -> None:
        """While the agent runs: what somebody else took away comes back. `records` are those of attachments in use."""
        self._hostports.repair()
        self._floating.repair()
        self._limit(records)

    def _limit(self, records: Iterable[Attachment]) -> None:
        for record in records:
            try:
                if record.limits is not None:
                    bandwidth.apply(self._sockets.route(), record.host_name, record.limits)
            except KernelError as error:
                log.error("bandwidth not restored interface=%s error=%s", record.host_name, error)

    def attach(self, record: Attachment) -> None:
        """Raises CniError too: 101 and 102 for a host port or an address that another attachment has. May then have
        done a part: `detach`."""
        if record.limits is not None:
            bandwidth.apply(self._sockets.route(), record.host_name, record.limits)
        if record.ports:
            self._hostports.claim(owner(record), _ports(record))
        if record.floating:
            self._floating.claim(owner(record), _floats(record))

    def detach(self, record: Attachment, *, host_stays: bool = False) -> None:
        """Absent is fine. With `host_stays` the host end is another's, and gets its queues back."""
        self._hostports.release(owner(record))
        self._floating.release(owner(record))
        if record.limits is None:
            return
        if host_stays:
            bandwidth.remove(self._sockets.route(), record.host_name)
        else:
            self.forget(record.host_name)

    def faults(self, record: Attachment) -> list[str]:
        """What differs, in words."""
        found = self._hostports.faults(owner(record), _ports(record)) + self._floating.faults(_floats(record))
        if record.limits is not None:
            found += bandwidth.faults(self._sockets.route(), record.host_name, record.limits)
        return found

    def status(self) -> None:
        """Raises KernelError when the tables are not there."""
        self._hostports.ready()

    def forget(self, host_name: str) -> None:
        """What outlives a host end that goes: its ifb."""
        wire_socket = self._sockets.route()
        link = wire_socket.link(bandwidth.ifb_name(host_name))
        if link is not None and link.kind == "ifb":
            wire.doom_index(wire_socket, link.index, ())
            self._wake()


def owner(record: Attachment) -> str:
    """Its name in tables: one for each layer of a chain."""
    return "/".join(part for part in record.key if part)


def _ports(record: Attachment) -> Ports:
    interface = record.host_name if record.role == ROUTED else ""  # of others' wiring the routes tell
    snat = record.nat != NO_SNAT
    return Ports(record.ports, record.addresses, interface, snat, record.nat == MASK_ALL, _label(record))


def _floats(record: Attachment) -> Floats:
    return Floats(record.floating, record.addresses, _label(record))


def _label(record: Attachment) -> str:
    return f"{record.namespace}/{record.pod}" if record.pod else ""
