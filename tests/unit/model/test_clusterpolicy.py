"""ClusterNetworkPolicies and what was before them: tiers, priorities, peers, and failing closed."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from podwire.model.policy import Policy, PolicyKey
from podwire.model.written import PolicyError
from tests.unit.model.reading import inspect, read, told

POD = 'projectcalico.org/orchestrator == "k8s"'
EVERYBODY = "subject: {namespaces: {}}"


def cnp(rules: str, head: str = f"tier: Admin, priority: 7, {EVERYBODY}") -> dict[str, Any]:
    spec = yaml.safe_load(f"{{{head}, {rules}}}")
    return _object("v1alpha2", "ClusterNetworkPolicy", "c", spec)


def anp(rules: str, head: str = f"priority: 7, {EVERYBODY}", kind: str = "AdminNetworkPolicy") -> dict[str, Any]:
    name = "default" if kind.startswith("Base") else "a"
    return _object("v1alpha1", kind, name, yaml.safe_load(f"{{{head}, {rules}}}"))


def _object(version: str, kind: str, name: str, spec: Any) -> dict[str, Any]:
    head = {"apiVersion": f"policy.networking.k8s.io/{version}", "kind": kind}
    return {**head, "metadata": {"name": name}, "spec": spec}


def both(found: Policy) -> list[str]:
    return [told(rule) for rule in (*(found.ingress or ()), *(found.egress or ()))]


@pytest.mark.parametrize(
    ("obj", "key", "tier", "order"),
    [
        (cnp("ingress: []"), PolicyKey("ClusterNetworkPolicy", "", "c"), "kube-admin", 7),
        (
            cnp("ingress: []", f"tier: Baseline, priority: 1000, {EVERYBODY}"),
            PolicyKey("ClusterNetworkPolicy", "", "c"),
            "kube-baseline",
            1000,
        ),
        (anp("ingress: []"), PolicyKey("AdminNetworkPolicy", "", "a"), "kube-admin", 7),
        (
            anp("ingress: []", EVERYBODY, "BaselineAdminNetworkPolicy"),
            PolicyKey("BaselineAdminNetworkPolicy", "", "default"),
            "kube-baseline",
            1000,
        ),
    ],
)
def test_where_they_stand(obj: dict[str, Any], key: PolicyKey, tier: str, order: float) -> None:
    found = read(obj)
    assert (found.key, found.tier, found.order) == (key, tier, order)
    assert found.ingress is None and found.egress is None, "without rules nothing changes"


@pytest.mark.parametrize(
    ("subject", "wanted"),
    [
        ("{namespaces: {}}", POD),
        ("{namespaces: {matchLabels: {t: x}}}", f'(pcns.t == "x" && {POD})'),
        ("{pods: {}}", POD),
        ("{pods: {podSelector: {matchLabels: {a: b}}}}", f'({POD} && a == "b")'),
        (
            "{pods: {namespaceSelector: {matchLabels: {t: x}}, podSelector: {matchLabels: {a: b}}}}",
            f'(pcns.t == "x" && {POD} && a == "b")',
        ),
    ],
)
def test_subjects(subject: str, wanted: str) -> None:
    assert read(cnp("ingress: []", f"tier: Admin, priority: 0, subject: {subject}")).subject.selector == wanted


PEER = "[{namespaces: {}}]"
UP_TO_9 = "{range: {start: 1, end: 9}}"
RULES = {
    f"ingress: [{{action: Accept, from: {PEER}}}]": [f"Allow from {POD}"],
    f"ingress: [{{action: Deny, from: {PEER}}}, {{action: Pass, from: {PEER}}}]": [
        f"Deny from {POD}",
        f"Pass from {POD}",
    ],
    "ingress: [{action: Deny, from: [{pods: {podSelector: {matchLabels: {a: b}}}}, {namespaces: {}}]}]": [
        f'Deny from ({POD} && a == "b")',
        f"Deny from {POD}",
    ],
    "egress: [{action: Deny, to: [{networks: [10.0.0.0/8, 'fd00::/8']}]}]": ["Deny to 10.0.0.0/8, fd00::/8"],
    "egress: [{action: Deny, to: [{networks: [10.1.2.3/8]}]}]": ["Deny to 10.0.0.0/8"],
    "egress: [{action: Deny, to: [{nodes: {}}]}]": ["Deny to nodes all()"],
    "egress: [{action: Deny, to: [{nodes: {matchLabels: {disk: ssd}}}]}]": ['Deny to nodes disk == "ssd"'],
    f"egress: [{{action: Accept, to: {PEER}, protocols: [{{tcp: {{destinationPort: {{number: 80}}}}}}]}}]": [
        f"Allow protocol 6 to {POD}, :80-80"
    ],
    f"egress: [{{action: Accept, to: {PEER}, protocols: [{{udp: {{destinationPort: {UP_TO_9}}}}}]}}]": [
        f"Allow protocol 17 to {POD}, :1-9"
    ],
    f"egress: [{{action: Accept, to: {PEER}, protocols: [{{sctp: {{}}}}, {{destinationNamedPort: web}}]}}]": [
        f"Allow protocol 132 to {POD}",
        f"Allow to {POD}, :web",
    ],
    (
        f"ingress: [{{action: Accept, from: {PEER}, protocols: [{{tcp: {{destinationPort: {{number: 80}}}}}},"
        " {tcp: {destinationPort: {number: 81}}}, {udp: {}}, {udp: {destinationPort: {number: 1}}}]}]"
    ): [f"Allow protocol 6 from {POD} to :80-81", f"Allow protocol 17 from {POD}"],
}


@pytest.mark.parametrize(("rules", "wanted"), RULES.items())
def test_rules(rules: str, wanted: list[str]) -> None:
    assert both(read(cnp(rules))) == wanted


@pytest.mark.parametrize(
    ("rules", "wanted"),
    [
        (f"ingress: [{{action: Allow, from: {PEER}}}]", [f"Allow from {POD}"]),
        (
            f"ingress: [{{action: Deny, from: {PEER}, ports: [{{portNumber: {{port: 80}}}}, {{portNumber: {{port: 80,"
            " protocol: UDP}}, {portRange: {start: 90, end: 95, protocol: TCP}}, {namedPort: web}]}]",
            [
                f"Deny protocol 6 from {POD} to :80-80, :90-95",
                f"Deny protocol 17 from {POD} to :80-80",
                f"Deny from {POD} to :web",
            ],
        ),
        (
            "egress: [{action: Pass, to: [{nodes: {}}, {networks: [0.0.0.0/0]}]}]",
            ["Pass to nodes all()", "Pass to 0.0.0.0/0"],
        ),
    ],
)
def test_rules_of_v1alpha1(rules: str, wanted: list[str]) -> None:
    assert both(read(anp(rules))) == wanted


def test_rules_are_called_by_their_name_or_their_place() -> None:
    found = read(cnp(f"ingress: [{{action: Deny, from: {PEER}}}, {{name: gate, action: Deny, from: {PEER}}}]"))
    assert [rule.label for rule in found.ingress or ()] == ["ingress[0]", "gate"]


def test_a_name_breaks_no_line() -> None:
    """It stands in logs."""
    hostile = {"name": "a\nlevel=info\x1b[2J", "action": "Deny", "from": [{"namespaces": {}}], "x\ny": 1}
    obj = cnp("ingress: []")
    found, problems = inspect({**obj, "spec": {**obj["spec"], "ingress": [hostile, {**hostile, "name": "b" * 200}]}})
    assert [rule.label for rule in found.ingress] == ["a?level=info?[2J", "b" * 100]
    assert [each.path for each in problems] == ["spec.ingress[0].x?y", "spec.ingress[1].x?y"]


CLOSED = {
    "a peer of tomorrow": ("to: [{moons: {}}, {namespaces: {}}]", "spec.egress[0].to[0].moons"),
    "no peer in it": ("to: [{}]", "spec.egress[0].to[0]"),
    "no peers": ("to: []", "spec.egress[0].to"),
    "two in one": ("to: [{namespaces: {}, networks: [10.0.0.0/8]}]", "spec.egress[0].to[0]"),
    "too many peers": (f"to: [{', '.join(['{namespaces: {}}'] * 26)}]", "spec.egress[0].to"),
    "a selector": (
        "to: [{namespaces: {matchExpressions: [{key: a, operator: Is}]}}]",
        "spec.egress[0].to[0].namespaces",
    ),
    "no prefix": ("to: [{networks: [10.0.0.0]}]", "spec.egress[0].to[0].networks[0]"),
    "a protocol of tomorrow": (f"to: {PEER}, protocols: [{{moon: {{}}}}]", "spec.egress[0].protocols[0].moon"),
    "no protocols": (f"to: {PEER}, protocols: []", "spec.egress[0].protocols"),
    "no port": (
        f"to: {PEER}, protocols: [{{tcp: {{destinationPort: {{}}}}}}]",
        "spec.egress[0].protocols[0].tcp.destinationPort",
    ),
    "an inverted range": (
        f"to: {PEER}, protocols: [{{tcp: {{destinationPort: {{range: {{start: 9, end: 8}}}}}}}}]",
        "spec.egress[0].protocols[0].tcp.destinationPort.range",
    ),
    "a named port of networks": (
        "to: [{networks: [10.0.0.0/8]}], protocols: [{destinationNamedPort: web}]",
        "spec.egress[0].to[0].networks",
    ),
    "a field of tomorrow": (f"to: {PEER}, hours: 8", "spec.egress[0].hours"),
}


@pytest.mark.parametrize(("rule", "path"), CLOSED.values(), ids=CLOSED)
@pytest.mark.parametrize(("action", "wanted"), [("Accept", "Allow nothing"), ("Deny", "Deny"), ("Pass", "Deny")])
def test_what_cannot_be_read_fails_closed(rule: str, path: str, action: str, wanted: str) -> None:
    """And only that rule does."""
    found, problems = inspect(cnp(f"egress: [{{action: {action}, {rule}}}, {{action: Pass, to: {PEER}}}]"))
    assert both(found) == [wanted, f"Pass to {POD}"]
    assert len(problems) == 1 and problems[0].path.startswith(path) and problems[0].refused


def test_an_unknown_action_fails_closed() -> None:
    for action, wanted in (("Permit", "Deny"), ("Allow", "Allow nothing")):
        found, problems = inspect(cnp(f"ingress: [{{action: {action}, from: {PEER}}}]"))
        assert both(found) == [wanted] and problems[0].path == "spec.ingress[0].action"


def test_baseline_of_v1alpha1_passes_nothing_on() -> None:
    rules = f"ingress: [{{action: Pass, from: {PEER}}}]"
    found, problems = inspect(anp(rules, EVERYBODY, "BaselineAdminNetworkPolicy"))
    assert both(found) == ["Deny"] and problems[0].path == "spec.ingress[0].action"


def test_domain_names_are_reported_and_match_nothing() -> None:
    found, problems = inspect(cnp("egress: [{action: Accept, to: [{domainNames: [a.b]}, {networks: [0.0.0.0/0]}]}]"))
    assert both(found) == ["Allow to 0.0.0.0/0"]
    assert [(each.path, each.refused) for each in problems] == [("spec.egress[0].to[0].domainNames", False)]
    found, _ = inspect(cnp("egress: [{action: Accept, to: [{domainNames: [a.b]}]}]"))
    assert both(found) == ["Allow nothing"]
    found, problems = inspect(cnp("egress: [{action: Deny, to: [{domainNames: [a.b]}]}]"))
    assert both(found) == ["Deny"] and problems[0].refused


@pytest.mark.parametrize(
    ("obj", "path"),
    [
        (cnp("ingress: []", f"tier: Gold, priority: 1, {EVERYBODY}"), "spec.tier"),
        (cnp("ingress: []", f"tier: Admin, {EVERYBODY}"), "spec.priority"),
        (cnp("ingress: []", f"tier: Admin, priority: 1001, {EVERYBODY}"), "spec.priority"),
        (cnp("ingress: []", f"tier: Admin, priority: 1.5, {EVERYBODY}"), "spec.priority"),
        (cnp("ingress: []", "tier: Admin, priority: 1"), "spec.subject"),
        (cnp("ingress: []", "tier: Admin, priority: 1, subject: {namespaces: {}, pods: {}}"), "spec.subject"),
        (cnp("ingress: []", "tier: Admin, priority: 1, subject: {moons: {}}"), "spec.subject.moons"),
        (anp("ingress: []", f"priority: -1, {EVERYBODY}"), "spec.priority"),
        ({**anp("ingress: []", EVERYBODY, "BaselineAdminNetworkPolicy"), "metadata": {"name": "x"}}, "metadata.name"),
    ],
)
def test_without_place_or_subject_there_is_no_policy(obj: dict[str, Any], path: str) -> None:
    with pytest.raises(PolicyError) as caught:
        inspect(obj)
    assert caught.value.path == path
