"""What a lab consists of, as plain values: nodes, addresses, subnets; and the checks that a plan must pass.

Pure: text and numbers in, a `LabPlan` out. Reading kind's and containerlab's files is `kindfile`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

UNDERLAY = IPv4Network("172.18.0.0/16")
UNDERLAY6 = "fc00:f853:ccd:e793::"
GATEWAY = "172.18.0.1"
OUTSIDE = IPv4Network("203.0.113.0/24")
OUTSIDE_ADDRESS = "203.0.113.10"

DEFAULT_NAME = "lab"
DEFAULT_POD_SUBNET = "10.244.0.0/16"
DEFAULT_POD_SUBNET6 = "fd00:10:244::/56"
SERVICE_SUBNET6 = "fd00:10:96::/112"
NODE_MASK6 = 64  # as kube-controller-manager has it
DEFAULT_SERVICE_SUBNET = "10.96.0.0/12"
DEFAULT_NODE_MASK = 24
DEFAULT_MAX_PODS = 110
MAX_NODES = 100

ROUTED, KUBENET, NO_NETWORK = "routed", "kubenet", "none"
NETWORKS = (ROUTED, KUBENET, NO_NETWORK)
BLOCKS, HOST_LOCAL = "blocks", "host-local"
IPAMS = (BLOCKS, HOST_LOCAL)
KUBE_PROXY, NO_SERVICES = "kube-proxy", "none"
SERVICES = (KUBE_PROXY, NO_SERVICES)
POLICY_ON, POLICY_OFF = "on", "off"
POLICIES = (POLICY_ON, POLICY_OFF)

CONTROL_PLANE = "control-plane"
WORKER = "worker"
CONTROL_PLANE_KEY = "node-role.kubernetes.io/control-plane"

_NAME = re.compile(r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")


class PlanError(ValueError):
    """A lab that cannot be built as asked; the text names the key (and the line, where there is one)."""


@dataclass(frozen=True, slots=True)
class PortMapping:
    """A port of the host that leads to a port of a node."""

    node_port: int
    host_port: int
    address: str = "127.0.0.1"
    protocol: str = "TCP"


@dataclass(frozen=True, slots=True)
class HostMount:
    """A host file or directory shown inside a node."""

    host_path: str
    node_path: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node as asked for: what a kind file says of it, before names and addresses are given out."""

    role: str
    labels: tuple[tuple[str, str], ...] = ()
    max_pods: int = 0
    ports: tuple[PortMapping, ...] = ()
    mounts: tuple[HostMount, ...] = ()


@dataclass(frozen=True, slots=True)
class LabSpec:
    """A lab as asked for. Empty or zero values stand for the defaults."""

    name: str = ""
    nodes: tuple[NodeSpec, ...] = ()
    pod_subnet: str = ""
    dual: bool = False
    pools: str = ""
    service_subnet: str = ""
    node_mask: int = 0
    max_pods: int = 0
    network: str = ""
    ipam: str = ""
    programs: str = ""
    services: str = ""
    policy: str = ""
    places: tuple[tuple[str, str], ...] = field(default=(), compare=False)
    """Where (file:line) the keys stand that only the whole can show to be wrong."""


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One node of a plan: its name, place in the underlay, and what its kubelet registers."""

    name: str
    role: str
    address: str
    address6: str
    labels: tuple[tuple[str, str], ...] = ()
    tainted: bool = False
    max_pods: int = DEFAULT_MAX_PODS
    ports: tuple[PortMapping, ...] = ()
    mounts: tuple[HostMount, ...] = ()


@dataclass(frozen=True, slots=True)
class LabPlan:
    """A lab to build: every name and address decided.

    `network`: "routed" is Podwire's own with VXLAN between nodes; "kubenet" a bridge on each node, and a router outside
    of the nodes that knows which podCIDR is whose; "none" leaves the nodes waiting for somebody's CNI plugin.
    `ipam`: addresses from blocks on the API, or from each node's podCIDR by files on the node. `pod_subnet6` is ""
    unless pods have both families. `pools`: the IPPools as a JSON list; empty for one of each family's subnet.
    `programs`: the folder of genuine Kubernetes' programs; empty for the control plane and kubelets of our own.
    `services`: who makes Services of a genuine cluster work: kube-proxy, or nobody. `policy`: whether agents enforce
    network policy (on, off), if the node's agent.toml does not say otherwise.
    """

    name: str
    nodes: tuple[NodePlan, ...]
    pod_subnet: str = DEFAULT_POD_SUBNET
    pod_subnet6: str = ""
    service_subnet: str = DEFAULT_SERVICE_SUBNET
    node_mask: int = DEFAULT_NODE_MASK
    network: str = ROUTED
    ipam: str = BLOCKS
    pools: str = ""
    programs: str = ""
    services: str = ""
    policy: str = POLICY_ON
    cluster_dns: str = field(default="10.96.0.10")
    api_service: str = field(default="10.96.0.1")

    @property
    def default_cni(self) -> bool:
        """Whether nodes come with a pod network."""
        return self.network != NO_NETWORK

    @property
    def genuine(self) -> bool:
        """Whether it is genuine Kubernetes that runs on the nodes."""
        return bool(self.programs)

    @property
    def control_plane(self) -> NodePlan:
        """The node that carries the control plane."""
        return self.nodes[0]

    def node(self, name: str) -> NodePlan | None:
        """The node of that name, if this lab has it."""
        return next((node for node in self.nodes if node.name == name), None)


def default_nodes(count: int) -> tuple[NodeSpec, ...]:
    """One control plane and `count` - 1 workers."""
    if not 1 <= count <= MAX_NODES:
        raise PlanError(f"--nodes: {count} is not between 1 and {MAX_NODES}")
    return (NodeSpec(CONTROL_PLANE), *(NodeSpec(WORKER) for _ in range(count - 1)))


def check_name(name: str) -> None:
    """Raise PlanError unless `name` can begin a node's (host) name."""
    if not _NAME.match(name) or len(name) > 40:
        raise PlanError(
            f"name: {name!r} cannot name a lab: lower-case letters, digits, '-' and '.', at most 40, "
            "beginning and ending with a letter or digit"
        )


