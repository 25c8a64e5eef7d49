"""May FROM reach TO? What these words mean in a scene, and the oracle's answer for each pair of ends. Pure.

FROM and TO are `ns/pod`, `svc/ns/name`, `node/name`, an address, or a Service's DNS name. A Service stands for its
backends: policies see a connection after its address was translated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from podwire.calc.oracle import End, Flow, Judgement, Side, World, judge
from podwire.model.address import AddressError, format_ip, parse_ip
from podwire.model.api import Object
from podwire.observe.manifests import Manifest
from podwire.observe.policyscene import Endpoint, Scene, namespace_of, title

PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132, "ICMP": 1, "ICMPV6": 58}
NAMES = {6: "TCP", 17: "UDP", 132: "SCTP", 1: "ICMP", 58: "ICMPv6"}
PORTED = ("TCP", "UDP", "SCTP")
ECHO = {"ICMP": 8, "ICMPV6": 128}
_TARGET = re.compile(
    r"^(?P<to>\[[^\]]*\]|[^\[\]]*?)(?::(?P<port>[^:/\[\]]+))?(?:/(?P<protocol>[A-Za-z][A-Za-z0-9]*))?$"
)
_DNS = re.compile(r"^([a-z0-9-]+)(?:\.([a-z0-9-]+)(?:\.svc(?:\.[a-z0-9.-]+?)?)?)?\.?$")


class QuestionError(ValueError):
    """The question cannot be understood, or speaks of what is not there; the message says the way out."""


@dataclass(frozen=True, slots=True)
class Target:
    """`TO:PORT/PROTO`, taken apart; `port` is a number, a name, or '' (ICMP)."""

    to: str
    port: str
    protocol: str


@dataclass(frozen=True, slots=True)
class Place:
    """One end: `name` as people say it. `ports` are the pod's."""

    name: str
    end: End
    pod: Endpoint | None = None


@dataclass(frozen=True, slots=True)
class Passed:
    """What one tier said on the way: `rule` is '' for what it does at its end."""

    tier: str
    policy: str
    rule: str
    action: str


@dataclass(frozen=True, slots=True)
class Said:
    """One direction: `rule` of `policy` decided (both '' if none did). `where` is the rule's file and line."""

    allowed: bool
    policy: str
    rule: str
    reason: str
    where: str = ""
    tiers: tuple[Passed, ...] = ()
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """One connection. `names` of Services by which it was asked for are in `by`."""

    source: str
    destination: str
    source_address: str
    destination_address: str
    protocol: str
    port: int
    allowed: bool
    egress: Said
    ingress: Said
    by: str = ""


@dataclass(frozen=True)
class Asked:
    """The scene with its world, ready to be asked."""

    scene: Scene
    world: World
    manifests: dict[str, Manifest] = field(default_factory=dict)

    @staticmethod
    def of(scene: Scene) -> Asked:
        return Asked(scene, World.of(scene.objects), {title(one.object): one for one in scene.manifests})


def parse_target(text: str) -> Target:
    """Raises QuestionError."""
    found = _TARGET.match(text)
    protocol = (found["protocol"] or "").upper() if found else ""
    if found and protocol and protocol not in PROTOCOLS and not found["port"]:
        found = re.match(r"^(?P<to>.*)(?P<port>)(?P<protocol>)$", text)  # ns/pod without a port
        protocol = ""
    if not found or not found["to"]:
        raise QuestionError(f"{text!r}: write TO:PORT or TO:PORT/PROTOCOL, as default/web:80, [fd00::7]:53/UDP")
    to, port = found["to"].removeprefix("[").removesuffix("]"), found["port"] or ""
    if ":" in to and not text.startswith("["):
        raise QuestionError(f"{text!r}: write TO:PORT, and an address of IPv6 in brackets, as [fd00::7]:80")
    if protocol and protocol not in PROTOCOLS:
        raise QuestionError(f"{text!r}: protocol {found['protocol']!r} is none of {', '.join(NAMES.values())}")
    if not port and protocol not in ECHO:
        raise QuestionError(f"{text!r}: say the port (default/web:80), or ICMP (default/web/ICMP)")
    if port and protocol in ECHO:
        raise QuestionError(f"{text!r}: {protocol} has no ports")
    if port.isdigit() and not 0 < int(port) < 65536:
        raise QuestionError(f"{text!r}: a port is a number from 1 to 65535")
    return Target(to, port, protocol or "TCP")


