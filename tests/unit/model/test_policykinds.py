"""Whatever stands in a policy: it is read, or refused with the field's path, and nothing else happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from podwire.model.address import Cidr
from podwire.model.expression import parse_selector
from podwire.model.policy import ICMP, ICMPV6, Policy, PortRange, Rule
from podwire.model.policykinds import BY_API, KINDS, SETS, TIER, PolicyKind, written
from podwire.model.written import PolicyError

NAMES = sorted(
    {
        "podSelector namespaceSelector matchLabels matchExpressions key operator values ingress egress from to ports",
        "port endPort protocol ipBlock cidr except policyTypes tier priority subject namespaces pods action name",
        "networks nodes domainNames protocols tcp udp destinationPort number range start end destinationNamedPort",
        "portNumber portRange namedPort order selector types source destination nets notNets notSelector notPorts",
        "serviceAccounts names services namespace icmp notICMP type code notProtocol ipVersion http paths exact",
        "serviceAccountSelector doNotTrack preDNAT applyOnForward stagedAction defaultAction",
    }
)
FIELDS = [name for line in NAMES for name in line.split()]
_WORDS = (
    "TCP In Exists Ingress Egress Allow Deny Pass Log Accept Admin http 10.0.0.0/8 10.0.0.1 ::/0 ::1/129 1:80 80:1 0"
)
TEXTS = st.sampled_from(["", "a == 'b'", "a = 'b'", "global()", "\n", "x" * 300, *_WORDS.split()])
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-2, 70_000), st.floats(), TEXTS, st.text(max_size=5))
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=25,
)
SPECS = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=8)
kinds = pytest.mark.parametrize("kind", [*KINDS, TIER, *SETS], ids=lambda kind: kind.name)


def an_object(kind: PolicyKind[Any], spec: Any) -> dict[str, Any]:
    head = {"name": "default", "namespace": "ns"} if kind.gvr.namespaced else {"name": "default"}
    return {"apiVersion": kind.gvr.api_version, "kind": kind.gvr.kind, "metadata": head, "spec": spec}


@kinds
@given(SPECS | VALUES)
@settings(max_examples=150)
def test_nothing_but_policy_errors(kind: PolicyKind[Any], spec: Any) -> None:
    try:
        found, problems = kind.inspect(written(an_object(kind, spec)))
    except PolicyError as error:
        assert error.path.startswith(("spec", "metadata")) and error.words
        return
    for problem in problems:
        assert problem.path.startswith(("spec", "metadata")) and problem.words
    if isinstance(found, Policy):
        assert found.problems == tuple(map(str, problems))
        assert found.key == kind.key("ns" if kind.gvr.namespaced else "", "default")


ACCEPTED = list(yaml.safe_load_all((Path(__file__).parents[2] / "policies" / "accepted.yaml").read_text()))
MUTATIONS = st.sampled_from(["replace", "remove", "rename", "repeat"])


def mutate(value: Any, draw: Any) -> Any:
    """Something changed somewhere in it, near the top or deep down."""
    if isinstance(value, dict) and value and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(sorted(value)))
        how = draw(MUTATIONS)
        if how == "remove":
            return {name: inner for name, inner in value.items() if name != key}
        if how == "rename":
            return {draw(st.sampled_from(FIELDS)) if name == key else name: inner for name, inner in value.items()}
        return {**value, key: mutate(value[key], draw)}
    if isinstance(value, list) and value and draw(st.integers(0, 3)):
        at = draw(st.integers(0, len(value) - 1))
        if draw(MUTATIONS) == "repeat":
            return [*value, value[at]]
        return [*value[:at], mutate(value[at], draw), *value[at + 1 :]]
    return draw(VALUES)


@given(st.data(), st.sampled_from(ACCEPTED), st.integers(1, 4))
@settings(max_examples=600)
def test_a_good_policy_with_something_wrong_in_it(data: st.DataObject, obj: dict[str, Any], times: int) -> None:
    """Whatever happens, it is a policy with its problems, or a PolicyError."""
    spec = obj["spec"]
    for _ in range(times):
        spec = mutate(spec, data.draw)
    kind = BY_API[obj["apiVersion"], obj["kind"]]
    try:
        found, problems = kind.inspect(written({**obj, "spec": spec}))
    except PolicyError as error:
        assert error.path.startswith(("spec", "metadata")) and error.words
        return
    assert found.problems == tuple(map(str, problems)) if isinstance(found, Policy) else True
    if isinstance(found, Policy):
        for rule in (*(found.ingress or ()), *(found.egress or ())):
            assert_sound(rule)


def assert_sound(rule: Rule) -> None:
    """What the compiler takes for granted."""
    for entity in (rule.source, rule.destination):
        for peers in (entity.peers, entity.not_peers):
            assert peers is None or parse_selector(peers.selector).text == peers.selector
        for port in (*entity.ports, *entity.not_ports):
            assert not isinstance(port, PortRange) or 1 <= port.first <= port.last <= 65_535
        for net in (*entity.nets, *entity.not_nets):
            assert 0 <= net.length <= net.width and net == Cidr.around(net.first, net.length, net.width)
    assert rule.protocol is None or 1 <= rule.protocol <= 255
    assert rule.version in (None, 4, 6) and rule.label
    if rule.icmp or rule.not_icmp:
        assert rule.protocol in (ICMP, ICMPV6)


@kinds
def test_deep_objects_are_errors(kind: PolicyKind[Any]) -> None:
    spec: Any = {}
    for _ in range(100_000):
        spec = {"ingress": [spec]}
    with pytest.raises(PolicyError, match="nested too deeply"):
        kind.inspect(written(an_object(kind, spec)))


def test_every_kind_stands_once_in_the_table() -> None:
    assert len(BY_API) == len({kind.name for kind in BY_API.values()}) == 12
    assert {kind.gvr.kind for kind in BY_API.values()} >= {"Tier", "NetworkSet", "ClusterNetworkPolicy"}
