"""What was seen on a node: attachments on record, and what its kernel and files hold of pods. Plain values, so that
they can be carried from a node's namespaces to whoever asks.
"""

from __future__ import annotations

import msgspec

UNCOMPARED = "cannot be compared"
"""How a fault begins that says: the kernel has nothing to compare with."""


class SeenAttachment(msgspec.Struct, frozen=True):
    """One pod interface as the agent has it on record; `faults` say in words what differs in the kernel. `state` is
    the record's: wiring, ready or deleted."""

    container_id: str
    interface: str
    role: str
    state: str
    host_name: str
    handle: str = ""
    namespace: str = ""
    pod: str = ""
    addresses: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    limits: str = ""
    faults: tuple[str, ...] = ()
    floating: tuple[str, ...] = ()


class SeenRoute(msgspec.Struct, frozen=True):
    """A route to one pod by the host end of its veth pair."""

    address: str
    interface: str


class SeenFile(msgspec.Struct, frozen=True):
    """An address that host-local keeps as a file. `since` is in seconds since the epoch."""

    directory: str
    network: str
    address: str
    container_id: str
    interface: str
    since: float


class NodeSeen(msgspec.Struct, frozen=True):
    """`links` are host ends of pods (name → up), `routes` lead to them, `admitted` are (interface, address), `present`
    the addresses that any network namespace beside the node's own has. `agent` is ready, not ready (and why), or not
    running; `config` the CNI configuration that a runtime would take. `policy` says in words whether network policy is
    in force: "enforced", or why not ("off: …", "stale: …"); '' when that is not known. `blind` says what could not be
    looked at."""

    node: str
    agent: str = ""
    config: str = ""
    spooled: int = 0
    tunnel: str = ""
    policy: str = ""
    attachments: tuple[SeenAttachment, ...] = ()
    links: dict[str, bool] = {}
    routes: tuple[SeenRoute, ...] = ()
    admitted: tuple[tuple[str, str], ...] = ()
    present: tuple[str, ...] = ()
    files: tuple[SeenFile, ...] = ()
    blind: tuple[str, ...] = ()