def ask(asked: Asked, source: str, target: str) -> list[Answer]:
    """The answers, one for each pair of ends and family; those that agree in everything but the address once. Raises
    QuestionError."""
    wanted = parse_target(target)
    sources = places(asked.scene, source)
    home = next((each.pod.namespace for each in sources if each.pod), "default")
    answers = []
    for destination, port, by in receivers(asked.scene, wanted, home):
        for each in sources:
            if each.end.address.count(":") and not destination.end.address.count(":"):
                continue
            if destination.end.address.count(":") and not each.end.address.count(":"):
                continue
            answers.append(answer(asked, each, destination, wanted.protocol, port, by))
    if not answers:
        raise QuestionError(f"{source} and {wanted.to} have no addresses of one family")
    return _distinct(answers)


def _distinct(answers: Iterable[Answer]) -> list[Answer]:
    """One for each pair of names and verdict: two families or replicas' addresses say nothing new."""
    found: dict[Any, Answer] = {}
    for one in answers:
        sides = tuple((side.allowed, side.policy, side.rule) for side in (one.egress, one.ingress))
        found.setdefault((one.source, one.destination, one.protocol, one.port, sides), one)
    return list(found.values())


def answer(asked: Asked, source: Place, destination: Place, protocol: str, port: int, by: str = "") -> Answer:
    """The oracle's verdict, in words."""
    number = PROTOCOLS["ICMPV6" if protocol == "ICMP" and ":" in destination.end.address else protocol]
    flow = Flow(source.end, destination.end, number, port, 0, ECHO.get(NAMES[number].upper(), 0))
    judged = verdict(asked, flow)
    return Answer(
        source=source.name,
        destination=destination.name,
        source_address=source.end.address,
        destination_address=destination.end.address,
        protocol=NAMES[number],
        port=port,
        allowed=judged.allowed,
        egress=said(asked, judged.egress),
        ingress=said(asked, judged.ingress),
        by=by,
    )


def verdict(asked: Asked, flow: Flow) -> Judgement:
    """The oracle's. Raises QuestionError where it comes upon a policy that cannot be read."""
    try:
        return judge(asked.world, flow)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise QuestionError(f"a policy cannot be read ({error}): `podwire policy check` says which") from None


def said(asked: Asked, side: Side) -> Said:
    """One direction of the oracle's verdict, with the line of the rule."""
    manifest = asked.manifests.get(side.policy)
    return Said(
        allowed=side.allowed,
        policy=side.policy,
        rule=side.rule,
        reason=side.reason,
        where=manifest.where(rule_path(manifest.object, side.rule)) if manifest else "",
        tiers=tuple(Passed(step.tier, step.policy, step.rule, step.action) for step in side.trail),
        also=tuple(f"{policy} {rule}" for policy, rule in side.also),
    )


def rule_path(obj: Object, label: str) -> str:
    """The field of the rule that goes by this name or place."""
    if label.startswith(("ingress[", "egress[")):
        return f"spec.{label}"
    spec = obj.get("spec") or {}
    for direction in ("ingress", "egress"):
        for at, rule in enumerate(spec.get(direction) or []):
            if isinstance(rule, dict) and rule.get("name") == label:
                return f"spec.{direction}[{at}]"
    return "spec"


# -- who is meant -----------------------------------------------------------------------------------------------------


def places(scene: Scene, text: str, namespace: str = "default") -> list[Place]:
    """The ends that a word means, an address each. Raises QuestionError."""
    word = text.strip()
    if word.startswith("svc/"):
        backends = {backend.name: backend for backend, _, _ in _service(scene, *_pair(word, "svc/NAMESPACE/NAME"), "")}
        return list(backends.values())
    if word.startswith("node/"):
        return _node(scene, word.removeprefix("node/"))
    if "/" in word:
        return _pod(scene, word)
    try:
        number, width = parse_ip(word.removeprefix("[").removesuffix("]"))
    except AddressError:
        namespace, name = _dns(scene, word, namespace)
        return list({backend.name: backend for backend, _, _ in _service(scene, namespace, name, "")}.values())
    return [at_address(scene, format_ip(number, width))]


