"""Validation: what is refused, at which field, for which reason."""

# ruff: noqa: E501
from __future__ import annotations

from typing import Any

import pytest

from podwire.apiserver.defaults import default
from podwire.apiserver.patches import clone, merge_patch
from podwire.apiserver.validation import validate

CONTAINER = {"name": "c", "image": "nginx:1"}
POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [CONTAINER]}}
LABELS = {"app": "web"}
DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "d"},
    "spec": {
        "selector": {"matchLabels": LABELS},
        "template": {"metadata": {"labels": LABELS}, "spec": {"containers": [CONTAINER]}},
    },
}
SERVICE = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}
POLICY = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "n"}, "spec": {}}
CONFIG = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "b"}}


def found(obj: dict[str, Any], old: dict[str, Any] | None = None) -> list[tuple[str, str]]:
    obj, old = clone(obj), clone(old)
    for each in (obj, old):
        if each is not None:
            default(each)
    return [(cause.field, cause.type.removeprefix("FieldValue")) for cause in validate(obj, old)]


@pytest.mark.parametrize("obj", [POD, DEPLOYMENT, SERVICE, POLICY, CONFIG], ids=lambda obj: obj["kind"])
def test_good_objects_pass(obj: dict[str, Any]) -> None:
    assert found(obj) == []
    assert found(obj, obj) == []


def container(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{**CONTAINER, **fields}]}}


