"""Read a kind cluster file (kind.x-k8s.io/v1alpha4), a containerlab topology with a k8s-kind node, or the tigera
operator's custom-resources.yaml, alone or behind a cluster in the same file.

Pure: the text comes in, and for a containerlab file a function that reads the kind file it names. What means
something here becomes a `LabSpec`; a key that means nothing here becomes a warning that names it; a value that
cannot be honoured is a PlanError with line and key.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import yaml

from podwire.lab.located import Located, documents
from podwire.lab.topology import CONTROL_PLANE, NO_NETWORK, WORKER, HostMount, LabSpec, NodeSpec, PortMapping
from podwire.model import installation
from podwire.model.gvr import INSTALLATIONS

KIND_API = "kind.x-k8s.io/v1alpha4"
_ROLES = (CONTROL_PLANE, WORKER)
_PROTOCOLS = ("TCP", "UDP")
_NOTHING = "means nothing in a Podwire lab; ignored"


@dataclass(slots=True)
class Reading:
    """What was read so far: the spec's parts and the warnings."""

    spec: LabSpec = field(default_factory=LabSpec)
    warnings: list[str] = field(default_factory=list)

    def unused(self, place: Located, why: str = _NOTHING) -> None:
        """Warn that this key has no effect."""
        self.warnings.append(f"{place.where()}: {why}")

    def stands(self, place: Located) -> None:
        """Remember where a key stands that is checked together with others."""
        entry = (place.path, f"{place.source}:{place.line}")
        self.spec = replace(self.spec, places=(*self.spec.places, entry))


def read(text: str, source: str, read_file: Callable[[str], str]) -> tuple[LabSpec, list[str]]:
    """Decode `text`; `source` names it in messages, `read_file` opens a file named inside it."""
    found = [doc for doc in documents(text, source) if not doc.is_null()]
    if not found:
        return LabSpec(), [f"{source}: is empty; the defaults are used"]
    labs = [doc for doc in found if not _is_operators(doc)]
    if len(labs) > 1:
        raise labs[1].error("a second document; one file describes one lab")
    reading = Reading()
    for doc in labs:
        if doc.get("topology") is not None:
            _containerlab(doc, reading, read_file)
        else:
            _cluster(doc, reading)
    for doc in found:
        if _is_operators(doc):
            _operators(doc, reading)
    return reading.spec, reading.warnings


def _is_operators(top: Located) -> bool:
    version = top.get("apiVersion") if isinstance(top.node, yaml.MappingNode) else None
    return version is not None and version.text().startswith(f"{installation.GROUP}/")


def _operators(top: Located, reading: Reading) -> None:
    """An Installation's pools take the place of the default one; what else the operator reads has no effect."""
    kind = top.get("kind")
    if kind is None or kind.text() != INSTALLATIONS.kind:
        reading.unused(kind or top, f"{kind.text() if kind else 'a document without kind'}: {_NOTHING}")
        return
    if reading.spec.pools:
        raise top.error("a second Installation; a cluster has one")
    asked = installation.read(top.plain())
    if asked.faults:
        raise top.error(f"Installation: {asked.faults[0]}")
    reading.warnings += [f"{top.source}:{top.line}: Installation: {path}: {_NOTHING}" for path in asked.ignored]
    if not asked.pools:
        return
    four, six = ([p["spec"]["cidr"] for p in asked.pools if (":" in p["spec"]["cidr"]) is v6] for v6 in (False, True))
    if not four:
        raise top.error("Installation: needs a pool of IPv4: nodes speak IPv4, pods have it alone or beside IPv6")
    if reading.spec.dual and not six:
        raise top.error("Installation: networking.ipFamily: dual needs a pool of IPv6, too")
    # the second family first: no pod starts without IPv4, so none starts with IPv4 alone
    pools = sorted(asked.pools, key=lambda pool: ":" not in pool["spec"]["cidr"])
    reading.spec = replace(reading.spec, pools=json.dumps(pools), dual=bool(six))
    if not reading.spec.pod_subnet:
        reading.spec = replace(reading.spec, pod_subnet=",".join([four[0], *six[:1]]))


def _containerlab(top: Located, reading: Reading, read_file: Callable[[str], str]) -> None:
    topology = top.get("topology")
    assert topology is not None
    clusters: list[tuple[str, Located]] = []
    for key, value in top.entries():
        if key not in ("name", "topology"):
            reading.unused(value)
    for key, value in topology.entries():
        if key != "nodes":
            reading.unused(value)
            continue
        for name, node in value.entries():
            kind = node.get("kind")
            if kind is None or kind.text() != "k8s-kind":
                reading.unused(
                    node, f"kind {kind.text() if kind else 'of none'}: only k8s-kind nodes are built; ignored"
                )
            else:
                clusters.append((name, node))
    if len(clusters) != 1:
        raise topology.error(f"has {len(clusters)} nodes of kind k8s-kind; a lab is exactly one")
    name, node = clusters[0]
    _kind_node(node, reading, read_file)
    reading.spec = replace(reading.spec, name=name)


