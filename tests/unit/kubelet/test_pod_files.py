"""Environment, downward API, resolv.conf, hosts: tables of what a pod says and what it gets."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.kubelet import dnsfiles, downward, env
from podwire.kubelet.dnsfiles import Resolver

NODE = downward.NodeFacts("n1", "172.18.0.3", Decimal(4), Decimal(8 << 30))


def pod(**spec: Any) -> dict[str, Any]:
    metadata = {
        "name": "web-1",
        "namespace": "shop",
        "uid": "u1",
        "labels": {"app": "web"},
        "annotations": {"a": 'x"y'},
    }
    return {"metadata": metadata, "spec": {"containers": [], **spec}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("$(A)", "1"),
        ("$(A)$(B)", "12"),
        ("$(NONE)", "$(NONE)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A", "$A"),
        ("a$", "a$"),
        ("$(A", "$(A"),
        ("x-$(B)-y", "x-2-y"),
        ("$", "$"),
    ],
)
def test_expand(text: str, expected: str) -> None:
    assert env.expand(text, {"A": "1", "B": "2"}) == expected


@given(st.text(alphabet=st.characters(blacklist_characters="$")))
def test_expand_leaves_text_without_dollars(text: str) -> None:
    assert env.expand(text, {"A": "1"}) == text


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("metadata.name", "web-1"),
        ("metadata.namespace", "shop"),
        ("metadata.labels['app']", "web"),
        ("metadata.labels['none']", ""),
        ("metadata.annotations", 'a="x\\"y"'),
        ("spec.nodeName", "n1"),
        ("spec.serviceAccountName", "default"),
        ("status.hostIP", "172.18.0.3"),
        ("status.podIP", "10.244.1.2"),
    ],
)
def test_field(path: str, expected: str) -> None:
    assert downward.field_value(pod(), path, NODE, ("10.244.1.2",)) == expected


def test_unknown_field_is_named() -> None:
    with pytest.raises(downward.FieldError, match=r"spec\.nothing"):
        downward.field_value(pod(), "spec.nothing", NODE, ())


@pytest.mark.parametrize(
    ("resource", "divisor", "expected"),
    [
        ("limits.memory", None, str(64 << 20)),
        ("limits.memory", "1Mi", "64"),
        ("requests.cpu", "1m", "250"),
        ("requests.cpu", None, "1"),
        ("limits.cpu", None, "4"),
        ("requests.memory", None, "0"),
    ],
)
def test_resource(resource: str, divisor: str | None, expected: str) -> None:
    container = {"resources": {"limits": {"memory": "64Mi"}, "requests": {"cpu": "250m"}}}
    assert downward.resource_value(container, resource, divisor, NODE) == expected


def test_environment_order() -> None:
    container = {
        "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}, {"secretRef": {"name": "none", "optional": True}}],
        "env": [
            {"name": "A", "value": "$(P_key)-$(LATER)"},
            {"name": "LATER", "value": "x"},
            {"name": "IMAGE", "value": "over"},
            {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            {"name": "GONE", "valueFrom": {"secretKeyRef": {"name": "s", "key": "no", "optional": True}}},
        ],
    }
    known = env.Sources(NODE, (), {"m": {"key": "v", "bad=key": "x"}}, {"s": {"k": "t"}, "none": None}, {"SVC": "1"})
    found = env.build(pod(), container, ("IMAGE=i", "PATH=/bin"), "web-1", known)
    expected = {"IMAGE": "over", "PATH": "/bin", "HOSTNAME": "web-1", "SVC": "1", "P_key": "v", "A": "v-$(LATER)"}
    assert found == {**expected, "LATER": "x", "S": "t"}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"configMapKeyRef": {"name": "no", "key": "k"}}, 'configmap "no" not found'),
        ({"secretKeyRef": {"name": "s", "key": "no"}}, "couldn't find key no in Secret shop/s"),
    ],
)
def test_missing_source_is_named(source: dict[str, Any], message: str) -> None:
    known = env.Sources(NODE, (), {"no": None}, {"s": {}})
    with pytest.raises(env.EnvError, match=message):
        env.build(pod(), {"env": [{"name": "A", "valueFrom": source}]}, (), "h", known)


def test_service_links() -> None:
    def service(name: str, namespace: str, address: str) -> dict[str, Any]:
        ports = [{"name": "http", "port": 80, "protocol": "TCP"}]
        return {"metadata": {"name": name, "namespace": namespace}, "spec": {"clusterIP": address, "ports": ports}}

    services = [service("my-db", "shop", "10.96.1.1"), service("x", "other", "10.96.1.2"), service("h", "shop", "None")]
    found = env.service_variables(services, "shop", True, ("10.96.0.1", 443))
    assert found["MY_DB_SERVICE_HOST"] == "10.96.1.1"
    assert found["MY_DB_SERVICE_PORT_HTTP"] == "80"
    assert found["MY_DB_PORT_80_TCP"] == "tcp://10.96.1.1:80"
    assert found["KUBERNETES_SERVICE_HOST"] == "10.96.0.1"
    assert not [key for key in found if key.startswith(("X_", "H_"))]
    assert "MY_DB_SERVICE_HOST" not in env.service_variables(services, "shop", False, ("10.96.0.1", 443))


NODE_RESOLVER = Resolver(("1.1.1.1",), ("corp",), ("timeout:1",))
CLUSTER = "search shop.svc.cluster.local svc.cluster.local cluster.local corp\nnameserver 10.96.0.10\noptions ndots:5\n"
HOST = "search corp\nnameserver 1.1.1.1\noptions timeout:1\n"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, CLUSTER),
        ({"dnsPolicy": "ClusterFirst"}, CLUSTER),
        ({"dnsPolicy": "Default"}, HOST),
        ({"hostNetwork": True}, HOST),
        ({"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}, CLUSTER),
        ({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["9.9.9.9"]}}, "nameserver 9.9.9.9\n"),
        (
            {"dnsConfig": {"searches": ["corp", "x"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}},
            CLUSTER.replace("corp", "corp x").replace("ndots:5", "ndots:2 edns0"),
        ),
    ],
)
def test_resolv_conf(spec: dict[str, Any], expected: str) -> None:
    assert dnsfiles.resolver(pod(**spec), NODE_RESOLVER, "10.96.0.10", "cluster.local").text() == expected


def test_resolv_conf_is_read_back() -> None:
    assert dnsfiles.parse_resolver("# c\n" + HOST) == NODE_RESOLVER


def test_hosts() -> None:
    text = dnsfiles.hosts(
        pod(hostAliases=[{"ip": "1.2.3.4", "hostnames": ["a", "b"]}], subdomain="sub"),
        ["10.244.1.2"],
        "cluster.local",
        "",
    )
    assert text.startswith("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n")
    assert "10.244.1.2\tweb-1.sub.shop.svc.cluster.local\tweb-1\n" in text
    assert text.endswith("# Entries added by HostAliases.\n1.2.3.4\ta\tb\n")
