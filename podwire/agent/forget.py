"""Stale UDP connections, forgotten behind the calls' backs: finding them takes the kernel a walk through its whole
table (10 to 20 ms, in which links cannot go away either), and one walk serves all that gathered meanwhile.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from socket import AF_INET, AF_INET6

from podwire.kernel.conntrack import ConntrackSocket, Flow
from podwire.kernel.links import RouteSocket
from podwire.kernel.netlink import KernelError
from podwire.render.nft_hostports import Forward

log = logging.getLogger(__name__)

GATHER_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class _Stale:
    """`held` tells which: flows to a port that the pod has and somebody else answers, or that it had and answers."""

    port: int
    target: str
    held: bool

    def matches(self, flow: Flow, local: frozenset[str]) -> bool:
        if flow.port != self.port:
            return False
        if self.held:
            return flow.target in local and flow.answerer != self.target
        return flow.answerer == self.target


class Forgetter:
    """A thread from the first need on, in the network namespace of the thread that had it."""

    def __init__(self) -> None:
        self._waiting: set[_Stale] = set()
        self._guard = threading.Condition()
        self._thread: threading.Thread | None = None

    def claimed(self, forwards: Iterable[Forward]) -> None:
        """UDP that went elsewhere before: to a process of the node, say."""
        self._add({_Stale(each.host_port, each.target, True) for each in forwards if each.protocol == "udp"})

    def released(self, forwards: Iterable[Forward]) -> None:
        """UDP that still goes to the pod."""
        self._add({_Stale(each.host_port, each.target, False) for each in forwards if each.protocol == "udp"})

    def _add(self, stale: set[_Stale]) -> None:
        if not stale:
            return
        with self._guard:
            # what was claimed and is released (or the other way round) before we came to it counts as it is now
            self._waiting -= {_Stale(each.port, each.target, not each.held) for each in stale if not each.held}
            self._waiting |= stale
            self._guard.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="forget", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            with self._guard:
                self._guard.wait_for(lambda: self._waiting)
            threading.Event().wait(GATHER_SECONDS)  # the call that was the cause shall be answered first
            with self._guard:
                stale, self._waiting = self._waiting, set()
            try:
                self._forget(stale)
            except (KernelError, OSError) as error:
                log.warning("stale udp connections not forgotten error=%s", error)

    def _forget(self, stale: set[_Stale]) -> None:
        with RouteSocket() as links:
            local = frozenset(address.cidr.partition("/")[0] for address in links.addresses())
        with ConntrackSocket() as wire:
            for family in (AF_INET, AF_INET6):
                wanted = [each for each in stale if (":" in each.target) == (family == AF_INET6)]
                ports = {each.port for each in wanted}
                flows = wire.udp_flows(family, ports) if wanted else []
                gone = [flow for flow in flows if any(each.matches(flow, local) for each in wanted)]
                if count := wire.forget(gone):
                    log.info("stale udp connections forgotten ports=%s count=%d", sorted(ports), count)
