"""While the agent runs: what somebody else took from the kernel is put back.

Everything is compared now and then; at once when a notice says that something is gone which looks like ours. What is
right already is only read.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import threading
import time
from collections.abc import Callable
from socket import AF_INET, AF_INET6

from podwire.agent import bridgerepair
from podwire.agent import wiring as wire
from podwire.agent.admission import Admission
from podwire.agent.attachments import BRIDGE, READY, ROUTED, Attachment, Attachments
from podwire.agent.extras import Extras
from podwire.agent.guard import Guard
from podwire.agent.wiring import Sockets
from podwire.cni.bridgeplan import DEFAULT_BRIDGE, subnet_of
from podwire.kernel import links, monitor, routes
from podwire.kernel.links import RTM_DELLINK, Link
from podwire.kernel.netlink import KernelError, Message
from podwire.kernel.routes import PROTOCOL_PODWIRE, RTM_DELADDR, RTM_DELROUTE, Neighbour

log = logging.getLogger(__name__)

DOUBT_SECONDS = 30.0
GATHER_SECONDS = 0.2


class Repair:
    """A thread. `doubt` makes the rest of the agent compare what it keeps; `tunnel` is the name of its device; `former`
    gives the podCIDRs that this node had. While `resting`, nothing is compared."""

    def __init__(
        self,
        records: Attachments,
        sockets: Sockets,
        admission: Admission,
        guard: Guard,
        extras: Extras,
        doubt: Callable[[], None],
        tunnel: str,
        former: Callable[[], tuple[str, ...]] = tuple,
        resting: Callable[[], bool] = bool,
    ) -> None:
        self._records = records
        self._sockets = sockets
        self._admission = admission
        self._guard = guard
        self._extras = extras
        self._doubt = doubt
        self._tunnel = tunnel
        self._former = former
        self._resting = resting
        self._stop = os.pipe()
        self._thread = threading.Thread(target=self._run, name="repair", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        os.close(self._stop[1])
        self._thread.join(timeout=5)
        os.close(self._stop[0])

    def _run(self) -> None:
        watch = monitor.Monitor()
        due = time.monotonic() + DOUBT_SECONDS
        try:
            while True:
                notices = watch.wait(max(0.0, due - time.monotonic()), self._stop[0])
                if self._ended(0):
                    return
                if notices:  # let more of them come, to wake up seldom
                    if self._ended(GATHER_SECONDS):
                        return
                    notices += watch.wait(0, self._stop[0])
                    if not self._ours(notices):
                        continue
                if not self._resting():
                    self._once()
                due = time.monotonic() + DOUBT_SECONDS
        finally:
            watch.close()

    def _ended(self, seconds: float) -> bool:
        return bool(select.select([self._stop[0]], [], [], seconds)[0])

    def _once(self) -> None:
        self._doubt()
        try:
            self._admission.repair()
            self._guard.repair({link.name for link in self._sockets.route().links()})
            self._extras.repair(self._records.all(READY))
            self.pods()
        except (KernelError, OSError) as error:
            log.error("repair failed error=%s", error)

    def _ours(self, notices: list[tuple[int, bytes]]) -> bool:
        """Whether one of these deletions may have been by somebody who does not know of us. (Our own DEL is one, too:
        the route of a pod that is on record no more.)"""
        records = self._records.all(READY)
        bridged = {record.host_name for record in records if record.role == BRIDGE}
        subnets = {subnet_of(gateway) for record in records if record.bridge for gateway in record.gateways}
        wired: set[str] | None = None
        for kind, body in notices:
            if kind == RTM_DELLINK:
                name = links.decode_link(body).name  # of a port, too, that is one no more
                found = name == self._tunnel or name in bridged
            elif kind == RTM_DELROUTE:
                route = routes.decode_route(body)
                if wired is None:
                    wired = {address for record in records for address in record.addresses}
                found = route.protocol == PROTOCOL_PODWIRE or route.destination.partition("/")[0] in wired
                found = found or route.destination in subnets
            elif kind == RTM_DELADDR:
                found = routes.decode_address(body).scope == routes.SCOPE_UNIVERSE  # else a dying link's own
            else:
                found = True
            if found:
                return True
        return False

    def pods(self) -> None:
        """The host's side of each pod. Raises KernelError."""
        socket = self._sockets.route()
        known = {link.name: link for link in socket.links()}
        held = {(route.destination, route.index) for f in (AF_INET, AF_INET6) for route in socket.routes(f)}
        for record in self._records.all(READY):
            link = known.get(record.host_name)
            if record.role == ROUTED and link is not None and link.kind == "veth":
                self._mend(record, link, held)
        bridged = [record for record in self._records.all(READY) if record.role == BRIDGE]
        bridgerepair.tidy(socket, DEFAULT_BRIDGE, self._records.all(READY), self._former())
        bridgerepair.mend(socket, bridged, held, lambda record: self._records.get(record.key) == record)

    def _mend(self, record: Attachment, link: Link, held: set[tuple[str, int]]) -> None:
        changes: list[Message] = [] if link.up else [links.change_link(link.index, up=True)]
        for address in record.addresses:
            route = wire.host_route(address, link.index)
            if not link.up or (route.destination, route.index) not in held:
                changes.append(routes.add_route(route))
                changes.append(routes.add_neighbour(Neighbour(link.index, address, record.pod_mac)))
        if not changes:
            return
        log.warning("pod's wiring repaired interface=%s addresses=%s", record.host_name, ",".join(record.addresses))
        # ENETDOWN, ENODEV: a DEL was faster
        failed = [e for e in self._sockets.route().try_batch(changes) if e is not None]
        for error in failed:
            if error.errno not in (errno.ENETDOWN, errno.ENODEV, errno.EINVAL):
                raise error
