"""What plugins are offered about a pod."""

from __future__ import annotations

from typing import Any

import pytest

from podwire.kubelet.cniargs import capability_arguments
from podwire.kubelet.dnsfiles import Resolver


def offered(spec: dict[str, Any] | None = None, **annotations: str) -> dict[str, Any]:
    named = {f"kubernetes.io/{key}-bandwidth": value for key, value in annotations.items()}
    return capability_arguments({"metadata": {"annotations": named}, "spec": spec or {}}, Resolver())


def test_nothing_to_offer() -> None:
    assert offered() == {}


def test_host_ports() -> None:
    ports = [
        {"hostPort": 80, "containerPort": 8080},
        {"containerPort": 9},
        {"hostPort": 53, "containerPort": 53, "protocol": "UDP", "hostIP": "127.0.0.1"},
    ]
    staying = {"restartPolicy": "Always", "ports": [{"hostPort": 81, "containerPort": 81}]}
    first = {"ports": [{"hostPort": 82, "containerPort": 82}]}
    assert offered({"containers": [{"ports": ports}], "initContainers": [first, staying]})["portMappings"] == [
        {"hostPort": 81, "containerPort": 81, "protocol": "tcp"},
        {"hostPort": 80, "containerPort": 8080, "protocol": "tcp"},
        {"hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1"},
    ]


@pytest.mark.parametrize(("text", "rate"), [("10M", 10_000_000), ("1k", 1000), ("1P", 10**15), ("1Ki", 1024)])
def test_bandwidth(text: str, rate: int) -> None:
    assert offered(ingress=text)["bandwidth"] == {"ingressRate": rate, "ingressBurst": 4294967295}
    both = offered(ingress=text, egress="2M")["bandwidth"]
    assert (both["ingressRate"], both["egressRate"], both["egressBurst"]) == (rate, 2_000_000, 4294967295)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("999", "resource is unreasonably small (< 1kbit)"),
        ("0", "resource is unreasonably small (< 1kbit)"),
        ("-1M", "resource is unreasonably small (< 1kbit)"),
        ("1001T", "resource is unreasonably large (> 1Pbit)"),
        ("fast", "is not a quantity"),
        ("", "is not a quantity"),
    ],
)
def test_bandwidth_that_cannot_be_meant(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        offered(egress=text)
    assert words in str(caught.value)


def test_dns_and_annotations() -> None:
    pod = {"metadata": {"annotations": {"a/B": "c"}}, "spec": {}}
    assert capability_arguments(pod, Resolver(("10.96.0.10",), ("a.b",), ("ndots:5",))) == {
        "dns": {"servers": ["10.96.0.10"], "searches": ["a.b"], "options": ["ndots:5"]},
        "io.kubernetes.cri.pod-annotations": {"a/B": "c"},
    }
