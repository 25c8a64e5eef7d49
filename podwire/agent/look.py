"""A look at this node from outside of the agent, as `podwire node` and `podwire ipam check` take it: what is on record,
what the kernel holds, and where they differ. Nothing is changed, and the agent need not run.
"""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from socket import AF_INET, AF_INET6, inet_ntop
from typing import Any

import msgspec

from podwire.agent import attachments, bridgewire, wiring
from podwire.agent.admission import ENDPOINTS, Admission, speaker_of
from podwire.agent.attachments import BRIDGE, CHAINED, READY, ROUTED, Attachment
from podwire.agent.config import AgentConfig
from podwire.agent.extras import Extras
from podwire.agent.floating import FloatingAddresses
from podwire.agent.guard import Guard, endpoint_of
from podwire.agent.hostports import HostPorts
from podwire.agent.wiring import Sockets
from podwire.cni.plan import PREFIX, Wiring
from podwire.ipam import hostlocal
from podwire.ipam.hostranges import HostLocalError
from podwire.kernel import netns, nfstructure, nft
from podwire.kernel.links import Link, RouteSocket
from podwire.kernel.netlink import KernelError
from podwire.kernel.routes import TYPE_UNICAST
from podwire.model.seen import UNCOMPARED, NodeSeen, SeenAttachment, SeenFile, SeenRoute
from podwire.render import nft_policy
from podwire.render.nft_floating import pairs

HOST_LOCAL = "/var/lib/cni/networks"
TUNNEL = "vxlan.calico"
_NAMED = ("/run/netns", "/var/run/netns", "/run/docker/netns")


def look(config: AgentConfig, directories: Iterable[str] = ()) -> NodeSeen:
    """Everything about this node's pods, of the calling thread's namespaces. `directories` are host-local's, beside
    the usual one and those that the CNI configurations name. What cannot be looked at is told, not raised."""
    blind: list[str] = []
    sockets = Sockets()
    links = _try(blind, "links", lambda: sockets.route().links(), [])
    ends = {link.index: link for link in links if _host_end(link)}
    admitted = _try(blind, "table inet podwire", lambda: _admitted(sockets), set())
    records = [record for _, record in sorted(_records(config.attachments, blind))]
    folders = dict.fromkeys([HOST_LOCAL, *_data_dirs(config.conf_dir), *directories])
    return NodeSeen(
        node=config.node_name,
        agent=(agent := _agent(config.health_port)),
        policy=_policy(agent, config.health_port, sockets, blind),
        config=_first_config(config.conf_dir),
        spooled=len(list(config.spool.glob("[!.]*"))),
        tunnel=_try(blind, "tunnel", lambda: _tunnel(sockets.route(), links), ""),
        attachments=tuple(_seen(record, sockets) for record in records),
        links={link.name: link.up for link in ends.values()},
        routes=tuple(_try(blind, "routes", lambda: list(_routes(sockets.route(), ends)), [])),
        admitted=tuple(sorted(admitted)),
        present=tuple(sorted(_try(blind, "network namespaces", _present, set()))),
        files=tuple(seen for folder in folders for seen in files(folder, blind)),
        blind=tuple(blind),
    )


def _try(blind: list[str], what: str, work: Callable[[], Any], otherwise: Any) -> Any:
    try:
        return work()
    except (KernelError, OSError) as error:
        blind.append(f"{what}: {error}")
        return otherwise


def _host_end(link: Link) -> bool:
    return link.kind == "veth" and link.name.startswith(PREFIX)


def _routes(socket: RouteSocket, ends: dict[int, Link]) -> Iterator[SeenRoute]:
    """Routes to single addresses by host ends."""
    for family, whole in ((AF_INET, "/32"), (AF_INET6, "/128")):
        for route in socket.routes(family):
            if route.index in ends and route.type == TYPE_UNICAST and route.destination.endswith(whole):
                yield SeenRoute(route.destination.removesuffix(whole), ends[route.index].name)