def _kind_node(node: Located, reading: Reading, read_file: Callable[[str], str]) -> None:
    for key, value in node.entries():
        if key == "startup-config":
            try:
                text = read_file(value.text())
            except OSError as error:
                raise value.error(f"{value.text()}: {error.strerror}") from None
            inner = [doc for doc in documents(text, value.text()) if not doc.is_null()]
            if inner:
                _cluster(inner[0], reading)
        elif key == "image":
            reading.unused(value, "node images are not used: nodes run Podwire's own; ignored")
        elif key != "kind":
            reading.unused(value)


def _cluster(top: Located, reading: Reading) -> None:
    kind, version = top.get("kind"), top.get("apiVersion")
    if kind is None or version is None:
        raise top.error(f"needs `kind: Cluster` and `apiVersion: {KIND_API}`")
    if kind.text() != "Cluster":
        raise kind.error(f"must be Cluster, not {kind.text()!r}")
    if version.text() != KIND_API:
        raise version.error(f"must be {KIND_API}, not {version.text()!r}")
    for key, value in top.entries():
        if key == "name":
            reading.spec = replace(reading.spec, name=value.text())
        elif key == "nodes":
            nodes = tuple(_node(item, reading) for item in value.each())
            _check_roles(value, nodes)
            _check_host_ports(value, nodes)
            reading.spec = replace(reading.spec, nodes=nodes)
        elif key == "networking":
            _networking(value, reading)
        elif key == "kubeadmConfigPatches":
            _kubeadm(value, reading)
        elif key not in ("kind", "apiVersion"):
            reading.unused(value)


def _check_roles(place: Located, nodes: tuple[NodeSpec, ...]) -> None:
    planes = sum(node.role == CONTROL_PLANE for node in nodes)
    if planes > 1:
        raise place.error(f"{planes} nodes have role control-plane; more than one control plane does not work yet")
    if planes == 0 and nodes:
        raise place.error("no node has role control-plane")


def _check_host_ports(place: Located, nodes: tuple[NodeSpec, ...]) -> None:
    """Raise PlanError, with its place, for a port of the host that two mappings claim."""
    first: dict[tuple[str, int, str], Located] = {}
    for item, node in zip(place.each(), nodes, strict=True):
        found = item.get("extraPortMappings")
        for where, port in zip(found.each() if found else (), node.ports, strict=True):
            key = (port.address, port.host_port, port.protocol)
            if port.host_port and key in first:
                there = first[key]
                raise where.error(f"hostPort {port.host_port}/{port.protocol} is already mapped in line {there.line}")
            first.setdefault(key, where)


def _node(place: Located, reading: Reading) -> NodeSpec:
    spec = NodeSpec(CONTROL_PLANE)
    for key, value in place.entries():
        if key == "role":
            if value.text() not in _ROLES:
                raise value.error(f"must be {' or '.join(_ROLES)}, not {value.text()!r}")
            spec = replace(spec, role=value.text())
        elif key == "labels":
            spec = replace(spec, labels=spec.labels + tuple((name, text.text()) for name, text in value.entries()))
        elif key == "extraPortMappings":
            spec = replace(spec, ports=tuple(_port(item, reading) for item in value.each()))
        elif key == "extraMounts":
            spec = replace(spec, mounts=tuple(_mount(item, reading) for item in value.each()))
        elif key == "kubeadmConfigPatches":
            spec = _node_patches(value, spec, reading)
        elif key == "image":
            reading.unused(value, "node images are not used: nodes run Podwire's own; ignored")
        else:
            reading.unused(value)
    return spec


def _port(place: Located, reading: Reading) -> PortMapping:
    mapping = PortMapping(node_port=0, host_port=0)
    for key, value in place.entries():
        if key == "containerPort":
            mapping = replace(mapping, node_port=_port_number(value))
        elif key == "hostPort":
            mapping = replace(mapping, host_port=_port_number(value))
        elif key == "listenAddress":
            mapping = replace(mapping, address=value.text())
        elif key == "protocol":
            if value.text().upper() not in _PROTOCOLS:
                raise value.error(f"must be TCP or UDP, not {value.text()!r}")
            mapping = replace(mapping, protocol=value.text().upper())
        else:
            reading.unused(value)
    if not mapping.node_port:
        raise place.error("needs containerPort")
    return mapping


def _port_number(value: Located) -> int:
    number = value.number()
    if not 0 < number < 65536:
        raise value.error(f"{number} is not a port number")
    return number


