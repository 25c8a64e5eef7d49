"""NetworkPolicies of Kubernetes: defaults as at write time, empty versus missing, and what cannot be read."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from podwire.model.policy import KUBERNETES_ORDER, Policy, PolicyKey
from podwire.model.policykinds import BY_API, written
from podwire.model.selectors import SelectorError, label_selector
from podwire.model.written import PolicyError
from tests.unit.model.reading import inspect, read, told

HEAD = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p", "namespace": "ns"}}
OURS = 'projectcalico.org/namespace == "ns" && projectcalico.org/orchestrator == "k8s"'
POD = 'projectcalico.org/orchestrator == "k8s"'


def policy(spec: str) -> dict[str, Any]:
    return {**HEAD, "spec": yaml.safe_load(spec)}


def rules(found: Policy) -> tuple[list[str] | None, list[str] | None]:
    return tuple(None if each is None else [told(rule) for rule in each] for each in (found.ingress, found.egress))  # type: ignore[return-value]


def test_where_it_stands() -> None:
    found = read(policy("{podSelector: {}}"))
    assert found.key == PolicyKey("NetworkPolicy", "ns", "p") and str(found.key) == "NetworkPolicy ns/p"
    assert (found.tier, found.order, found.staged) == ("default", KUBERNETES_ORDER, False)


@pytest.mark.parametrize(
    ("selector", "wanted"),
    [
        ("{}", f"({OURS})"),
        ("{matchLabels: {b: x, a: y}}", f'({OURS} && a == "y" && b == "x")'),
        ("{matchLabels: {a: ''}}", f'({OURS} && a == "")'),
        ("{matchExpressions: [{key: a, operator: In, values: [y, x, x]}]}", f'({OURS} && a in {{"x", "y"}})'),
        ("{matchExpressions: [{key: a, operator: In, values: [x]}]}", f'({OURS} && a == "x")'),
        ("{matchExpressions: [{key: a, operator: NotIn, values: [x]}]}", f'({OURS} && a != "x")'),
        ("{matchExpressions: [{key: a, operator: NotIn, values: [x, y]}]}", f'({OURS} && a not in {{"x", "y"}})'),
        ("{matchExpressions: [{key: a/b, operator: Exists}]}", f"({OURS} && has(a/b))"),
        ("{matchExpressions: [{key: a, operator: DoesNotExist, values: []}]}", f"({OURS} && !has(a))"),
        ("null", f"({OURS})"),
    ],
)
def test_subject(selector: str, wanted: str) -> None:
    assert read(policy(f"{{podSelector: {selector}}}")).subject.selector == wanted


@pytest.mark.parametrize(
    ("spec", "ingress", "egress"),
    [
        ("{}", [], None),
        ("{ingress: []}", [], None),
        ("{egress: []}", [], None),
        ("{egress: [{}]}", [], ["Allow"]),
        ("{policyTypes: [Egress]}", None, []),
        ("{policyTypes: [Egress], ingress: [{}]}", None, []),
        ("{policyTypes: [Ingress], egress: [{}]}", [], None),
        ("{policyTypes: [Ingress, Ingress]}", [], None),
        ("{policyTypes: [Ingress, Egress], ingress: [{}], egress: [{}]}", ["Allow"], ["Allow"]),
        ("{policyTypes: [], ingress: null, egress: [{}]}", [], ["Allow"]),
    ],
)
def test_directions(spec: str, ingress: list[str] | None, egress: list[str] | None) -> None:
    assert rules(read(policy(spec))) == (ingress, egress)


INGRESS = {
    "{}": ["Allow"],
    "{from: []}": ["Allow"],
    "{ports: []}": ["Allow"],
    "{ports: [{}]}": ["Allow protocol 6"],
    "{ports: [{protocol: UDP}]}": ["Allow protocol 17"],
    "{ports: [{protocol: SCTP, port: 9}]}": ["Allow protocol 132 to :9-9"],
    "{ports: [{port: 80}, {port: 81}, {port: 90, endPort: 95}, {port: 92}]}": ["Allow protocol 6 to :80-81, :90-95"],
    "{ports: [{port: 80}, {}]}": ["Allow protocol 6"],
    "{ports: [{}, {port: 80}]}": ["Allow protocol 6"],
    "{ports: [{port: 80}, {port: http}, {port: http}]}": ["Allow protocol 6 to :80-80, :http"],
    "{ports: [{port: 7, endPort: 7}]}": ["Allow protocol 6 to :7-7"],
    "{ports: [{port: 53, protocol: UDP}, {port: 53}]}": ["Allow protocol 17 to :53-53", "Allow protocol 6 to :53-53"],
    "{from: [{podSelector: {}}]}": [f"Allow from ({OURS})"],
    "{from: [{namespaceSelector: {}}]}": [f"Allow from {POD}"],
    "{from: [{namespaceSelector: {matchLabels: {t: x}}}]}": [f'Allow from (pcns.t == "x" && {POD})'],
    "{from: [{namespaceSelector: {matchExpressions: [{key: t, operator: DoesNotExist}]}}]}": [
        f"Allow from (!has(pcns.t) && {POD})"
    ],
    "{from: [{namespaceSelector: {}, podSelector: {matchLabels: {a: b}}}]}": [f'Allow from ({POD} && a == "b")'],
    "{from: [{namespaceSelector: {}}, {podSelector: {matchLabels: {a: b}}}]}": [
        f"Allow from {POD}",
        f'Allow from ({OURS} && a == "b")',
    ],
    "{from: [{ipBlock: {cidr: 10.0.0.0/8}}, {ipBlock: {cidr: 'fd00::/8'}}, {ipBlock: {cidr: 10.0.0.0/8}}]}": [
        "Allow from 10.0.0.0/8, fd00::/8"
    ],
    "{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16, 10.1.0.0/16]}}, {ipBlock: {cidr: 1.0.0.0/8}}]}": [
        "Allow from 10.0.0.0/8, not 10.1.0.0/16",
        "Allow from 1.0.0.0/8",
    ],
    "{from: [{ipBlock: {cidr: 10.1.2.3/8}}]}": ["Allow from 10.0.0.0/8"],
    "{from: [{ipBlock: {cidr: '::ffff:10.0.0.0/104'}}]}": ["Allow from 10.0.0.0/8"],
    "{from: [{podSelector: {}}], ports: [{port: 1}, {port: 2, protocol: UDP}]}": [
        f"Allow protocol 6 from ({OURS}) to :1-1",
        f"Allow protocol 17 from ({OURS}) to :2-2",
    ],
}


@pytest.mark.parametrize(("rule", "wanted"), INGRESS.items())
def test_ingress_rules(rule: str, wanted: list[str]) -> None:
    assert rules(read(policy(f"{{ingress: [{rule}]}}")))[0] == wanted


def test_egress_rules_look_the_other_way() -> None:
    spec = (
        "{policyTypes: [Egress], egress: [{to: [{podSelector: {}}, {ipBlock: {cidr: 1.0.0.0/8}}], ports: [{port: x}]}]}"
    )
    assert rules(read(policy(spec)))[1] == [f"Allow protocol 6 to ({OURS}), :x", "Allow protocol 6 to 1.0.0.0/8, :x"]


def test_rules_are_called_by_their_place() -> None:
    found = read(policy("{ingress: [{}, {ports: [{}, {protocol: UDP}]}], egress: [{}]}"))
    assert [rule.label for rule in found.ingress or ()] == ["ingress[0]", "ingress[1]", "ingress[1]"]
    assert [rule.label for rule in found.egress or ()] == ["egress[0]"]


UNREADABLE = {
    "a peer that is nobody": ("{from: [{}]}", ["Allow nothing"], "spec.ingress[0].from[0]: must specify a peer"),
    "one peer of two": (
        "{from: [{}, {podSelector: {}}]}",
        [f"Allow from ({OURS})"],
        "spec.ingress[0].from[0]: must specify a peer",
    ),
    "a peer of both kinds": (
        "{from: [{ipBlock: {cidr: 1.0.0.0/8}, podSelector: {}}]}",
        ["Allow nothing"],
        "spec.ingress[0].from[0]: may not specify both",
    ),
    "an impossible prefix": (
        "{from: [{ipBlock: {cidr: 1.0.0.0/40}}]}",
        ["Allow nothing"],
        "spec.ingress[0].from[0].ipBlock.cidr: '1.0.0.0/40' is not a CIDR",
    ),
    "an address alone": (
        "{from: [{ipBlock: {cidr: 1.0.0.0}}]}",
        ["Allow nothing"],
        "spec.ingress[0].from[0].ipBlock.cidr: '1.0.0.0' is not a CIDR: it has no length",
    ),
    "no prefix": ("{from: [{ipBlock: {}}]}", ["Allow nothing"], "spec.ingress[0].from[0].ipBlock.cidr: must be given"),
    "an exception outside": (
        "{from: [{ipBlock: {cidr: 1.0.0.0/8, except: [2.0.0.0/16]}}]}",
        ["Allow nothing"],
        "spec.ingress[0].from[0].ipBlock.except[0]: 2.0.0.0/16 must be a strict subset",
    ),
    "an exception of everything": (
        "{from: [{ipBlock: {cidr: 1.0.0.0/8, except: [1.0.0.0/8]}}]}",
        ["Allow nothing"],
        "must be a strict subset",
    ),
    "an exception of the other family": (
        "{from: [{ipBlock: {cidr: 0.0.0.0/0, except: ['::/1']}}]}",
        ["Allow nothing"],
        "must be a strict subset",
    ),
    "a selector of a peer": (
        "{from: [{podSelector: {matchExpressions: [{key: a, operator: Is}]}}]}",
        ["Allow nothing"],
        "spec.ingress[0].from[0].podSelector.matchExpressions[0].operator: 'Is' is none of",
    ),
    "a protocol": ("{ports: [{protocol: tcp}]}", ["Allow nothing"], "spec.ingress[0].ports[0].protocol: 'tcp' is none"),
    "one port of two": (
        "{ports: [{port: 0}, {port: 80}]}",
        ["Allow protocol 6 to :80-80"],
        "spec.ingress[0].ports[0].port: 0 is no port",
    ),
    "a number in quotes": ("{ports: [{port: '80'}]}", ["Allow nothing"], "'80' is no port's name"),
    "a long name": ("{ports: [{port: abcdefghijklmnop}]}", ["Allow nothing"], "is no port's name"),
    "hyphens": ("{ports: [{port: a--b}]}", ["Allow nothing"], "is no port's name"),
    "an inverted range": (
        "{ports: [{port: 90, endPort: 80}]}",
        ["Allow nothing"],
        "spec.ingress[0].ports[0].endPort: 80 must be greater than or equal to `port` (90)",
    ),
    "an end without beginning": ("{ports: [{endPort: 80}]}", ["Allow nothing"], "when `port` is not specified"),
    "an end of a name": ("{ports: [{port: a, endPort: 80}]}", ["Allow nothing"], "when `port` is non-numeric"),
    "a field of tomorrow": ("{hours: 8}", ["Allow nothing"], "spec.ingress[0].hours: there is no such field"),
    "a peer of tomorrow": (
        "{from: [{moons: {}}, {podSelector: {}}]}",
        [f"Allow from ({OURS})"],
        "spec.ingress[0].from[0].moons: there is no such field",
    ),
    "a narrower peer of tomorrow": (
        "{from: [{podSelector: {}, moons: {}}]}",
        ["Allow nothing"],
        "spec.ingress[0].from[0].moons: there is no such field",
    ),
    "a narrower port of tomorrow": (
        "{ports: [{port: 80, moons: {}}]}",
        ["Allow nothing"],
        "spec.ingress[0].ports[0].moons: there is no such field",
    ),
}


@pytest.mark.parametrize(("rule", "wanted", "problem"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_matches_nothing(rule: str, wanted: list[str], problem: str) -> None:
    """The rest of the policy stands."""
    found, problems = inspect(policy(f"{{ingress: [{rule}, {{ports: [{{port: 1}}]}}]}}"))
    assert rules(found)[0] == [*wanted, "Allow protocol 6 to :1-1"]
    assert problem in str(problems[0]) and problems[0].refused and len(problems) == 1
    assert found.problems == tuple(map(str, problems))


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ("{podSelector: {matchLabels: {'a b': x}}}", "spec.podSelector.matchLabels"),
        ("{podSelector: {matchLabels: {a: 'x y'}}}", "spec.podSelector.matchLabels"),
        ("{podSelector: {matchLabels: {a: 1}}}", "spec.podSelector.matchLabels[...]"),
        ("{podSelector: {matchExpressions: [{key: a, operator: In}]}}", "spec.podSelector.matchExpressions[0].values"),
        ("{podSelector: {other: 1}}", "spec.podSelector.other"),
        ("{policyTypes: [Sideways]}", "spec.policyTypes[0]"),
        ("{policyTypes: [Ingress, Egress, Ingress]}", "spec.policyTypes"),
        ("{ingress: {}}", "spec.ingress"),
        ("{ingress: [{ports: [{port: 80.5}]}]}", "spec.ingress[0].ports[0].port"),
        ("[]", "spec"),
        ("x", "spec"),
    ],
)
def test_without_a_subject_there_is_no_policy(spec: str, path: str) -> None:
    with pytest.raises(PolicyError) as caught:
        inspect(policy(spec))
    assert caught.value.path == path


def test_labels_at_their_limits() -> None:
    key, value = "k" * 253 + "/" + "n" * 63, "v" * 63
    assert (
        f'{key} == "{value}"' in read(policy(f"{{podSelector: {{matchLabels: {{{key}: {value}}}}}}}")).subject.selector
    )
    for wrong in (key + "n", "/a", "a/", "-a", "a_/b", "a/b/c"):
        with pytest.raises(PolicyError, match="no label's name"):
            inspect(policy(f"{{podSelector: {{matchLabels: {{'{wrong}': x}}}}}}"))
    with pytest.raises(PolicyError, match="no label's value"):
        inspect(policy(f"{{podSelector: {{matchLabels: {{a: {value}v}}}}}}"))


def test_a_line_break_is_in_no_label() -> None:
    for labels in ({"a": "x\n"}, {"a\n": "x"}):
        with pytest.raises(PolicyError, match="no label's"):
            inspect({**HEAD, "spec": {"podSelector": {"matchLabels": labels}}})
        with pytest.raises(SelectorError):
            label_selector({"matchLabels": labels})


def test_ten_thousand_rules_and_a_megabyte() -> None:
    """As many as may stand in one object of the API; each is read, and one bad one among them spoils no other."""
    many = [
        {"from": [{"ipBlock": {"cidr": f"10.{n >> 8}.{n & 255}.0/24"}}], "ports": [{"port": 80}]} for n in range(9_999)
    ]
    found, problems = inspect({**HEAD, "spec": {"ingress": [*many, {"from": [{"ipBlock": {"cidr": "x"}}]}]}})
    assert len(found.ingress) == 10_000 and len(problems) == 1
    assert problems[0].path == "spec.ingress[9999].from[0].ipBlock.cidr"
    peers = [{"ipBlock": {"cidr": f"10.{n >> 8}.{n & 255}.0/24"}} for n in range(20_000)]
    found = read({**HEAD, "spec": {"ingress": [{"from": peers, "ports": [{"port": n} for n in range(1, 60_000, 2)]}]}})
    assert len(found.ingress or ()) == 1
    values = [f"value-{n}" for n in range(100_000)]
    requirement = {"key": "a", "operator": "In", "values": values}
    found = read({**HEAD, "spec": {"podSelector": {"matchExpressions": [requirement]}}})
    assert len(found.subject.selector) > 1_000_000


def test_a_name_of_253_characters() -> None:
    name = "a" * 253
    obj = {**HEAD, "metadata": {"name": name, "namespace": "n" * 63}, "spec": {}}
    kind = BY_API[obj["apiVersion"], obj["kind"]]  # type: ignore[index]
    assert kind.convert(written(obj)).key.name == name