def _admitted(sockets: Sockets) -> set[tuple[str, str]]:
    """(interface, address) as the table's sets have them: 16 bytes of name, then the address. Raises KernelError."""
    keys = ((family, key) for family, target in ENDPOINTS.items() for key in sockets.elements().read(target))
    sizes = {4: (AF_INET, 20), 6: (AF_INET6, 32)}
    found = set()
    for family, key in keys:
        kind, end = sizes[family]
        found.add((key[:16].rstrip(b"\0").decode(), inet_ntop(kind, key[16:end])))
    return found


def _tunnel(socket: RouteSocket, links: list[Link]) -> str:
    index = next((link.index for link in links if link.name == TUNNEL), 0)
    found = [address.cidr for address in socket.addresses() if address.index == index] if index else []
    return ",".join(text.partition("/")[0] for text in found if not text.startswith("fe80:"))


# -- records ----------------------------------------------------------------------------------------------------------


def _records(directory: Path, blind: list[str]) -> Iterator[tuple[Any, Attachment]]:
    for path in sorted(directory.glob("*.json")):
        try:
            record = attachments.read(path)
        except FileNotFoundError:
            continue  # a DEL was faster
        except (OSError, msgspec.MsgspecError) as error:
            blind.append(f"{path}: {error}")
            continue
        yield (record.namespace, record.pod, record.key), record


def _seen(record: Attachment, sockets: Sockets) -> SeenAttachment:
    try:
        faults = _faults(record, sockets) if record.state == READY else []
    except (KernelError, OSError) as error:
        faults = [f"{UNCOMPARED}: {error}"]
    return SeenAttachment(
        container_id=record.container_id,
        interface=record.interface,
        role=record.role,
        state=record.state,
        host_name=record.host_name,
        handle=record.handle,
        namespace=record.namespace,
        pod=record.pod,
        addresses=record.addresses,
        ports=tuple(_port(port) for port in record.ports),
        limits=_limits(record),
        floating=tuple(f"{outer}->{inner}" for outer, inner in pairs(record.floating, record.addresses)),
        faults=tuple(faults),
    )


def _faults(record: Attachment, sockets: Sockets) -> list[str]:
    """What differs in the kernel. Raises KernelError."""
    faults = _extra_faults(record, sockets)
    if record.role in (BRIDGE, CHAINED):
        missing = Guard(nft, sockets.elements).missing(endpoint_of(record))
        faults += [f"{record.host_name} is not admitted in {name}" for name in missing]
    if record.role == CHAINED:
        return faults + _end_faults(record, sockets)
    if record.role not in (ROUTED, BRIDGE):
        return faults
    if record.role == ROUTED:
        planned = Wiring(record.host_name, record.interface, record.pod_mac, record.mtu, record.addresses)
        faults += wiring.host_faults(sockets.route(), planned)
        faults += Admission(nft, sockets.elements).missing(speaker_of(record))
    try:
        inner = netns.open_path(record.netns)
    except KernelError:
        return [*faults, f"network namespace {record.netns} is gone"]
    try:
        if record.role == ROUTED:
            return faults + wiring.pod_faults(planned, inner)
        shape, ends = bridgewire.shape_of(record), bridgewire.ends(sockets.route(), record)
        return faults + bridgewire.faults(sockets.route(), shape, ends, inner)
    finally:
        os.close(inner)


def _end_faults(record: Attachment, sockets: Sockets) -> list[str]:
    """Of a host end that is not routed to."""
    link = sockets.route().link(record.host_name) if record.host_name else None
    if link is None:
        return [f"host interface {record.host_name} is missing"] if record.host_name else []
    return [] if link.up else [f"host interface {record.host_name} is down"]


def _extra_faults(record: Attachment, sockets: Sockets) -> list[str]:
    """Of host ports, floating addresses and bandwidth limits. What is held in memory is the agent's affair: this
    process has nothing."""
    if not record.ports and not record.floating and record.limits is None:
        return []
    floating = FloatingAddresses(nft, sockets)
    found = Extras(HostPorts(nft, sockets), floating, sockets, lambda: None).faults(record)
    return [fault for fault in found if not fault.startswith("no host ports are held")]


def _port(port: Any) -> str:
    host = f"[{port.host_ip}]" if ":" in port.host_ip else port.host_ip
    return f"{host}{':' if host else ''}{port.host_port}->{port.container_port}/{port.protocol}"