def _mount(place: Located, reading: Reading) -> HostMount:
    mount = HostMount("", "")
    for key, value in place.entries():
        if key == "hostPath":
            mount = replace(mount, host_path=value.text())
        elif key == "containerPath":
            mount = replace(mount, node_path=value.text())
        elif key == "readOnly":
            mount = replace(mount, read_only=value.truth())
        else:
            reading.unused(value)
    if not mount.host_path:
        raise place.error("needs hostPath")
    if not mount.node_path.startswith("/"):
        raise place.error("needs containerPath, an absolute path")
    if ".." in mount.node_path.split("/"):
        raise place.error(f"containerPath {mount.node_path!r} must not contain '..'")
    return mount


def _networking(place: Located, reading: Reading) -> None:
    for key, value in place.entries():
        if key == "podSubnet":
            reading.spec = replace(reading.spec, pod_subnet=value.text())
            reading.stands(value)
        elif key == "serviceSubnet":
            reading.spec = replace(reading.spec, service_subnet=value.text())
            reading.stands(value)
        elif key == "disableDefaultCNI":
            reading.spec = replace(reading.spec, network=NO_NETWORK if value.truth() else "")
        elif key == "ipFamily":
            if value.text() not in ("ipv4", "ipv6", "dual"):
                raise value.error(f"must be ipv4, ipv6 or dual, not {value.text()!r}")
            if value.text() == "ipv6":
                raise value.error("ipv6 alone does not work: nodes speak IPv4; ipv4 and dual do")
            reading.spec = replace(reading.spec, dual=value.text() == "dual")
        else:
            reading.unused(value)


def _kubeadm(place: Located, reading: Reading) -> None:
    for patch in _patches(place, reading):
        for key, value in _settings(patch, reading):
            number = value.number()
            if key == "node-cidr-mask-size":
                reading.spec = replace(reading.spec, node_mask=number)
            elif key == "max-pods":
                reading.spec = replace(reading.spec, max_pods=number)


def _node_patches(place: Located, spec: NodeSpec, reading: Reading) -> NodeSpec:
    for patch in _patches(place, reading):
        for key, value in _settings(patch, reading):
            if key == "max-pods":
                spec = replace(spec, max_pods=value.number())
            elif key == "node-labels":
                pairs = (part.partition("=") for part in value.text().split(",") if part)
                spec = replace(spec, labels=spec.labels + tuple((name, text) for name, _, text in pairs))
            elif key == "node-cidr-mask-size":  # the cluster's, wherever it is said, as with kind
                reading.spec = replace(reading.spec, node_mask=value.number())
    return spec


def _patches(place: Located, reading: Reading) -> list[Located]:
    """The documents inside the block strings of kubeadmConfigPatches, with their lines in the outer file."""
    found: list[Located] = []
    for item in place.each():
        block = isinstance(item.node, yaml.ScalarNode) and item.node.style in ("|", ">")
        first = item.line + (1 if block else 0)
        for doc in documents(item.text(), item.source, first):
            found.append(replace(doc, path=item.path))
    return found


def _settings(patch: Located, reading: Reading) -> list[tuple[str, Located]]:
    """The flags a kubeadm patch sets that mean something here; warnings for the rest."""
    kind = patch.get("kind")
    known: list[tuple[str, Located]] = []
    for key, value in patch.entries():
        if key in ("kind", "apiVersion", "metadata"):
            continue
        if key == "maxPods":
            known.append(("max-pods", value))
        elif key == "controllerManager" and value.get("extraArgs") is not None:
            known += _arguments(value, "extraArgs", {"node-cidr-mask-size"}, reading)
        elif key == "nodeRegistration" and value.get("kubeletExtraArgs") is not None:
            known += _arguments(value, "kubeletExtraArgs", {"max-pods", "node-labels"}, reading)
        else:
            reading.unused(value, f"of {kind.text() if kind else 'a patch'} means nothing in a Podwire lab; ignored")
    return known


def _arguments(place: Located, key: str, known: set[str], reading: Reading) -> list[tuple[str, Located]]:
    """Arguments as a mapping (kubeadm v1beta3) or as a list of name and value (v1beta4)."""
    arguments = place.get(key)
    assert arguments is not None
    pairs: list[tuple[str, Located]] = []
    if isinstance(arguments.node, yaml.SequenceNode):
        for item in arguments.each():
            name, value = item.get("name"), item.get("value")
            if name is None or value is None:
                raise item.error("needs name and value")
            pairs.append((name.text(), value))
    else:
        pairs = list(arguments.entries())
    for argument, place_of in pairs:
        if argument not in known:
            reading.unused(place_of)
    return [pair for pair in pairs if pair[0] in known]
