"""Every role of this agent under its name, put together. A new one gets a line here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from podwire.agent.admission import Admission
from podwire.agent.attachments import BRIDGE, CHAINED, IPAM, ROUTED, Attachments
from podwire.agent.bandwidthrole import BANDWIDTH, Limiter
from podwire.agent.bridge import Bridge
from podwire.agent.chained import Chained
from podwire.agent.claimer import Claimer
from podwire.agent.config import AgentConfig
from podwire.agent.extras import Extras
from podwire.agent.files import Files
from podwire.agent.guard import Guard
from podwire.agent.hostlocalrole import HostLocalRole
from podwire.agent.ipamrole import Addresses
from podwire.agent.kubenet import HOST_LOCAL
from podwire.agent.loopbackrole import LoopbackRole
from podwire.agent.pods import Pods
from podwire.agent.policygate import PolicyGate
from podwire.agent.portmaprole import PORTMAP, PortMap
from podwire.agent.readiness import Readiness
from podwire.agent.reaper import Reaper
from podwire.agent.roles import Role
from podwire.agent.routed import Routed
from podwire.agent.wiring import Sockets
from podwire.cni.asked import Features
from podwire.model.ippool import IPPool


@dataclass(frozen=True, slots=True)
class Parts:
    """What roles are made of. `boot` names this boot and namespace once the agent has taken over; `mtu` is what pods
    get now if not told, `pools` and `pod_cidrs` (the node's own) what the API last told."""

    config: AgentConfig
    records: Attachments
    sockets: Sockets
    admission: Admission
    reaper: Reaper
    claimer: Claimer
    readiness: Readiness
    boot: Callable[[], str]
    mtu: Callable[[], int]
    pods: Pods
    extras: Extras
    pools: Callable[[], Sequence[IPPool]]
    pod_cidrs: Callable[[], tuple[str, ...]]
    guard: Guard
    files: Files
    gate: PolicyGate


def build(parts: Parts) -> dict[str, Role]:
    """The roles by the names that `roles.pick` gives."""
    config = parts.config
    return {
        ROUTED: Routed(
            config.node_name,
            parts.mtu,
            parts.pods,
            parts.records,
            parts.sockets,
            parts.admission,
            parts.reaper,
            parts.claimer,
            parts.readiness,
            parts.boot,
            parts.extras,
            parts.gate,
            Features(config.floating_ips, config.source_prefixes),
            parts.files if config.ipam != HOST_LOCAL else None,
        ),
        PORTMAP: PortMap(parts.records, parts.sockets, parts.extras, parts.boot),
        BANDWIDTH: Limiter(parts.records, parts.sockets, parts.extras, parts.boot),
        IPAM: Addresses(
            config.node_name,
            parts.pods,
            parts.records,
            parts.sockets,
            parts.reaper,
            parts.claimer,
            parts.readiness,
            parts.boot,
            parts.pools,
            parts.pod_cidrs,
        ),
        BRIDGE: Bridge(
            config.node_name,
            parts.mtu,
            parts.pods,
            parts.records,
            parts.sockets,
            parts.guard,
            parts.reaper,
            parts.claimer,
            parts.files,
            parts.extras,
            parts.gate,
            parts.boot,
            Features(config.floating_ips, config.source_prefixes),
        ),
        CHAINED: Chained(
            parts.records,
            parts.sockets,
            parts.admission,
            parts.guard,
            parts.reaper,
            parts.extras,
            parts.gate,
            parts.boot,
        ),
        "host-local": HostLocalRole(parts.files),
        "loopback": LoopbackRole(),
    }
