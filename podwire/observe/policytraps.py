"""Findings that need more than a look at one field: rules that never decide, names that cannot be resolved. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product

from podwire.calc.oracle import End, Flow, World, judge
from podwire.model.address import AddressError, Cidr
from podwire.model.api import Object
from podwire.model.seen import NodeSeen
from podwire.observe.endpoints import ENFORCED
from podwire.observe.policyfinding import ERROR, HINT, WARNING, Finding, Written
from podwire.observe.policyparts import Port, RulePart, Selection
from podwire.observe.policyscene import Endpoint, Scene

# -- shadowed rules ---------------------------------------------------------------------------------------------------


def shadowed(one: Written, scene: Scene) -> Iterator[Finding]:
    """Rules that never decide, whatever pods there are: others of the same policy take all that they match."""
    rules = one.parts.rules
    unordered = one.parts.kind in ("NetworkPolicy", "StagedKubernetesNetworkPolicy") and not one.calico
    for at, rule in enumerate(rules):
        rivals = [
            (place, other)
            for place, other in enumerate(rules)
            if other.direction == rule.direction
            and other.action != "Log"
            and (place < at or (unordered and place > at and not _covers(rule, other)))
        ]
        by = next((other for _, other in rivals if _covers(other, rule)), None)
        if by is None:
            continue
        same = by.action == rule.action
        yield one.finding(
            HINT if same else WARNING,
            "never decides",
            rule.path,
            f"everything that it matches, {by.path.removeprefix('spec.')} matches as well"
            + ("" if unordered else f" and decides first ({by.action})"),
            "Remove it, as it changes nothing" if same else "Put it first, or make the other one narrower",
        )


def _covers(wide: RulePart, narrow: RulePart) -> bool:
    """Whoever and whatever `narrow` matches, `wide` does."""
    if wide.extra not in ("", narrow.extra):
        return False
    return _peers_cover(wide, narrow) and _ports_cover(wide, narrow)


def _peers_cover(wide: RulePart, narrow: RulePart) -> bool:
    if wide.anybody:
        return True
    if narrow.anybody or not (narrow.peers or narrow.others):
        return False
    by_label = all(any(_selects_all(a, b) for a in wide.peers) for b in narrow.peers)
    return by_label and all(any(_holds(a, b) for a in wide.others) for b in narrow.others)


def _selects_all(wide: Selection, narrow: Selection) -> bool:
    """As far as the texts tell."""
    same_place = (wide.own, wide.spaces_text) == (narrow.own, narrow.spaces_text)
    everywhere = bool(wide.spaces) and wide.spaces_text in ("{}", "all()")
    return (same_place or everywhere) and (wide.every or (not narrow.every and wide.text == narrow.text))


def _holds(wide: str, narrow: str) -> bool:
    if wide == narrow:
        return True
    try:
        return Cidr.parse(wide, host_bits=True).covers(Cidr.parse(narrow, host_bits=True))
    except AddressError:
        return False


def _ports_cover(wide: RulePart, narrow: RulePart) -> bool:
    if not wide.ports:
        return True
    if not narrow.ports:
        return False
    return all(any(_port_covers(a, b) for a in wide.ports) for b in narrow.ports)


def _port_covers(wide: Port, narrow: Port) -> bool:
    if wide.protocol not in ("", narrow.protocol):
        return False
    if wide.name or narrow.name:
        return wide.name == narrow.name or (not wide.name and wide.number is None)
    if wide.number is None:
        return True
    if narrow.number is None or wide.last is None or narrow.last is None:
        return False
    return wide.number <= narrow.number and narrow.last <= wide.last


# -- names ------------------------------------------------------------------------------------------------------------

_DNS_LABEL = ("k8s-app", "kube-dns")
_STAND_IN = "192.0.2.53"


def without_names(policies: list[Written], scene: Scene, world: World) -> Iterator[Finding]:
    """Pods that may connect somewhere, but not ask for names: egress rules that forgot DNS."""
    isolating = [one for one in policies if "egress" in one.parts.types and not one.parts.staged]
    isolating = [one for one in isolating if any(_leads_somewhere(rule) for rule in one.parts.rules)]
    if not isolating:
        return
    servers = [pod for pod in scene.ported if pod.namespace == "kube-system" and _is_dns(pod)]
    if not servers:
        world = World.of([*scene.objects, *_stand_ins(scene)])
    ends = [End(address, (pod.namespace, pod.name)) for pod in servers for address in pod.addresses]
    ends = ends or [End(_STAND_IN, ("kube-system", "podwire-stand-in-dns"))]
    asked: dict[tuple[str, ...], Endpoint | None] = {}
    for one in isolating:
        denied = None
        for pod in one.selected(scene):
            key = tuple(each.manifest.object["metadata"]["name"] for each in policies if each.parts.subject.pods(pod))
            if not pod.addresses or _is_dns(pod):
                continue
            if key not in asked:
                asked[key] = None if _may_ask(world, pod, ends) else pod
            denied = denied or asked[key]
        if denied:
            yield one.finding(
                HINT,
                "no names",
                "spec.egress",
                f"{denied} may connect to others, but not to the cluster's DNS (53/UDP): names do not resolve there",
                "Add an egress rule to namespace kube-system, pods k8s-app=kube-dns, ports 53/UDP and 53/TCP",
            )


def _leads_somewhere(rule: RulePart) -> bool:
    return rule.direction == "egress" and rule.action in ("Allow", "Accept")


def _is_dns(pod: Endpoint) -> bool:
    return pod.labels.get(_DNS_LABEL[0]) == _DNS_LABEL[1]


def _may_ask(world: World, pod: Endpoint, servers: list[End]) -> bool:
    """One server of its family is enough."""
    pairs = product((End(address, (pod.namespace, pod.name)) for address in pod.addresses), servers)
    flows = [Flow(a, b, 17, 53, 40_000) for a, b in pairs if (":" in a.address) == (":" in b.address)]
    return not flows or any(judge(world, flow).egress.allowed for flow in flows)


def _stand_ins(scene: Scene) -> Iterator[Object]:
    """A server as most clusters have it, where the scene has none."""
    labels = dict([_DNS_LABEL])
    metadata = {"name": "podwire-stand-in-dns", "namespace": "kube-system", "labels": labels}
    ports = [{"name": name, "protocol": protocol, "containerPort": 53} for name, protocol in _DNS_PORTS]
    spec = {"containers": [{"name": "coredns", "ports": ports}]}
    status = {"phase": "Running", "podIPs": [{"ip": _STAND_IN}]}
    yield {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status}
    if "kube-system" not in scene.spaces:
        yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system", "labels": {}}}


_DNS_PORTS = (("dns", "UDP"), ("dns-tcp", "TCP"))


# -- nodes ------------------------------------------------------------------------------------------------------------


def unenforced(nodes: Iterable[NodeSeen]) -> list[Finding]:
    """Nodes where policies are not in force, or not as they are now. What a node says nothing of is not judged."""
    found = []
    for seen in nodes:
        state, _, why = seen.policy.partition(":")
        if state in ("", ENFORCED):
            continue
        stale = state == "stale"
        kind = "policy is stale" if stale else "policy is not enforced"
        problem = (why.strip() or state) + ("" if stale else ": no policy has any effect on its pods")
        way = _WAYS.get(state, "Look at `podwire node status` and at the agent's log")
        found.append(Finding(ERROR, kind, f"Node {seen.node}", "", problem, way))
    return found


_WAYS = {
    "off": "Turn enforcement on (policy.enforce in /etc/podwire/agent.toml), or install a network that enforces",
    "stale": "Start the agent again; `podwire node status` says why it is not ready",
}
