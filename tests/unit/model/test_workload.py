"""Workload endpoints read off Pods."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.model.workload import (
    endpoint_name,
    host_interface,
    is_endpoint,
    mirrored_uid,
    pod_addresses,
    row,
    workload_endpoint,
)

NOTE = "cni.projectcalico.org"


def pod(name: str = "web-1", *, status: Any = None, notes: Any = None, **spec: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "namespace": "shop", "labels": {"app": "web"}}
    metadata["annotations"] = notes or {}
    return {"metadata": metadata, "spec": {"nodeName": "lab-worker", **spec}, "status": status or {}}


def test_the_names_are_calicos() -> None:
    assert endpoint_name("lab-worker", "web-1") == "lab--worker-k8s-web--1-eth0"
    assert host_interface("default", "multitool") == "cali6d09fa47963"


part = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,12}[a-z0-9])?", fullmatch=True)


@given(part, part)
def test_a_name_can_be_taken_apart_again(node: str, name: str) -> None:
    parts = re.split(r"(?<!-)-(?!-)", re.sub("--", "\0", endpoint_name(node, name)))
    assert [text.replace("\0", "-") for text in parts] == [node, "k8s", name, "eth0"]


@pytest.mark.parametrize(
    ("spec", "counts"),
    [({}, True), ({"hostNetwork": True}, False), ({"nodeName": ""}, False), ({"nodeName": None}, False)],
)
def test_which_pods_are_endpoints(spec: dict[str, Any], counts: bool) -> None:
    assert is_endpoint(pod(**spec)) is counts and (workload_endpoint(pod(**spec)) is not None) is counts


@pytest.mark.parametrize(
    ("status", "notes", "leaving", "found"),
    [
        ({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "podIP": "10.0.0.9"}, {}, False, ["10.0.0.1", "fd00::1"]),
        ({"podIP": "10.0.0.9"}, {f"{NOTE}/podIP": "10.0.0.8/32"}, False, ["10.0.0.9"]),
        ({}, {f"{NOTE}/podIPs": "10.0.0.7/32,fd00::7/128", f"{NOTE}/podIP": "x"}, False, ["10.0.0.7", "fd00::7"]),
        ({}, {f"{NOTE}/podIP": "10.0.0.8/32"}, False, ["10.0.0.8"]),
        ({}, {"vpc.amazonaws.com/pod-ips": "10.0.0.6"}, False, ["10.0.0.6"]),
        ({"phase": "Succeeded", "podIP": "10.0.0.9"}, {}, False, []),
        ({"phase": "Failed", "podIP": "10.0.0.9"}, {}, False, []),
        ({"podIP": "10.0.0.9"}, {f"{NOTE}/podIP": ""}, True, []),
        ({"podIP": "10.0.0.9"}, {f"{NOTE}/podIP": ""}, False, ["10.0.0.9"]),
        ({}, {}, False, []),
    ],
)
def test_where_an_address_comes_from(status: Any, notes: Any, leaving: bool, found: list[str]) -> None:
    one = pod(status=status, notes=notes)
    if leaving:
        one["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert pod_addresses(one) == found


def test_all_that_an_endpoint_says() -> None:
    notes = {
        f"{NOTE}/floatingIPs": '["1.2.3.4", "2001:db8::1"]',
        f"{NOTE}/containerID": "abc",
        f"{NOTE}/hwAddr": "1c:0c:0a:c0:ff:ee",
        f"{NOTE}/allowedSourcePrefixes": '["192.0.2.0/24"]',
        "kubernetes.io/ingress-bandwidth": "10M",
        "kubernetes.io/egress-bandwidth": "no number",
    }
    ports = [{"name": "http", "containerPort": 80}, {"containerPort": 81}, {"containerPort": 82, "hostPort": 8082}]
    found = workload_endpoint(
        pod(status={"podIP": "10.0.0.9"}, notes=notes, serviceAccountName="default", containers=[{"ports": ports}])
    )
    assert found is not None
    assert found["metadata"]["labels"] == {
        "app": "web",
        "projectcalico.org/namespace": "shop",
        "projectcalico.org/orchestrator": "k8s",
        "projectcalico.org/serviceaccount": "default",
    }
    assert found["spec"] == {
        "orchestrator": "k8s",
        "node": "lab-worker",
        "pod": "web-1",
        "endpoint": "eth0",
        "containerID": "abc",
        "serviceAccountName": "default",
        "interfaceName": host_interface("shop", "web-1"),
        "mac": "1c:0c:0a:c0:ff:ee",
        "ipNetworks": ["10.0.0.9/32"],
        "ipNATs": [{"internalIP": "10.0.0.9", "externalIP": "1.2.3.4"}],
        "profiles": ["kns.shop", "ksa.shop.default"],
        "ports": [
            {"name": "http", "port": 80, "protocol": "TCP"},
            {"port": 82, "protocol": "TCP", "hostPort": 8082},
        ],
        "allowSpoofedSourcePrefixes": ["192.0.2.0/24"],
        "qosControls": {"ingressBandwidth": 10_000_000},
    }
    assert row(found)["nats"] == "1.2.3.4->10.0.0.9" and row(found)["workload"] == "web-1"


@given(st.uuids())
def test_a_mirrored_uid_is_another_and_mirrors_back(uid: Any) -> None:
    assert mirrored_uid(mirrored_uid(str(uid))) == str(uid)
    assert len(mirrored_uid(str(uid))) == 36 and mirrored_uid("no uid") == "no uid"
