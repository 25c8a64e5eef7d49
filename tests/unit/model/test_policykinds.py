"""Whatever stands in a policy: it is read, or refused with the field's path, and nothing else happens."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podwire.model.policy import Policy
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
