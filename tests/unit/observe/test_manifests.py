"""Manifests as people write them, with the line of every field; and what is said of text that cannot be read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.observe.manifests import ManifestError, read

TEXT = """# two documents and a list
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: a, creationTimestamp: 2026-01-01T00:00:00Z}
spec:
  podSelector: {}
  ingress:
  - from:
    - podSelector: {matchLabels: {on: "yes"}}
    ports:
    - port: 80
---
---
apiVersion: v1
kind: PodList
items:
- metadata:
    name: b
    labels: &labels
      app: x
- apiVersion: v1
  kind: Pod
  metadata:
    name: c
    labels: *labels
"""

# Three manifests of an article that lost their indentation on the way.
FLAT_POOL = """apiVersion: projectcalico.org/v3
kind: IPPool
  name: ippool-ipip-cross-subnet-1
  ipipMode: CrossSubnet  
  natOutgoing: true
"""  # noqa: W291
FLAT_POOL_2 = """apiVersion: projectcalico.org/v3
kind: IPPool
    name: ippool-vxlan-cross-subnet-1
    vxlanMode: CrossSubnet
    natOutgoing: true
"""
FLAT_POLICY = """apiVersion: projectcalico.org/v3
kind: NetworkPolicy
    name: allow-tcp-6379
    namespace: production
    selector: color == 'red'
      - action: Allow
        protocol: TCP
          selector: color == 'blue'  
          - 6379
"""  # noqa: W291


POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: a"


def test_objects_and_lines() -> None:
    policy, b, c = read(TEXT, "w.yaml")
    assert policy.object["metadata"]["creationTimestamp"] == "2026-01-01T00:00:00Z"
    assert policy.where() == "w.yaml:2"
    assert policy.where("spec.ingress[0].from[0].podSelector") == "w.yaml:9"
    assert policy.where("spec.ingress[0].ports[0].port") == "w.yaml:11"
    assert policy.where("spec.ingress[3].nowhere") == "w.yaml:7"  # the last step that is there
    assert (b.object["kind"], b.object["apiVersion"], b.line("metadata.name")) == ("Pod", "v1", 18)
    assert c.object["metadata"]["labels"] == {"app": "x"}


def test_json_has_no_lines() -> None:
    inner = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "b"}}
    (one,) = read(json.dumps({"apiVersion": "v1", "kind": "List", "items": [inner]}), "w.json")
    assert (one.object, one.where("spec")) == (inner, "w.json")


@pytest.mark.parametrize(
    ("text", "first"),
    [
        (FLAT_POOL, "ippool-ipip-cross-subnet-1"),
        (FLAT_POOL_2, "ippool-vxlan-cross-subnet-1"),
        (FLAT_POLICY, "allow-tcp-6379"),
    ],
)
def test_lost_indentation_is_explained(text: str, first: str) -> None:
    with pytest.raises(ManifestError) as caught:
        read(text, "copied.yaml")
    error = caught.value
    assert (error.source, error.line) == ("copied.yaml", 3)
    assert f"`name: {first}` is indented below `kind: " in error.remedy
    assert "Put `metadata:` on a line of its own before it" in error.remedy


@pytest.mark.parametrize(
    ("text", "line", "said", "remedy"),
    [
        ("a: [", 2, "not YAML", "begin in the same column"),
        ("\tfoo: 1", 1, "not YAML", "Indent with spaces"),
        ("kind: A\nkind: B", 2, "`kind` stands here twice", "keep one"),
        ("- 1", 1, "this is no object", "apiVersion, kind and metadata"),
        ("kind: X", 1, "an object without `apiVersion`", "its keys are kind"),
        ("apiVersion: v1\nkind: Pod", 1, "a Pod without `metadata.name`", "Write `metadata:`"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: 7}", 3, "without `metadata.name`", "Write"),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: [b]}",
            3,
            "Pod a metadata.labels: expected",
            "kubectl explain pod",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers: x",
            5,
            "spec.containers: expected",
            "explain",
        ),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {n: 7}}", 3, "expected `str`, got `int`", "quotes"),
        ("apiVersion: v1\nkind: PodList\nitems: 3", 3, "items is no list", "Begin each item"),
        ('{"a":', 1, "not JSON", "column 6"),
        ("a: &a [*a]", 1, "contains itself", "Remove the alias"),
        ("{{ .Values.x }}", 1, "template", "helm template"),
        ("a: *b", 1, "not YAML", "in quotes"),
        ("{a: b}: c", 1, "a key must be a text", "in quotes"),
    ],
)
def test_what_cannot_be_read(text: str, line: int, said: str, remedy: str) -> None:
    with pytest.raises(ManifestError) as caught:
        read(text, "x.yaml")
    assert (caught.value.line, said in caught.value.problem, remedy in caught.value.remedy) == (line, True, True), (
        caught.value
    )


def test_documents_beside_objects() -> None:
    tests, pod = read("tests: []\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\n", "t.yaml", beside="tests")
    assert tests.object == {"tests": []} and pod.object["kind"] == "Pod"
    with pytest.raises(ManifestError):
        read("tests: []", "t.yaml")


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = read(text, "x")
    except ManifestError as error:
        assert error.problem and error.remedy
    else:
        assert all(one.object["metadata"]["name"] for one in found)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@given(_VALUES, _VALUES)
def test_hostile_objects_are_read_or_refused(metadata: object, items: object) -> None:
    for value in ({"apiVersion": "v1", "kind": "Pod", "metadata": metadata}, {"kind": "List", "items": items}):
        try:
            read(json.dumps(value), "x")
        except ManifestError as error:
            assert error.problem and error.remedy