def at_address(scene: Scene, address: str) -> Place:
    """A pod by its address, a node by one of its own, or whoever else has it."""
    if pod := scene.by_address.get(address):
        return Place(str(pod), End(address, (pod.namespace, pod.name)), pod)
    for one in scene.of_kind("Node"):
        if address in _node_addresses(one.object):
            return Place(f"node/{one.object['metadata']['name']}", End(address, node=one.object["metadata"]["name"]))
    return Place(address, End(address))


def _pod(scene: Scene, word: str) -> list[Place]:
    namespace, _, name = word.partition("/")
    pod = scene.pods.get((namespace, name))
    if pod is None:
        near = sorted(str(one) for one in scene.pods.values() if one.namespace == namespace or one.name == name)
        way = (
            f"there are {', '.join(near[:5])}" if near else f"namespaces with pods: {', '.join(scene.spaces) or 'none'}"
        )
        raise QuestionError(f"there is no pod {word}: {way}")
    if pod.host:
        return [
            Place(str(pod), End(each.end.address, (pod.namespace, pod.name), pod.node), pod)
            for each in _node(scene, pod.node)
        ]
    if not pod.addresses:
        raise QuestionError(f"pod {pod} has no address (status.podIPs): it does not run yet")
    return [Place(str(pod), End(address, (pod.namespace, pod.name)), pod) for address in pod.addresses]


def _node(scene: Scene, name: str) -> list[Place]:
    for one in scene.of_kind("Node"):
        if one.object["metadata"]["name"] == name:
            if addresses := _node_addresses(one.object):
                return [Place(f"node/{name}", End(address, node=name)) for address in addresses]
            raise QuestionError(f"node {name} has no address (status.addresses)")
    names = ", ".join(one.object["metadata"]["name"] for one in scene.of_kind("Node")) or "none"
    raise QuestionError(f"there is no node {name}; nodes: {names}")


def _node_addresses(node: Object) -> list[str]:
    found = []
    for entry in (node.get("status") or {}).get("addresses") or []:
        try:
            number, width = parse_ip(str(entry.get("address")))
        except AddressError:
            continue  # its host name
        found.append(format_ip(number, width))
    return found


def _pair(word: str, shape: str) -> tuple[str, str]:
    parts = word.split("/")
    if len(parts) != 3 or not all(parts):
        raise QuestionError(f"{word!r}: write {shape}")
    return parts[1], parts[2]


def _dns(scene: Scene, word: str, namespace: str) -> tuple[str, str]:
    """Namespace and name of the Service that a DNS name means."""
    found = _DNS.match(word.lower())
    if not found:
        raise QuestionError(
            f"{word!r} is nobody here: write ns/pod, svc/ns/name, node/name, an address, or a Service's DNS name"
        )
    name, space = found[1], found[2] or namespace
    if _service_object(scene, space, name) is None:
        pods = sorted(str(pod) for pod in scene.pods.values() if pod.name == name)
        way = f"did you mean the pod {pods[0]}?" if pods else "a pod is written ns/pod, a Service svc/ns/name"
        raise QuestionError(f"there is no Service {space}/{name} for the name {word}: {way}")
    return space, name


# -- Services ---------------------------------------------------------------------------------------------------------


def receivers(scene: Scene, wanted: Target, namespace: str = "default") -> list[tuple[Place, int, str]]:
    """Who receives, at which port, and by which Service. Raises QuestionError."""
    service: tuple[str, str] | None = None
    if wanted.to.startswith("svc/"):
        service = _pair(wanted.to, "svc/NAMESPACE/NAME")
    elif "/" not in wanted.to:
        try:
            number, width = parse_ip(wanted.to)
        except AddressError:
            service = _dns(scene, wanted.to, namespace)
        else:
            service = _service_at(scene, format_ip(number, width))
    if service:
        return list(_service(scene, *service, wanted.port, wanted.protocol))
    return [(place, _number(place, wanted), "") for place in places(scene, wanted.to, namespace)]


