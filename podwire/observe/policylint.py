"""What is wrong with policies, or not what their author can have meant: found in the manifests, without a packet. Pure.

Each check is a function of the scene that yields findings; `lint` is the list of them. What needs pods or namespaces is
not judged where none are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from podwire.calc.oracle import World
from podwire.model.expression import ExpressionError
from podwire.model.policykinds import BY_API
from podwire.model.policykinds import written as record
from podwire.model.selectors import SelectorError
from podwire.model.written import PolicyError
from podwire.observe.manifests import Manifest
from podwire.observe.policyfinding import ERROR, HINT, WARNING, Finding, Written
from podwire.observe.policyparts import CLUSTER, Port, RulePart, Selection, is_policy, parts
from podwire.observe.policyscene import NAME_LABEL, Endpoint, Scene, number, settled, title
from podwire.observe.policytraps import shadowed, without_names

UNREADABLE = "unreadable"
_BUILT_IN = ("default", "kube-admin", "kube-baseline")


def written(scene: Scene) -> tuple[list[Written], list[Finding]]:
    """The policies of a scene, and what of them, and of tiers and network sets, cannot be read or is not honoured."""
    found: list[Written] = []
    said: list[Finding] = []
    for one in scene.manifests:
        told = list(_problems(one))
        said += told
        if not is_policy(one.object):
            continue
        try:
            found.append(Written(one, parts(one.object)))
        except (SelectorError, ExpressionError, KeyError, TypeError, AttributeError, ValueError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            if not told:
                said.append(_unreadable(one, "spec", why))
    return found, said


def _problems(one: Manifest) -> Iterator[Finding]:
    """What the decoders of the API's kinds say, as they say it when a policy is admitted."""
    kind = BY_API.get((one.object["apiVersion"], one.object["kind"]))
    if kind is None:
        return
    try:
        _, problems = kind.inspect(record(settled(one.object)))
    except PolicyError as error:
        yield _unreadable(one, error.path, error.words)
        return
    for problem in problems:
        if problem.refused:
            yield _unreadable(one, problem.path, problem.words)
        else:
            way = "Other networks may enforce it; here leave it out, or say it by another field"
            where, path = one.where(problem.path), problem.path
            yield Finding(WARNING, "not enforced", title(one.object), path, problem.words, way, where)


def _unreadable(one: Manifest, path: str, why: str) -> Finding:
    way = "Correct it as `kubectl explain` of this kind says: a server that checks refuses it, and it is not enforced"
    return Finding(ERROR, UNREADABLE, title(one.object), path, why, way, one.where(path))


def lint(scene: Scene) -> list[Finding]:
    """Every finding, by object, most severe first."""
    policies, found = written(scene)
    for one in policies:
        for check in _EACH:
            found += check(one, scene)
    found += _same_priority(policies, scene)
    if not any(one.kind == UNREADABLE for one in found):  # the oracle reads a rule when it is asked about it
        found += without_names(policies, scene, World.of(scene.objects))
    levels = (ERROR, WARNING, HINT)
    return sorted(dict.fromkeys(found), key=lambda each: (levels.index(each.level), each.object, each.field))


# -- whom it selects --------------------------------------------------------------------------------------------------


def _selects_nothing(one: Written, scene: Scene) -> Iterator[Finding]:
    if not scene.pods or one.selected(scene):
        return
    subject, home = one.parts.subject, one.parts.namespace
    if home and home not in scene.spaces:
        spaces = ", ".join(sorted(scene.spaces)[:5])
        yield one.finding(
            WARNING, "no such namespace", "metadata.namespace", f"namespace {home} does not exist",
            f"Make the namespace, or name one of: {spaces}",
        )  # fmt: skip
        return
    shared = [pod for pod in scene.pods.values() if pod.host and subject.pods(pod)]
    if shared:
        why = f"it selects {number(len(shared), 'pod')} of the host's network alone ({shared[0]})"
        way = "A pod with hostNetwork has its node's address, and no policy of pods holds for it; let it have its own"
    else:
        why = f"it selects no pod{_inside(subject.own)}"
        way = _nearest(subject, scene)
    yield one.finding(WARNING, "selects nothing", subject.path, f"{why}: {subject.text}", way)


def _inside(namespace: str) -> str:
    return f" of namespace {namespace}" if namespace else ""


