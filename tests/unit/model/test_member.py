"""Whom selectors find: pods, sets and nodes by what they are, not by what they say of themselves."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from podwire.model.endpointslice import EndpointPort, EndpointSlice
from podwire.model.expression import parse_selector
from podwire.model.member import effective_labels, node_addresses, set_labels
from podwire.model.networkset import NetworkSet
from podwire.model.node import Node
from podwire.model.pod import Pod
from podwire.model.policy import SCTP, TCP, UDP


def pod(labels: dict[str, str] | None = None, **spec: Any) -> Pod:
    return msgspec.convert({"metadata": {"name": "p", "namespace": "ns", "labels": labels or {}}, "spec": spec}, Pod)


def test_effective_labels() -> None:
    found = effective_labels(pod({"app": "web"}, serviceAccountName="sa"), {"team": "red"}, {"env": "prod"})
    assert found == {
        "app": "web",
        "projectcalico.org/namespace": "ns",
        "projectcalico.org/orchestrator": "k8s",
        "projectcalico.org/serviceaccount": "sa",
        "pcns.team": "red",
        "pcns.projectcalico.org/name": "ns",
        "pcns.kubernetes.io/metadata.name": "ns",
        "pcsa.env": "prod",
        "pcsa.projectcalico.org/name": "sa",
    }
    assert effective_labels(pod(), {}, {})["projectcalico.org/serviceaccount"] == "default"


@pytest.mark.parametrize(
    "label",
    [
        "pcns.team",
        "pcsa.env",
        "projectcalico.org/namespace",
        "projectcalico.org/serviceaccount",
        "projectcalico.org/orchestrator",
        "pcns.projectcalico.org/name",
        "pcns.kubernetes.io/metadata.name",
    ],
)
def test_nobody_labels_himself_into_a_namespace(label: str) -> None:
    spoofed = effective_labels(pod({label: "admin"}), {}, {})
    assert spoofed == effective_labels(pod(), {}, {})
    whole = set_labels(NetworkSet("", "s", (), {label: "k8s", "own": "x"}), {})
    assert not parse_selector("projectcalico.org/orchestrator == 'k8s'").matches(whole) and whole["own"] == "x"


def test_a_network_set_has_the_labels_of_its_namespace() -> None:
    found = set_labels(NetworkSet("ns", "s", (), {"a": "b"}), {"team": "red"})
    assert found["pcns.team"] == "red" and found["projectcalico.org/namespace"] == "ns" and found["a"] == "b"
    assert set_labels(NetworkSet("", "s", (), {"a": "b"}), {"team": "red"}) == {"a": "b"}


def test_node_addresses_are_all_of_them() -> None:
    given = [("Hostname", "n1"), ("InternalIP", "172.18.0.2"), ("InternalIP", "fd00::2"), ("ExternalIP", "203.0.113.2")]
    given += [("InternalIP", "172.18.0.2"), ("ExternalDNS", "n1.example.org")]
    status = {"addresses": [{"type": kind, "address": address} for kind, address in given]}
    node = msgspec.convert({"metadata": {"name": "n1"}, "status": status}, Node)
    assert node_addresses(node) == ("172.18.0.2", "fd00::2", "203.0.113.2")


def test_named_ports() -> None:
    ports = [
        {"name": "http", "containerPort": 80},
        {"containerPort": 81},
        {"name": "dns", "containerPort": 53, "protocol": "UDP"},
    ]
    sidecar = {"name": "s", "restartPolicy": "Always", "ports": [{"name": "m", "containerPort": 9, "protocol": "SCTP"}]}
    once = {"name": "i", "ports": [{"name": "never", "containerPort": 1}]}
    found = pod(containers=[{"name": "a", "ports": ports}, {"name": "b"}], initContainers=[once, sidecar])
    assert found.named_ports == (("http", TCP, 80), ("dns", UDP, 53), ("m", SCTP, 9))
    again = pod(containers=[{"name": "a", "ports": ports}], initContainers=[sidecar])
    assert again.spec.containers is found.spec.containers, "what repeats is kept once"
    assert pod(containers=[{"name": "a"}]).named_ports == () == pod().named_ports


@pytest.mark.parametrize(
    ("spec", "status", "addresses"),
    [
        ({}, {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}, ("10.0.0.1", "fd00::1")),
        ({}, {"phase": "Pending", "podIP": "10.0.0.1"}, ("10.0.0.1",)),
        ({}, {"phase": "Pending"}, ()),
        ({}, {"phase": "Succeeded", "podIP": "10.0.0.1"}, ()),
        ({}, {"phase": "Failed", "podIPs": [{"ip": "10.0.0.1"}]}, ()),
        ({"hostNetwork": True}, {"phase": "Running", "podIP": "172.18.0.2"}, ()),
        ({}, {"phase": "Running", "podIPs": None, "podIP": "10.0.0.1"}, ("10.0.0.1",)),
    ],
)
def test_addresses(spec: dict[str, Any], status: dict[str, Any], addresses: tuple[str, ...]) -> None:
    found = msgspec.convert({"metadata": {"name": "p"}, "spec": spec, "status": status}, Pod)
    assert found.addresses == addresses
    assert found.governed or not addresses


def test_a_pod_that_is_being_deleted_is_still_there() -> None:
    head = {"name": "p", "namespace": "ns", "deletionTimestamp": "2026-01-01T00:00:00Z"}
    assert msgspec.convert({"metadata": head, "status": {"podIP": "10.0.0.1"}}, Pod).addresses == ("10.0.0.1",)


def test_endpoint_slices() -> None:
    obj = {
        "metadata": {"name": "web-x", "namespace": "ns", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": ["10.0.0.1"], "conditions": {"ready": False}},
            {"addresses": ["10.0.0.2", "10.0.0.3"]},
        ],
        "ports": [{"name": "http", "port": 80}, {"protocol": "UDP"}],
    }
    found = msgspec.convert(obj, EndpointSlice)
    assert found.service == ("ns", "web") and found.addresses == ("10.0.0.1", "10.0.0.2", "10.0.0.3")
    assert found.ports == (EndpointPort("TCP", 80), EndpointPort("UDP", None))
    assert msgspec.convert({**obj, "addressType": "FQDN"}, EndpointSlice).addresses == ()
    empty = msgspec.convert({"metadata": {"name": "x"}, "endpoints": None, "ports": None}, EndpointSlice)
    assert empty.service is None and empty.addresses == ()