def build(spec: LabSpec) -> LabPlan:
    """Give names and addresses to what was asked for. Raises PlanError."""
    name = spec.name or DEFAULT_NAME
    check_name(name)
    specs = _ordered(spec.nodes or default_nodes(3))
    pod_subnet, _, pod_subnet6 = (spec.pod_subnet or DEFAULT_POD_SUBNET).partition(",")
    if spec.dual and not pod_subnet6:
        pod_subnet6 = DEFAULT_POD_SUBNET6
    service_subnet = spec.service_subnet or DEFAULT_SERVICE_SUBNET
    node_mask = spec.node_mask or _default_mask(pod_subnet)
    try:
        check_subnets(pod_subnet, service_subnet, node_mask, len(specs))
        if pod_subnet6:
            check_subnet6(pod_subnet6, len(specs))
    except PlanError as error:
        place = dict(spec.places).get(str(error).partition(":")[0])
        raise PlanError(f"{place}: {error}" if place else str(error)) from None
    services = ip_network(service_subnet)
    network = spec.network or ROUTED
    ipam = spec.ipam or (HOST_LOCAL if network == KUBENET else BLOCKS)
    check_network(network, ipam)
    if pod_subnet6 and (network == KUBENET or ipam == HOST_LOCAL):
        raise PlanError("networking.ipFamily: dual needs the routed network with addresses from blocks")
    if spec.pools and (network == KUBENET or ipam == HOST_LOCAL or spec.programs):
        raise PlanError(
            "Installation: its pools need the routed network with addresses from blocks, and the lab's own API"
        )
    services_by = _services(spec)
    default_max = spec.max_pods or DEFAULT_MAX_PODS
    nodes = tuple(_place(name, index, node, specs, default_max) for index, node in enumerate(specs))
    _check_ports(nodes)
    return LabPlan(
        name=name,
        nodes=nodes,
        pod_subnet=pod_subnet,
        pod_subnet6=pod_subnet6,
        service_subnet=service_subnet,
        node_mask=node_mask,
        network=network,
        ipam=ipam,
        pools=spec.pools,
        programs=spec.programs,
        services=services_by,
        policy=_policy(spec),
        cluster_dns=str(services[10]),
        api_service=str(services[1]),
    )


def _ordered(specs: tuple[NodeSpec, ...]) -> tuple[NodeSpec, ...]:
    planes = tuple(node for node in specs if node.role == CONTROL_PLANE)
    workers = tuple(node for node in specs if node.role == WORKER)
    if len(planes) != 1:
        raise PlanError(f"nodes: {len(planes)} nodes have role control-plane; a lab has exactly one")
    if len(specs) > MAX_NODES:
        raise PlanError(f"nodes: {len(specs)} nodes are more than the {MAX_NODES} a lab can hold")
    return planes + workers


def _place(lab: str, index: int, spec: NodeSpec, all_specs: tuple[NodeSpec, ...], default_max: int) -> NodePlan:
    suffix = CONTROL_PLANE if index == 0 else WORKER + ("" if index == 1 else str(index))
    return NodePlan(
        name=f"{lab}-{suffix}",
        role=spec.role,
        address=str(UNDERLAY[2 + index]),
        address6=f"{UNDERLAY6}{2 + index:x}",
        labels=spec.labels,
        tainted=index == 0 and len(all_specs) > 1,
        max_pods=spec.max_pods or default_max,
        ports=spec.ports,
        mounts=spec.mounts,
    )


def check_network(network: str, ipam: str) -> None:
    """Raise PlanError for names that mean nothing, and for what does not go together."""
    if network not in NETWORKS:
        raise PlanError(f"--network: {network!r} is none of {', '.join(NETWORKS)}")
    if ipam not in IPAMS:
        raise PlanError(f"--ipam: {ipam!r} is none of {', '.join(IPAMS)}")
    if network == KUBENET and ipam != HOST_LOCAL:
        raise PlanError(
            "--ipam: kubenet gives out the addresses of each node's own podCIDR, which is what host-local does; "
            "leave --ipam out, or take --network routed"
        )