def _nearest(selection: Selection, scene: Scene) -> str:
    """What to do about a selection of no pod: where such pods are, or which label is amiss."""
    if selection.own:
        elsewhere = [pod for pod in scene.pods.values() if _labelled(selection, pod)]
        if elsewhere:
            spaces = ", ".join(sorted({pod.namespace for pod in elsewhere})[:3])
            if selection.path.startswith(("spec.podSelector", "spec.selector")):
                return (
                    f"Such pods are in namespace {spaces}: a policy governs pods of its own namespace, so put it there"
                )
            means = f"a peer without namespaceSelector means {selection.own}"
            return f"Such pods are in namespace {spaces}, and {means}: add one"
    for key, values in selection.keys:
        near = [pod for pod in scene.pods.values() if not selection.own or pod.namespace == selection.own]
        have = sorted({pod.labels[key] for pod in near if key in pod.labels})
        if not set(have) & set(values):
            if have:
                more = " …" if len(have) > 5 else ""
                return f"Pods there have {key} = {', '.join(have[:5])}{more}: is one of these meant?"
            keys = sorted({label for pod in near for label in pod.labels})
            return f"No pod there has a label {key}; their labels are {', '.join(keys[:6]) or 'none'}"
    return "Compare the selector with `kubectl get pods --show-labels`"


def _labelled(selection: Selection, pod: Endpoint) -> bool:
    """Would it be selected, were it in the namespace that the selection is confined to?"""
    return pod.namespace != selection.own and selection.pods(replace(pod, namespace=selection.own))


# -- its rules --------------------------------------------------------------------------------------------------------


def _peers(one: Written, scene: Scene) -> Iterator[Finding]:
    """Rules for peers that are not there."""
    for rule in one.parts.rules:
        for peer in rule.peers:
            if peer.spaces and scene.spaces and not any(peer.spaces(space) for space in scene.spaces.values()):
                yield one.finding(
                    WARNING, "no such namespace", peer.spaces_path,
                    f"no namespace matches {peer.spaces_text}", _nearest_space(peer, scene),
                )  # fmt: skip
            elif scene.pods and not _exists(peer, scene):
                does = "lets nobody in" if rule.direction == "ingress" else "leads nowhere"
                yield one.finding(
                    WARNING, "no such peer", peer.path,
                    f"no pod{_inside(peer.own)} matches {peer.text}: as a rule for peers, this {does}",
                    _nearest(peer, scene),
                )  # fmt: skip


def _exists(peer: Selection, scene: Scene) -> bool:
    if any(peer.pods(pod) for pod in scene.pods.values() if not pod.host):
        return True
    return bool(scene.of_kind("NetworkSet", "GlobalNetworkSet", "HostEndpoint"))  # their labels count as well


def _nearest_space(peer: Selection, scene: Scene) -> str:
    have = sorted(
        {
            f"{key}={value}"
            for space in scene.spaces.values()
            for key, value in space.labels.items()
            if key != NAME_LABEL
        }
    )
    name = "every namespace has its name as the label kubernetes.io/metadata.name"
    return f"Labels of namespaces here: {', '.join(have[:6]) or 'none'}{' …' if len(have) > 6 else ''}; {name}"


def _port_names(one: Written, scene: Scene) -> Iterator[Finding]:
    """Names that no pod in question gives to a port, and numbers of a Service where its pods listen on another."""
    for rule in one.parts.rules:
        pods = _receivers(one, rule, scene)
        if not pods:
            continue
        for port in rule.ports:
            if port.name:
                yield from _named(one, port, pods)
            elif port.number is not None and port.number == port.last:
                yield from _of_service(one, port, pods, scene)


def _receivers(one: Written, rule: RulePart, scene: Scene) -> list[Endpoint]:
    """The pods whose ports a rule speaks of, as far as labels choose them."""
    if rule.direction == "ingress":
        return one.selected(scene)
    if rule.anybody:
        return list(scene.pods.values())
    return [pod for pod in scene.pods.values() if any(peer.pods(pod) for peer in rule.peers)]


def _named(one: Written, port: Port, pods: list[Endpoint]) -> Iterator[Finding]:
    same = [entry for pod in pods for entry in pod.ports if entry[0] == port.name]
    if any(protocol == port.protocol or not port.protocol for _, protocol, _ in same):
        return
    if same:
        why = f"{port.name} is a port of {same[0][1]} there, and the rule is for {port.protocol}"
        way = f"Write `protocol: {same[0][1]}`"
    else:
        why = f"none of {number(len(pods), 'pod')} ({pods[0]}{', …' if len(pods) > 1 else ''}) calls a port {port.name}"
        names = sorted({name for pod in pods for name, _, _ in pod.ports if name})
        way = (
            f"Names there: {', '.join(names[:6])}" if names else "Give the containerPort that name, or write the number"
        )
    yield one.finding(WARNING, "no such port", port.path, f"{why}: this matches nothing", way)