def _number(place: Place, wanted: Target) -> int:
    """The port's number; a name is what the pod calls it."""
    if wanted.port.isdigit() or not wanted.port:
        return int(wanted.port or 0)
    ports = place.pod.ports if place.pod else ()
    for name, protocol, number in ports:
        if name == wanted.port and protocol == wanted.protocol:
            return number
    names = ", ".join(sorted({f"{name}/{protocol}" for name, protocol, _ in ports if name})) or "none"
    raise QuestionError(f"{place.name} has no port of the name {wanted.port}/{wanted.protocol}; it names: {names}")


def _service_object(scene: Scene, namespace: str, name: str) -> Object | None:
    for one in scene.of_kind("Service"):
        if one.object["metadata"]["name"] == name and namespace_of(one.object) == namespace:
            return one.object
    return None


def _service_at(scene: Scene, address: str) -> tuple[str, str] | None:
    """The Service that answers at this address."""
    for one in scene.of_kind("Service"):
        spec, status = one.object.get("spec") or {}, one.object.get("status") or {}
        balancers = [str(entry.get("ip")) for entry in (status.get("loadBalancer") or {}).get("ingress") or []]
        own = [*(spec.get("clusterIPs") or []), spec.get("clusterIP"), *(spec.get("externalIPs") or []), *balancers]
        if address in own:
            return namespace_of(one.object), one.object["metadata"]["name"]
    return None


def _service(
    scene: Scene, namespace: str, name: str, port: str, protocol: str = "TCP"
) -> Iterator[tuple[Place, int, str]]:
    """The backends, each with its own port. Raises QuestionError."""
    service = _service_object(scene, namespace, name)
    by = f"svc/{namespace}/{name}"
    if service is None:
        names = ", ".join(
            f"{namespace_of(one.object)}/{one.object['metadata']['name']}" for one in scene.of_kind("Service")
        )
        raise QuestionError(f"there is no Service {namespace}/{name}; Services: {names or 'none'}")
    entry = _service_port(service, port, protocol, by) if port else None
    found = list(_from_slices(scene, namespace, name, entry)) or list(_from_pods(scene, service, entry))
    if not found:
        raise QuestionError(f"{by} has no backend: no ready endpoint, and its selector matches no pod with an address")
    for place, number in found:
        yield place, number, by


def _service_port(service: Object, port: str, protocol: str, by: str) -> Object:
    entries: list[Object] = (service.get("spec") or {}).get("ports") or []
    for entry in entries:
        same = str(entry.get("port")) == port or entry.get("name") == port
        if same and (entry.get("protocol") or "TCP") == protocol:
            return entry
    have = ", ".join(f"{entry.get('port')}/{entry.get('protocol') or 'TCP'}" for entry in entries) or "none"
    raise QuestionError(f"{by} has no port {port}/{protocol}; its ports: {have}")


def _from_slices(scene: Scene, namespace: str, name: str, entry: Object | None) -> Iterator[tuple[Place, int]]:
    for one in scene.of_kind("EndpointSlice"):
        labels = one.object["metadata"].get("labels") or {}
        if labels.get("kubernetes.io/service-name") != name or namespace_of(one.object) != namespace:
            continue
        ports = one.object.get("ports") or []
        if entry is not None:
            ports = [each for each in ports if (each.get("name") or "") == (entry.get("name") or "")]
        numbers = [int(each["port"]) for each in ports if each.get("port")] or ([] if entry else [0])
        for endpoint in one.object.get("endpoints") or []:
            if (endpoint.get("conditions") or {}).get("ready") is False:
                continue
            for address in endpoint.get("addresses") or []:
                yield from ((at_address(scene, str(address)), number) for number in numbers)


def _from_pods(scene: Scene, service: Object, entry: Object | None) -> Iterator[tuple[Place, int]]:
    """Where no slices are known: what a controller would put into them."""
    chosen = (service.get("spec") or {}).get("selector") or {}
    for pod in scene.ported:
        if not chosen or pod.namespace != namespace_of(service):
            continue
        if any(pod.labels.get(key) != value for key, value in chosen.items()):
            continue
        target = str(entry.get("targetPort") or entry["port"]) if entry else "0"
        protocol = (entry or {}).get("protocol") or "TCP"
        named = [number for name, proto, number in pod.ports if name == target and proto == protocol]
        for number in [int(target)] if target.isdigit() else named:
            for address in pod.addresses:
                yield Place(str(pod), End(address, (pod.namespace, pod.name)), pod), number
