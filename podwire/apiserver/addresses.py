"""Cluster addresses and node ports of Services: which are taken, and which to give next.

What is taken follows from the Services themselves: it is read from the collection at start, after a refused write
anew, and released when a committed change gives it up. Dynamic picks come from the upper part of each range, so that
the lower part stays for those who choose (KEP-3070, KEP-3668).
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterable
from typing import Any

from podwire.apiserver.store import Change, Store

Object = dict[str, Any]

NODE_PORTS = range(30000, 32768)
_STATIC_NODE_PORTS = 86
SERVICES = "services"


class Taken(ValueError):
    """The wanted address or port is not to be had; the message says why, in upstream's words."""


def addresses_of(service: Object) -> set[str]:
    """The allocated cluster addresses of a Service."""
    spec = service.get("spec") or {}
    found = {spec.get("clusterIP") or "", *(spec.get("clusterIPs") or [])}
    return found - {"", "None"} if spec.get("type") != "ExternalName" else set()


def node_ports_of(service: Object) -> set[int]:
    spec = service.get("spec") or {}
    found = {port.get("nodePort") or 0 for port in spec.get("ports") or []}
    found.add(spec.get("healthCheckNodePort") or 0)
    return found - {0}


class ServiceAddresses:
    """The allocator. Taking is immediate; a write that is then refused makes it read everything again."""

    def __init__(self, subnet: str, store: Store) -> None:
        self.network = ipaddress.ip_network(subnet)
        self._store = store
        self._addresses: set[str] = set()
        self._ports: set[int] = set()
        self._random = random.Random()
        self.read_again()
        store.listen(self._changed)
        store.listen_refusals(self.read_again)

    @property
    def first(self) -> str:
        """The address of the Service `kubernetes`."""
        return str(self.network[1])

    def read_again(self) -> None:
        services = [stored.object for stored in self._store.collection(SERVICES).all_latest()]
        self._addresses = {address for service in services for address in addresses_of(service)}
        self._ports = {port for service in services for port in node_ports_of(service)}

    def _changed(self, collection: str, change: Change) -> None:
        if collection != SERVICES or change.old is None:
            return
        latest = self._store.collection(SERVICES).latest(change.key)
        kept = latest.object if latest else {}
        self._addresses -= addresses_of(change.old.object) - addresses_of(kept)
        self._ports -= node_ports_of(change.old.object) - node_ports_of(kept)

    def take(self, wanted: str, *, dry_run: bool = False) -> str:
        """An address: the wanted one, or any when "". Raises Taken."""
        if wanted:
            self._check(wanted)
        address = wanted or self._pick()
        if not dry_run:
            self._addresses.add(address)
        return address

    def _check(self, wanted: str) -> None:
        try:
            address = ipaddress.ip_address(wanted)
        except ValueError:
            raise Taken(f"failed to allocate IP {wanted}: not a valid IP address") from None
        if address not in self.network or address in (self.network[0], self.network[-1]):
            raise Taken(f"failed to allocate IP {wanted}: the provided network does not match the current range")
        if wanted in self._addresses:
            raise Taken(f"failed to allocate IP {wanted}: provided IP is already allocated")

    def _pick(self) -> str:
        size = self.network.num_addresses
        reserved = min(max(16, size // 16), 256) if size > 32 else 2
        for _ in range(64):
            address = str(self.network[self._random.randrange(reserved, size - 1)])
            if address not in self._addresses:
                return address
        for offset in (*range(reserved, size - 1), *range(2, reserved)):
            address = str(self.network[offset])
            if address not in self._addresses:
                return address
        raise Taken("failed to allocate a serviceIP: range is full")

    def take_port(self, wanted: int, *, also_taken: Iterable[int] = (), dry_run: bool = False) -> int:
        """A node port: the wanted one, or any when 0. Raises Taken."""
        if wanted:
            if wanted not in NODE_PORTS:
                raise Taken(
                    "provided port is not in the valid range. The range of valid ports is "
                    f"{NODE_PORTS.start}-{NODE_PORTS.stop - 1}"
                )
            if wanted in self._ports:
                raise Taken("provided port is already allocated")
            port = wanted
        else:
            port = self._pick_port(set(also_taken))
        if not dry_run:
            self._ports.add(port)
        return port

    def _pick_port(self, also_taken: set[int]) -> int:
        dynamic = range(NODE_PORTS.start + _STATIC_NODE_PORTS, NODE_PORTS.stop)
        for _ in range(64):
            port: int = self._random.choice(dynamic)
            if port not in self._ports and port not in also_taken:
                return port
        for port in (*dynamic, *NODE_PORTS):
            if port not in self._ports and port not in also_taken:
                return port
        raise Taken("range is full")