def _limits(record: Attachment) -> str:
    """Rates as `in 10M, out 5M` (bits per second)."""
    limits = record.limits
    if limits is None:
        return ""
    rates = (("in", limits.ingress_rate), ("out", limits.egress_rate))
    return ", ".join(f"{name} {_short(rate)}" for name, rate in rates if rate)


def _short(rate: int) -> str:
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if rate >= size:
            return f"{rate / size:g}{letter}"
    return str(rate)


# -- namespaces -------------------------------------------------------------------------------------------------------


def _present() -> set[str]:
    """Addresses of every network namespace of this node but its own: those that have a name, and those of processes.
    Raises KernelError."""
    own = netns.open_own()
    try:
        done = {netns.identity(own)}
    finally:
        os.close(own)
    found: set[str] = set()
    for path in _namespaces():
        with suppress(KernelError, OSError):  # it ended, or is no namespace
            space = netns.open_path(path)
            try:
                if (identity := netns.identity(space)) not in done:
                    done.add(identity)
                    found |= _addresses(space)
            finally:
                os.close(space)
    return found


def _namespaces() -> Iterator[str]:
    for folder in _NAMED:
        with suppress(OSError):
            yield from (entry.path for entry in os.scandir(folder))
    with suppress(OSError):
        yield from (f"{entry.path}/ns/net" for entry in os.scandir("/proc") if entry.name.isdigit())


def _addresses(space: int) -> set[str]:
    with netns.inside(space):
        inner = RouteSocket()
    with inner:
        return {address.cidr.partition("/")[0] for address in inner.addresses()}


# -- files and daemons ------------------------------------------------------------------------------------------------


def files(directory: str, blind: list[str]) -> Iterator[SeenFile]:
    """What host-local's directory holds, of every network in it."""
    for network in hostlocal.stores(directory):
        try:
            held = hostlocal.Store(directory, network).reservations()
        except (HostLocalError, OSError) as error:
            blind.append(f"{directory}/{network}: {error}")
            continue
        for one in held:
            yield SeenFile(directory, network, one.address, one.owner[0], one.owner[1], one.since)


def _configs(directory: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """CNI configurations as runtimes read them, in their order."""
    names = (path for ending in ("conf", "conflist", "json") for path in directory.glob(f"*.{ending}"))
    for path in sorted(names):
        with suppress(OSError, ValueError):
            decoded = json.loads(path.read_bytes())
            if isinstance(decoded, dict):
                yield path, decoded


def _first_config(directory: Path) -> str:
    return next((path.name for path, _ in _configs(directory)), "")


def _data_dirs(directory: Path) -> Iterator[str]:
    """The directories that configurations name for host-local."""
    for _, config in _configs(directory):
        plugins = config.get("plugins") or [config]
        for plugin in plugins if isinstance(plugins, list) else []:
            ipam = plugin.get("ipam") if isinstance(plugin, dict) else None
            if isinstance(ipam, dict) and ipam.get("type") == "host-local" and isinstance(ipam.get("dataDir"), str):
                yield ipam["dataDir"]


def _policy(agent: str, port: int, sockets: Sockets, blind: list[str]) -> str:
    """Whether network policy is in force, as `NodeSeen.policy` says it: by the agent, or else by the kernel."""
    if agent == "not running":
        there = _try(
            blind, nft_policy.TABLE, lambda: nfstructure.read(sockets.elements(), *nft_policy.TABLE.split()), None
        )
        if there is not None and there.chains:
            return "stale: the agent is not running: what it last enforced stays, and nothing new is"
        return "off: the agent is not running, and it left no ruleset"
    reasons = [part for part in agent.removeprefix("not ready: ").split("; ") if part.startswith("policy: ")]
    if reasons:
        return f"stale: {reasons[0].removeprefix('policy: ')}"
    _, text = _ask(port, "/metrics")
    return "off: policy.enforce = off" if "\npodwire_policy_enforced 0\n" in text else "enforced"


def _agent(port: int) -> str:
    status, text = _ask(port, "/readyz")
    if not status:
        return "not running"
    return "ready" if status == 200 else f"not ready: {'; '.join(text.strip().splitlines())}"


def _ask(port: int, path: str) -> tuple[int, str]:
    """What the agent answers; status 0: nobody does."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()
