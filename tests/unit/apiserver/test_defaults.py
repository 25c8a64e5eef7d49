"""Defaults, strict decoding, and that both leave a sound object sound."""

from __future__ import annotations

from typing import Any

import pytest

from podwire.apiserver.defaults import default
from podwire.apiserver.defaults_pod import pull_policy, qos_class
from podwire.apiserver.fields import built_in_kinds, schema_for
from podwire.apiserver.patches import clone
from podwire.apiserver.strict import TypeMismatch, conform, duplicate_keys, unknown_fields

CONTAINER = {"name": "c", "image": "nginx"}


def defaulted(obj: dict[str, Any]) -> dict[str, Any]:
    default(obj)
    again = clone(obj)
    default(again)
    assert again == obj, "defaulting twice must change nothing"
    return obj


def test_a_pod() -> None:
    spec = defaulted({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [clone(CONTAINER)]}})["spec"]
    assert spec == {
        "containers": [
            {
                **CONTAINER,
                "imagePullPolicy": "Always",
                "resources": {},
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
            }
        ],
        "dnsPolicy": "ClusterFirst",
        "enableServiceLinks": True,
        "restartPolicy": "Always",
        "schedulerName": "default-scheduler",
        "securityContext": {},
        "terminationGracePeriodSeconds": 30,
    }


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1.25", "IfNotPresent"),
        ("host:5000/nginx", "Always"),
        ("host:5000/nginx:1", "IfNotPresent"),
        ("nginx@sha256:" + "0" * 64, "IfNotPresent"),
    ],
)
def test_pull_policy(image: str, policy: str) -> None:
    assert pull_policy(image) == policy


@pytest.mark.parametrize(
    ("obj", "path", "value"),
    [
        ({"apiVersion": "apps/v1", "kind": "Deployment"}, "spec.strategy.rollingUpdate.maxSurge", "25%"),
        ({"apiVersion": "apps/v1", "kind": "Deployment"}, "spec.progressDeadlineSeconds", 600),
        ({"apiVersion": "apps/v1", "kind": "DaemonSet"}, "spec.updateStrategy.rollingUpdate.maxUnavailable", 1),
        ({"apiVersion": "apps/v1", "kind": "ReplicaSet"}, "spec.replicas", 1),
        ({"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 80}]}}, "spec.ports.0.targetPort", 80),
        (
            {"apiVersion": "v1", "kind": "Service", "spec": {"type": "NodePort"}},
            "spec.externalTrafficPolicy",
            "Cluster",
        ),
        ({"apiVersion": "v1", "kind": "Service"}, "spec.internalTrafficPolicy", "Cluster"),
        ({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}, "spec.policyTypes", ["Ingress"]),
        (
            {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "spec": {"egress": [{}]}},
            "spec.policyTypes",
            ["Ingress", "Egress"],
        ),
        ({"apiVersion": "v1", "kind": "Secret", "stringData": {"a": "hello"}}, "data.a", "aGVsbG8="),
        (
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}},
            "metadata.labels",
            {"kubernetes.io/metadata.name": "n"},
        ),
        (
            {"apiVersion": "v1", "kind": "Node", "status": {"capacity": {"cpu": "2"}}},
            "status.allocatable",
            {"cpu": "2"},
        ),
    ],
)
def test_other_kinds(obj: dict[str, Any], path: str, value: Any) -> None:
    here: Any = defaulted(clone(obj))
    for part in path.split("."):
        here = here[int(part) if part.isdigit() else part]
    assert here == value


@pytest.mark.parametrize(("api_version", "kind"), built_in_kinds())
def test_defaults_fit_the_field_table(api_version: str, kind: str) -> None:
    obj = {"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}}
    default(obj)
    schema = schema_for(api_version, kind)
    assert schema is not None
    assert conform(obj, schema) == []


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, "BestEffort"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}, "Guaranteed"),
        ({"requests": {"cpu": "1"}}, "Burstable"),
    ],
)
def test_quality_of_service(resources: dict[str, Any], expected: str) -> None:
    assert qos_class({"containers": [{"resources": resources}]}) == expected


def test_unknown_fields_are_named_and_dropped() -> None:
    schema = schema_for("v1", "Pod")
    assert schema is not None
    pod = {
        "spec": {"containers": [{"name": "c", "imagee": "x", "env": [{"nme": "a"}]}], "foo": {"x": 1}, "nodeName": None}
    }
    expected = [
        'unknown field "spec.containers[0].imagee"',
        'unknown field "spec.containers[0].env[0].nme"',
        'unknown field "spec.foo"',
    ]
    assert sorted(unknown_fields(pod, schema)) == sorted(expected)
    assert sorted(conform(pod, schema)) == sorted(expected)
    pod["spec"]["containers"][0].pop("resources")  # always written
    assert pod == {"spec": {"containers": [{"name": "c", "env": [{"name": ""}]}]}, "status": {}}


@pytest.mark.parametrize(
    "pod",
    [
        {"spec": {"containers": {}}},
        {"spec": {"containers": [{"name": 5}]}},
        {"spec": {"hostNetwork": "yes"}},
        {"spec": {"terminationGracePeriodSeconds": "30"}},
        {"spec": {"containers": [{"ports": [{"containerPort": 2**40}]}]}},
        {"metadata": {"labels": {"a": 1}}},
        {"metadata": {"labels": ["a"]}},
        {"spec": "x"},
    ],
)
def test_wrong_types_are_refused(pod: dict[str, Any]) -> None:
    schema = schema_for("v1", "Pod")
    assert schema is not None
    with pytest.raises(TypeMismatch, match="cannot unmarshal"):
        conform(pod, schema)


def test_duplicate_keys() -> None:
    body = b'{"spec":{"a":1,"a":2,"l":[{"b":1,"b":1}]},"spec":{}}'
    assert sorted(duplicate_keys(body)) == [
        'duplicate field "spec"',
        'duplicate field "spec.a"',
        'duplicate field "spec.l[0].b"',
    ]
    assert duplicate_keys(b"{broken") == []