def _of_service(one: Written, port: Port, pods: list[Endpoint], scene: Scene) -> Iterator[Finding]:
    """A policy sees the pod's port, never the Service's."""
    for service in scene.of_kind("Service"):
        spec, namespace = service.object.get("spec") or {}, service.object["metadata"].get("namespace") or "default"
        chosen = spec.get("selector") or {}
        backends = [
            pod for pod in pods
            if chosen and pod.namespace == namespace and all(pod.labels.get(k) == v for k, v in chosen.items())
        ]  # fmt: skip
        for entry in spec.get("ports") or []:
            target = entry.get("targetPort", entry.get("port"))
            protocol = entry.get("protocol") or "TCP"
            if not backends or entry.get("port") != port.number or port.protocol not in ("", protocol):
                continue
            listens = {n for pod in backends for name, proto, n in pod.ports if name == target and proto == protocol}
            numbers = listens if isinstance(target, str) and not target.isdigit() else {int(target)}
            told = any(n == port.number for pod in backends for _, _, n in pod.ports)
            if numbers and port.number not in numbers and not told:
                real = ", ".join(map(str, sorted(numbers)))
                yield one.finding(
                    WARNING, "port of a Service", port.path,
                    f"{port.number} is the port of {title(service.object)}, whose pods listen on {real}",
                    f"Write {real}: a policy sees a connection after the Service's address was translated",
                )  # fmt: skip
                return


# -- what is easily forgotten -----------------------------------------------------------------------------------------


def _types(one: Written, scene: Scene) -> Iterator[Finding]:
    """policyTypes (Kubernetes) or types (Calico) against the rules."""
    told = one.parts.told
    field = "spec.types" if one.calico else "spec.policyTypes"
    written_ = {rule.direction for rule in one.parts.rules}
    for direction in sorted(written_ - one.parts.types):
        word, said = direction.capitalize(), ", ".join(map(str.capitalize, told))
        yield one.finding(
            ERROR, "rules without effect", f"spec.{direction}",
            f"{field.removeprefix('spec.')} says {said}: rules for {direction} are ignored",
            f"Add {word} to {field}",
        )  # fmt: skip
    if not told and field == "spec.policyTypes" and written_ == {"egress"}:
        yield one.finding(
            HINT, "isolates ingress as well", field,
            "without policyTypes a NetworkPolicy is for Ingress, too: nothing may connect to these pods",
            "Write `policyTypes: [Egress]`, or with Ingress if that is meant",
        )  # fmt: skip


def _either(one: Written, scene: Scene) -> Iterator[Finding]:
    """A namespaceSelector and a podSelector as two items, where one item was meant."""
    for rule in one.parts.rules:
        spaces = [peer for peer in rule.peers if peer.spaces and peer.path.count("podSelector") == 0]
        alone = [peer for peer in rule.peers if peer.own and peer.path.endswith(".podSelector")]
        if one.parts.kind == "NetworkPolicy" and len(rule.peers) == 2 and spaces and alone:
            yield one.finding(
                HINT, "either, not both", alone[0].path,
                "a namespaceSelector and a podSelector stand as two items: either is enough, "
                f"and the podSelector means namespace {alone[0].own}",
                "If both must hold, make them one item: remove the `-` before the second",
            )  # fmt: skip


def _tier(one: Written, scene: Scene) -> Iterator[Finding]:
    tier = one.parts.tier
    known = {each.object["metadata"]["name"] for each in scene.of_kind("Tier")} | set(_BUILT_IN)
    if tier not in known:
        yield one.finding(
            ERROR, "no such tier", "spec.tier", f"there is no tier {tier}: the policy stays without effect",
            f"Make the Tier, or name one of {', '.join(sorted(known))}",
        )  # fmt: skip


def _not_enforced(one: Written, scene: Scene) -> Iterator[Finding]:
    if one.parts.staged:
        yield one.finding(
            HINT, "not enforced", "kind", "a staged policy is calculated, never enforced",
            f"Write kind {one.parts.kind.removeprefix('Staged')} to enforce it",
        )  # fmt: skip


_Check = Callable[[Written, Scene], Iterable[Finding]]
_EACH: tuple[_Check, ...] = (_selects_nothing, _peers, _port_names, _types, _either, _tier, _not_enforced, shadowed)


def _same_priority(policies: list[Written], scene: Scene) -> Iterator[Finding]:
    """Cluster policies of one tier and priority that select a pod both: which goes first, the API leaves open."""
    ranked: dict[tuple[str, float], list[Written]] = {}
    for one in policies:
        if one.manifest.object["apiVersion"].startswith(CLUSTER) and one.parts.order is not None:
            ranked.setdefault((one.parts.tier, one.parts.order), []).append(one)
    for (tier, priority), group in ranked.items():
        for at, one in enumerate(group):
            for other in group[:at]:
                if not one.parts.types & other.parts.types:
                    continue
                both = [pod for pod in one.selected(scene) if other.parts.subject.pods(pod)]
                if both:
                    yield one.finding(
                        WARNING, "same priority", "spec.priority",
                        f"{title(other.manifest.object)} has priority {priority:g} in {tier} as well, and both select "
                        f"{number(len(both), 'pod')} ({both[0]})",
                        "Give them different priorities: which of two goes first is left to each network "
                        "(here the first by name)",
                    )  # fmt: skip
