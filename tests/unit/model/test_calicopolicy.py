"""Calico's policies: whom they are for, what their rules say, tiers, sets, and what is not enforced."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import yaml

from podwire.model.policy import TIERS, Action, Policy, PolicyKey, Tier
from podwire.model.written import PolicyError
from tests.unit.model.reading import inspect, read, told

NS = "projectcalico.org/namespace"
SA = "projectcalico.org/serviceaccount"


def calico(kind: str, spec: str, name: str = "p", **metadata: Any) -> dict[str, Any]:
    head = {"name": name, **({} if "Global" in kind or kind == "Tier" else {"namespace": "ns"}), **metadata}
    return {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": head, "spec": yaml.safe_load(spec)}


def np(spec: str) -> dict[str, Any]:
    return calico("NetworkPolicy", spec)


def gnp(spec: str) -> dict[str, Any]:
    return calico("GlobalNetworkPolicy", spec)


def both(found: Policy) -> list[str]:
    return [told(rule) for rule in (*(found.ingress or ()), *(found.egress or ()))]


def test_where_they_stand() -> None:
    found = read(np("{tier: t, order: 1.5}"))
    assert (found.key, found.tier, found.order) == (PolicyKey("NetworkPolicy.projectcalico.org", "ns", "p"), "t", 1.5)
    found = read(gnp("{}"))
    assert (found.key, found.tier, found.order) == (PolicyKey("GlobalNetworkPolicy", "", "p"), "default", math.inf)


@pytest.mark.parametrize(
    ("obj", "wanted"),
    [
        (np("{}"), f'{NS} == "ns"'),
        (np("{selector: ''}"), f'{NS} == "ns"'),
        (np("{selector: all()}"), f'({NS} == "ns" && all())'),
        (np("{selector: \"a == 'b' && has(c)\"}"), f'({NS} == "ns" && a == "b" && has(c))'),
        (np("{selector: \"a == 'b' || has(c)\"}"), f'({NS} == "ns" && (a == "b" || has(c)))'),
        (np("{serviceAccountSelector: \"a == 'b'\"}"), f'({NS} == "ns" && pcsa.a == "b")'),
        (gnp("{}"), "all()"),
        (gnp("{selector: has(a)}"), "has(a)"),
        (gnp("{namespaceSelector: all()}"), f"has({NS})"),
        (gnp('{namespaceSelector: "!has(a)"}'), "!has(pcns.a)"),
        (gnp("{selector: has(a), namespaceSelector: \"b in {'x'}\"}"), '(has(a) && pcns.b in {"x"})'),
        (gnp("{serviceAccountSelector: all()}"), f"has({SA})"),
        (gnp("{namespaceSelector: \"projectcalico.org/name == 'x'\"}"), 'pcns.projectcalico.org/name == "x"'),
    ],
)
def test_subjects(obj: dict[str, Any], wanted: str) -> None:
    assert read(obj).subject.selector == wanted


@pytest.mark.parametrize(
    ("spec", "ingress", "egress"),
    [
        ("{}", True, False),
        ("{ingress: []}", True, False),
        ("{egress: [{action: Allow}]}", False, True),
        ("{ingress: [{action: Allow}], egress: [{action: Allow}]}", True, True),
        ("{types: [Egress], ingress: [{action: Allow}]}", False, True),
        ("{types: [], egress: [{action: Allow}]}", False, True),
    ],
)
def test_directions(spec: str, ingress: bool, egress: bool) -> None:
    found = read(np(spec))
    assert (found.ingress is not None, found.egress is not None) == (ingress, egress)


ENTITIES = {
    "{}": "",
    "{selector: has(a)}": f'({NS} == "ns" && has(a))',
    "{notSelector: has(a)}": f'{NS} == "ns", not has(a)',
    "{selector: all()}": f'({NS} == "ns" && all())',
    "{namespaceSelector: all()}": f"has({NS})",
    "{namespaceSelector: global()}": f"!has({NS})",
    "{namespaceSelector: global(), selector: has(a)}": f"(!has({NS}) && has(a))",
    "{namespaceSelector: \"a == 'b'\", selector: has(c)}": '(pcns.a == "b" && has(c))',
    "{namespaceSelector: \"a == 'b'\", notSelector: has(c)}": 'pcns.a == "b", not has(c)',
    "{serviceAccounts: {names: [y, x]}}": f'({NS} == "ns" && {SA} in {{"x", "y"}})',
    "{serviceAccounts: {selector: has(a)}}": f'({NS} == "ns" && has(pcsa.a))',
    '{serviceAccounts: {names: [x], selector: "!has(a)"}, namespaceSelector: all()}': (
        f'(has({NS}) && {SA} in {{"x"}} && !has(pcsa.a))'
    ),
    "{nets: [10.0.0.0/8]}": "10.0.0.0/8",
    "{nets: [10.0.0.0/8], selector: has(a)}": f'({NS} == "ns" && has(a)), 10.0.0.0/8',
    "{services: {name: web}}": "service ns/web",
    "{services: {name: web, namespace: other}}": "service other/web",
}


@pytest.mark.parametrize(("entity", "wanted"), ENTITIES.items())
def test_who(entity: str, wanted: str) -> None:
    (said,) = both(read(np(f"{{ingress: [{{action: Allow, source: {entity}}}]}}")))
    version = "v4 " if "nets" in entity else ""
    assert said == (f"Allow {version}from {wanted}" if wanted else "Allow")
    if "services" not in entity:
        (said,) = both(read(np(f"{{egress: [{{action: Deny, destination: {entity}}}]}}")))
        assert said == (f"Deny {version}to {wanted}" if wanted else "Deny")


@pytest.mark.parametrize(
    ("entity", "wanted"),
    [
        ("{selector: has(a)}", "has(a)"),
        ("{notSelector: has(a)}", "not has(a)"),
        ("{serviceAccounts: {names: [x]}}", f'{SA} in {{"x"}}'),
        ("{services: {name: web, namespace: other}}", "service other/web"),
    ],
)
def test_who_in_a_policy_of_the_whole_cluster(entity: str, wanted: str) -> None:
    assert both(read(gnp(f"{{ingress: [{{action: Allow, source: {entity}}}]}}"))) == [f"Allow from {wanted}"]


RULES = {
    "action: Log": "Log",
    "action: Pass": "Pass",
    "action: Allow, protocol: TCP": "Allow protocol 6",
    "action: Allow, protocol: udplite": "Allow protocol 136",
    "action: Allow, protocol: 47": "Allow protocol 47",
    "action: Allow, protocol: '47'": "Allow protocol 47",
    "action: Allow, notProtocol: ICMPv6": "Allow not protocol 58",
    "action: Allow, protocol: ICMP, icmp: {type: 8}": "Allow protocol 1 icmp 8",
    "action: Allow, protocol: ICMP, icmp: {type: 3, code: 0}": "Allow protocol 1 icmp 3/0",
    "action: Allow, protocol: ICMP, icmp: {}": "Allow protocol 1",
    "action: Allow, protocol: ICMPv6, notICMP: {type: 128}": "Allow protocol 58 not icmp 128",
    "action: Allow, ipVersion: 6": "Allow v6",
    "action: Allow, protocol: TCP, destination: {ports: [443, '80', '8000:8010', web]}": (
        "Allow protocol 6 to :80-80, :443-443, :8000-8010, :web"
    ),
    "action: Allow, protocol: SCTP, source: {notPorts: ['1:9']}": "Allow protocol 132 from not :1-9",
    "action: Allow, destination: {ports: [web, 'a.b_C']}": "Allow to :a.b_C, :web",
    "action: Allow, source: {notNets: [10.0.0.0/8]}": "Allow v4 from not 10.0.0.0/8",
    "action: Allow, source: {notNets: ['fd00::/8']}": "Allow v6 from not fd00::/8",
    "action: Allow, ipVersion: 4, source: {nets: ['fd00::/8']}": "Allow nothing from fd00::/8",
    "action: Allow, source: {nets: [10.0.0.0/8]}, destination: {nets: ['fd00::/8']}": (
        "Allow nothing from 10.0.0.0/8 to fd00::/8"
    ),
    "action: Allow, source: {services: {name: a}}, metadata: {annotations: {x: y}}": "Allow from service ns/a",
}


@pytest.mark.parametrize(("rule", "wanted"), RULES.items())
def test_rules(rule: str, wanted: str) -> None:
    assert both(read(np(f"{{ingress: [{{{rule}}}]}}"))) == [wanted]


@pytest.mark.parametrize(
    ("action", "wanted"),
    [
        ("Allow", "Allow nothing"),
        ("Log", "Log nothing"),
        ("Deny", "Deny"),
        ("Pass", "Deny"),
        ("Reject", "Deny"),
    ],
)
@pytest.mark.parametrize(
    "rule",
    [
        "source: {selector: \"a = 'b'\"}",
        "source: {nets: [10.0.0.1/8]}",
        "protocol: HTTP",
        "protocol: TCP, destination: {ports: ['9:1']}",
        "protocol: TCP, destination: {ports: [0]}",
        "icmp: {type: 8}",
        "hours: 8",
        "source: {moons: {}}",
        "source: {services: {}}",
        "ipVersion: 5",
    ],
)
def test_what_cannot_be_read_fails_closed(action: str, wanted: str, rule: str) -> None:
    """And only that rule does."""
    found, problems = inspect(np(f"{{ingress: [{{action: {action}, {rule}}}, {{action: Allow}}]}}"))
    assert both(found) == [wanted, "Allow"]
    assert len(problems) == 1 and problems[0].path.startswith("spec.ingress[0].") and problems[0].refused


def test_both_families_in_a_list_are_a_mistake_that_does_no_harm() -> None:
    found, problems = inspect(np("{ingress: [{action: Allow, source: {nets: [10.0.0.0/8, 'fd00::/8']}}]}"))
    assert both(found) == ["Allow from 10.0.0.0/8, fd00::/8"] and problems[0].refused


def test_http_matches_nothing_and_is_reported() -> None:
    found, problems = inspect(np("{ingress: [{action: Allow, http: {methods: [GET], paths: [{prefix: /a}]}}]}"))
    assert both(found) == ["Allow nothing"]
    assert [(each.path, each.refused) for each in problems] == [("spec.ingress[0].http", False)]


@pytest.mark.parametrize(
    ("spec", "enforced", "names"),
    [
        (
            "{doNotTrack: true, applyOnForward: true, ingress: [{action: Deny}]}",
            False,
            ["doNotTrack", "applyOnForward"],
        ),
        ("{preDNAT: true, applyOnForward: true, ingress: [{action: Deny}]}", False, ["preDNAT", "applyOnForward"]),
        ("{applyOnForward: true, ingress: [{action: Deny}]}", True, ["applyOnForward"]),
    ],
)
def test_what_concerns_hosts_is_reported(spec: str, enforced: bool, names: list[str]) -> None:
    found, problems = inspect(gnp(spec))
    assert (found.ingress is not None) == enforced and found.egress is None
    assert [each.path for each in problems] == [f"spec.{name}" for name in names]
    assert not any(each.refused for each in problems)


@pytest.mark.parametrize(
    ("obj", "path"),
    [
        (np('{selector: "a = 1"}'), "spec.selector"),
        (np("{selector: global()}"), "spec.selector"),
        (np(f"{{selector: \"a == '{'x' * 1_024}'\"}}"), "spec.selector"),
        (gnp("{namespaceSelector: a}"), "spec.namespaceSelector"),
        (np("{serviceAccountSelector: a}"), "spec.serviceAccountSelector"),
        (np("{types: [In]}"), "spec.types[0]"),
        (np("{types: [Egress, Egress]}"), "spec.types[1]"),
        (np("{order: .nan}"), "spec.order"),
        (np("{order: first}"), "spec.order"),
        (calico("StagedNetworkPolicy", "{stagedAction: Try}"), "spec.stagedAction"),
        (calico("Tier", "{defaultAction: Allow}"), "spec.defaultAction"),
        (calico("Tier", "{order: .inf}"), "spec.order"),
        (calico("NetworkSet", "{nets: {}}"), "spec.nets"),
    ],
)
def test_what_cannot_be_read_at_all(obj: dict[str, Any], path: str) -> None:
    with pytest.raises(PolicyError) as caught:
        inspect(obj)
    assert caught.value.path == path


def test_a_policy_of_a_namespace_has_no_fields_of_the_whole_cluster() -> None:
    found, problems = inspect(np("{doNotTrack: true, namespaceSelector: all()}"))
    assert [each.path for each in problems] == ["spec.doNotTrack", "spec.namespaceSelector"]
    assert found.ingress == ()


@pytest.mark.parametrize(
    ("action", "calculated"), [("Set", True), ("Learn", True), ("Delete", False), ("Ignore", False)]
)
@pytest.mark.parametrize("kind", ["StagedNetworkPolicy", "StagedGlobalNetworkPolicy", "StagedKubernetesNetworkPolicy"])
def test_staged_policies(kind: str, action: str, calculated: bool) -> None:
    found = read(calico(kind, f"{{stagedAction: {action}}}"))
    assert found.staged and (found.ingress is not None) == calculated and found.key.kind == kind


def test_more_rules_than_upstream_takes_are_a_mistake_that_does_no_harm() -> None:
    spec = {"ingress": [{"action": "Allow", "protocol": n % 255 + 1} for n in range(10_000)]}
    found, problems = inspect({**np("{}"), "spec": spec})
    assert len(found.ingress) == 10_000 and [each.path for each in problems] == ["spec.ingress"]


def test_ten_thousand_bad_rules() -> None:
    """Each is told, in a time that grows with their number and not with its square."""
    rule = {"action": "Deny", "source": {"selector": "a = 'b'", "moons": 1}}
    found, problems = inspect({**np("{}"), "spec": {"ingress": [rule] * 10_000}})
    assert {told(each) for each in found.ingress} == {"Deny"}
    assert len(problems) == 10_001 and problems[9_999].path == "spec.ingress[9999].source.moons"


@pytest.mark.parametrize(
    ("name", "tier", "noted", "shown"),
    [
        ("default.web", "default", None, "default.web"),
        ("default.web", "default", {}, "web"),
        ("default.web", "default", {"name": "default.web"}, "default.web"),
        ("gold.web", "gold", {}, "gold.web"),
        ("default.web", "gold", {}, "default.web"),
        ("web", "default", {"labels": {}}, "web"),
    ],
)
def test_names_of_the_older_layout(name: str, tier: str, noted: dict[str, Any] | None, shown: str) -> None:
    notes = {} if noted is None else {"annotations": {"projectcalico.org/metadata": json.dumps(noted)}}
    assert read(calico("GlobalNetworkPolicy", f"{{tier: {tier}}}", name, **notes)).key.name == shown


def test_tiers() -> None:
    assert inspect(calico("Tier", "{}", "t"))[0] == Tier("t", 1_000_000, Action.DENY)
    assert inspect(calico("Tier", "{order: -2.5, defaultAction: Pass}", "t"))[0] == Tier("t", -2.5, Action.PASS)
    for own in TIERS:
        found, problems = inspect(calico("Tier", "{order: 3, defaultAction: Deny}", own.name))
        assert found == own and problems[0].refused, "nobody moves them"


def test_network_sets() -> None:
    spec = "{nets: [10.1.2.3/8, 192.0.2.1, '2001:db8::1', x, 10.0.0.0/8]}"
    obj = calico("NetworkSet", spec, labels={"a": "b", NS: "other"})
    found, problems = inspect(obj)
    assert [str(net) for net in found.nets] == ["10.0.0.0/8", "192.0.2.1/32", "2001:db8::1/128"]
    assert (found.namespace, found.name, found.labels) == ("ns", "p", {"a": "b"})
    assert [each.path for each in problems] == ["spec.nets[3]", f"metadata.labels[{NS}]"]
    noted = {"annotations": {"projectcalico.org/metadata": json.dumps({"labels": {"a": "b"}})}}
    assert inspect(calico("GlobalNetworkSet", "{}", **noted))[0].labels == {"a": "b"}