C = "spec.containers[0]"
BAD_PODS = [
    ({"metadata": {"name": "Web"}}, ("metadata.name", "Invalid")),
    ({"metadata": {"name": None}}, ("metadata.name", "Required")),
    ({"metadata": {"labels": {"a b": "x"}}}, ("metadata.labels", "Invalid")),
    ({"metadata": {"labels": {"a": "x y"}}}, ("metadata.labels", "Invalid")),
    ({"spec": {"containers": []}}, ("spec.containers", "Required")),
    ({"spec": {"containers": [CONTAINER, CONTAINER]}}, ("spec.containers[1].name", "Duplicate")),
    (container(image=""), (f"{C}.image", "Required")),
    (container(name="A"), (f"{C}.name", "Invalid")),
    (container(ports=[{"containerPort": 70000}]), (f"{C}.ports[0].containerPort", "Invalid")),
    (container(ports=[{"containerPort": 80, "protocol": "ICMP"}]), (f"{C}.ports[0].protocol", "NotSupported")),
    (
        container(ports=[{"containerPort": 80, "name": "a"}, {"containerPort": 81, "name": "a"}]),
        (f"{C}.ports[1].name", "Duplicate"),
    ),
    (
        container(ports=[{"containerPort": 80, "hostPort": 8}, {"containerPort": 81, "hostPort": 8}]),
        (f"{C}.ports[1].hostPort", "Duplicate"),
    ),
    (container(volumeMounts=[{"name": "v", "mountPath": "/x"}]), (f"{C}.volumeMounts[0].name", "NotFound")),
    (container(env=[{"name": ""}]), (f"{C}.env[0].name", "Required")),
    (
        container(env=[{"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]),
        (f"{C}.env[0].valueFrom", "Invalid"),
    ),
    (container(imagePullPolicy="Maybe"), (f"{C}.imagePullPolicy", "NotSupported")),
    (container(livenessProbe={}), (f"{C}.livenessProbe", "Required")),
    (
        container(livenessProbe={"tcpSocket": {"port": 80}, "exec": {"command": ["x"]}}),
        (f"{C}.livenessProbe.tcpSocket", "Forbidden"),
    ),
    (container(livenessProbe={"httpGet": {"port": 0}}), (f"{C}.livenessProbe.httpGet.port", "Invalid")),
    (container(resources={"limits": {"cpu": "many"}}), (f"{C}.resources.limits[cpu]", "Invalid")),
    (container(resources={"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}), (f"{C}.resources.requests", "Invalid")),
    ({"spec": {"restartPolicy": "Perhaps"}}, ("spec.restartPolicy", "NotSupported")),
    ({"spec": {"dnsPolicy": "None"}}, ("spec.dnsConfig", "Required")),
    ({"spec": {"tolerations": [{"effect": "NoExecute"}]}}, ("spec.tolerations[0].operator", "Invalid")),
    (
        {"spec": {"volumes": [{"name": "v", "emptyDir": {}}, {"name": "v", "emptyDir": {}}]}},
        ("spec.volumes[1].name", "Duplicate"),
    ),
    ({"spec": {"volumes": [{"name": "v", "configMap": {}}]}}, ("spec.volumes[0].configMap.name", "Required")),
    ({"spec": {"initContainers": [CONTAINER]}}, ("spec.initContainers[0].name", "Duplicate")),
]


@pytest.mark.parametrize(("change", "expected"), BAD_PODS, ids=lambda case: str(case)[:50])
def test_bad_pods(change: dict[str, Any], expected: tuple[str, str]) -> None:
    assert expected in found(merge_patch(POD, change))


@pytest.mark.parametrize(
    ("base", "change", "expected"),
    [
        (DEPLOYMENT, {"spec": {"replicas": -1}}, ("spec.replicas", "Invalid")),
        (
            DEPLOYMENT,
            {"spec": {"selector": {"matchLabels": {"app": "x"}}}},
            ("spec.template.metadata.labels", "Invalid"),
        ),
        (DEPLOYMENT, {"spec": {"selector": None}}, ("spec.selector", "Required")),
        (DEPLOYMENT, {"spec": {"strategy": {"type": "Slow"}}}, ("spec.strategy", "NotSupported")),
        (
            DEPLOYMENT,
            {"spec": {"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}}},
            ("spec.strategy.rollingUpdate.maxUnavailable", "Invalid"),
        ),
        (
            DEPLOYMENT,
            {"spec": {"template": {"spec": {"restartPolicy": "Never"}}}},
            ("spec.template.spec.restartPolicy", "NotSupported"),
        ),
        (SERVICE, {"spec": {"ports": []}}, ("spec.ports", "Required")),
        (SERVICE, {"spec": {"ports": [{"port": 1}, {"port": 2}]}}, ("spec.ports[0].name", "Required")),
        (
            SERVICE,
            {"spec": {"ports": [{"port": 1, "name": "a"}, {"port": 1, "name": "b"}]}},
            ("spec.ports[1]", "Duplicate"),
        ),
        (SERVICE, {"spec": {"ports": [{"port": 0}]}}, ("spec.ports[0].port", "Invalid")),
        (SERVICE, {"spec": {"ports": [{"port": 80, "nodePort": 30000}]}}, ("spec.ports[0].nodePort", "Forbidden")),
        (SERVICE, {"spec": {"type": "Magic"}}, ("spec.type", "NotSupported")),
        (SERVICE, {"spec": {"type": "ExternalName"}}, ("spec.externalName", "Required")),
        (POLICY, {"spec": {"ingress": [{"from": [{}]}]}}, ("spec.ingress[0].from[0]", "Required")),
        (
            POLICY,
            {"spec": {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}]}},
            ("spec.ingress[0].from[0].ipBlock.cidr", "Invalid"),
        ),
        (
            POLICY,
            {"spec": {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}]}},
            ("spec.ingress[0].from[0].ipBlock.except[0]", "Invalid"),
        ),
        (
            POLICY,
            {"spec": {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}]}},
            ("spec.egress[0].to[0]", "Forbidden"),
        ),
        (
            POLICY,
            {"spec": {"ingress": [{"ports": [{"port": 80, "endPort": 79}]}]}},
            ("spec.ingress[0].ports[0].endPort", "Invalid"),
        ),
        (
            POLICY,
            {"spec": {"ingress": [{"ports": [{"port": "web", "endPort": 90}]}]}},
            ("spec.ingress[0].ports[0].endPort", "Invalid"),
        ),
        (POLICY, {"spec": {"policyTypes": ["Sideways"]}}, ("spec.policyTypes[0]", "NotSupported")),
        (
            POLICY,
            {"spec": {"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}},
            ("spec.podSelector.matchExpressions[0].values", "Required"),
        ),
        (CONFIG, {"data": {"a b": "x"}}, ("data[a b]", "Invalid")),
        (CONFIG, {"data": {"..": "x"}}, ("data[..]", "Invalid")),
    ],
    ids=lambda case: str(case)[:60],
)
def test_other_bad_objects(base: dict[str, Any], change: dict[str, Any], expected: tuple[str, str]) -> None:
    assert expected in found(merge_patch(base, change))


@pytest.mark.parametrize(
    ("old", "change", "expected"),
    [
        (POD, {"spec": {"restartPolicy": "Never"}}, [("spec", "Forbidden")]),
        (POD, container(image="other:2"), []),
        (POD, {"spec": {"tolerations": [{"operator": "Exists"}]}}, []),
        (POD, {"spec": {"containers": [CONTAINER, {"name": "d", "image": "x:1"}]}}, [("spec.containers", "Forbidden")]),
        (
            DEPLOYMENT,
            {"spec": {"selector": {"matchLabels": None, "matchExpressions": [{"key": "app", "operator": "Exists"}]}}},
            [("spec.selector", "Invalid")],
        ),
        (
            merge_patch(SERVICE, {"spec": {"clusterIP": "10.96.0.5"}}),
            {"spec": {"clusterIP": "10.96.0.6"}},
            [("spec.clusterIPs[0]", "Invalid")],
        ),
        (merge_patch(CONFIG, {"immutable": True}), {"data": {"a": "c"}}, [("data", "Forbidden")]),
        (merge_patch(CONFIG, {"immutable": True}), {"immutable": False}, [("immutable", "Forbidden")]),
    ],
    ids=lambda case: str(case)[:60],
)
def test_changes(old: dict[str, Any], change: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert found(merge_patch(old, change), old) == expected


def test_the_wording_is_upstreams() -> None:
    bad = merge_patch(POD, {"metadata": {"name": "A_b"}})
    default(bad)
    (cause,) = validate(bad)
    assert cause.message == (
        "Invalid value: \"A_b\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or"
        " '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is"
        r" '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
    )


def test_prefixes_that_were_stored_before_they_were_to_be_strict_may_stay() -> None:
    def policy(*cidrs: str) -> dict[str, Any]:
        return {**POLICY, "spec": {"ingress": [{"from": [{"ipBlock": {"cidr": each}} for each in cidrs]}]}}

    old = policy("10.0.0.5/24")
    assert not validate(policy("10.0.0.5/24", "10.1.0.0/16"), old)
    assert [cause.field for cause in validate(policy("10.0.0.5/24", "10.1.0.5/16"), old)] == [
        "spec.ingress[0].from[1].ipBlock.cidr"
    ]