def _policy(spec: LabSpec) -> str:
    if spec.policy and spec.programs and spec.network == NO_NETWORK:
        raise PlanError(
            "--policy: with --network none the lab has no agent; `podwire install --set policy-enforce=off` says it"
        )
    if spec.policy and spec.policy not in POLICIES:
        raise PlanError(f"--policy: {spec.policy!r} is none of {', '.join(POLICIES)}")
    return spec.policy or POLICY_ON


def _services(spec: LabSpec) -> str:
    if not spec.programs:
        if spec.services:
            raise PlanError("--services: only a lab with --kubernetes has a choice of who makes Services work")
        return ""
    if spec.services and spec.services not in SERVICES:
        raise PlanError(f"--services: {spec.services!r} is none of {', '.join(SERVICES)}")
    return spec.services or KUBE_PROXY


def _default_mask(pod_subnet: str) -> int:
    """/24 as Kubernetes has it; in a subnet too small for that, room for 16 nodes."""
    try:
        prefix = ip_network(pod_subnet).prefixlen
    except ValueError:
        return DEFAULT_NODE_MASK
    return DEFAULT_NODE_MASK if prefix <= 20 else min(prefix + 4, 30)


def check_subnets(pod_subnet: str, service_subnet: str, node_mask: int, node_count: int) -> None:
    """Raise PlanError for subnets that are malformed, overlap, or are too small for the nodes."""
    pods = _network("networking.podSubnet", pod_subnet)
    services = _network("networking.serviceSubnet", service_subnet)
    used = (
        ("networking.podSubnet", pods),
        ("networking.serviceSubnet", services),
        ("the node network", UNDERLAY),
        ("the outside network", OUTSIDE),
    )
    for index, (left, one) in enumerate(used):
        for right, other in used[index + 1 :]:
            if one.overlaps(other):
                raise PlanError(f"{left}: {one} overlaps {right} {other}")
    if pods.prefixlen > 29:
        raise PlanError(f"networking.podSubnet: {pods} is too small to give every node a subnet")
    if services.prefixlen > 28:
        raise PlanError(f"networking.serviceSubnet: {services} is too small: it must hold the cluster DNS address .10")
    if not pods.prefixlen <= node_mask <= 30:
        raise PlanError(f"node-cidr-mask-size: {node_mask} is not between podSubnet's /{pods.prefixlen} and /30")
    if 2 ** (node_mask - pods.prefixlen) < node_count:
        raise PlanError(
            f"networking.podSubnet: {pods} is too small: {node_count} nodes with a /{node_mask} each do not fit"
        )


def check_subnet6(pod_subnet6: str, node_count: int) -> None:
    """Raise PlanError for a subnet of the second family that is malformed or has no /64 for every node."""
    pods = _subnet("networking.podSubnet", pod_subnet6)
    if not isinstance(pods, IPv6Network):
        raise PlanError(f"networking.podSubnet: {pod_subnet6}: the second one must be IPv6")
    if pods.overlaps(IPv6Network(SERVICE_SUBNET6)):
        raise PlanError(f"networking.podSubnet: {pods} overlaps the IPv6 addresses of Services {SERVICE_SUBNET6}")
    if not NODE_MASK6 - 16 <= pods.prefixlen <= NODE_MASK6 or 2 ** (NODE_MASK6 - pods.prefixlen) < node_count:
        raise PlanError(f"networking.podSubnet: {pods}: give between /48 and /64, with a /64 for each of the nodes")


def _network(key: str, text: str) -> IPv4Network:
    network = _subnet(key, text)
    if not isinstance(network, IPv4Network):
        raise PlanError(f"{key}: {text}: only ipv4 works so far")
    return network


def _subnet(key: str, text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise PlanError(f"{key}: {text!r} is not a subnet in CIDR form ({error})") from None


def _check_ports(nodes: tuple[NodePlan, ...]) -> None:
    taken: dict[tuple[str, int, str], str] = {}
    for node in nodes:
        for port in node.ports:
            key = (port.address, port.host_port, port.protocol)
            if port.host_port and key in taken:
                raise PlanError(
                    f"extraPortMappings: hostPort {port.host_port}/{port.protocol} of {node.name} "
                    f"is already mapped to {taken[key]}"
                )
            taken[key] = node.name


def to_dict(plan: LabPlan) -> dict[str, Any]:
    """The plan as JSON values."""
    return asdict(plan)


def from_dict(value: Mapping[str, Any]) -> LabPlan:
    """The plan that `to_dict` wrote."""
    nodes = tuple(
        replace(
            NodePlan(**{**node, "labels": (), "ports": (), "mounts": ()}),
            labels=tuple((key, text) for key, text in node["labels"]),
            ports=tuple(PortMapping(**port) for port in node["ports"]),
            mounts=tuple(HostMount(**mount) for mount in node["mounts"]),
        )
        for node in value["nodes"]
    )
    told = dict(value)
    if "default_cni" in told:  # written before labs had a choice of networks
        told["network"] = ROUTED if told.pop("default_cni") else NO_NETWORK
    return LabPlan(**{**told, "nodes": nodes})
