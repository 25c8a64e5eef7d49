"""What an attachment shall look like: who is heard first, and what is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from podwire.cni import asked
from podwire.cni.asked import Asked, Features, PodFacts
from podwire.cni.spec import BAD_CONFIG, CniError, Request

POOLS4, POOLS6 = asked.POOLS[4], asked.POOLS[6]


def request(runtime: dict[str, Any] | None = None, **config: Any) -> Request:
    args = {"K8S_POD_NAMESPACE": "shop", "K8S_POD_NAME": "web"}
    return Request("ADD", "1.0.0", "net", "c1", "eth0", "/n", args=args, runtime=runtime or {}, config=config)


@pytest.mark.parametrize(
    ("call", "facts", "wanted"),
    [
        (request(), PodFacts(), Asked()),
        (request(ipam={"assign_ipv6": "true"}), PodFacts(), Asked(families=(4, 6))),
        (request(ipam={"assign_ipv4": False, "assign_ipv6": True}), PodFacts(), Asked(families=(6,))),
        (request(), PodFacts({asked.IP_FAMILIES: '["IPv6", "IPv4"]'}), Asked(families=(6, 4))),
        (
            request(ipam={"assign_ipv6": "true"}),
            PodFacts({asked.IP_FAMILIES: '["IPv4"]'}, {asked.IP_FAMILIES: '["IPv6"]'}),
            Asked(families=(4,)),
        ),
        (
            request(ipam={"ipv4_pools": ["config"]}),
            PodFacts({POOLS4: '["pod"]'}, {POOLS4: '["namespace"]'}),
            Asked(pools=("pod",)),
        ),
        (
            request(ipam={"ipv4_pools": ["config"]}),
            PodFacts({}, {POOLS4: '["namespace"]'}),
            Asked(pools=("namespace",)),
        ),
        (request(ipam={"ipv4_pools": ["config", "10.0.0.0/8"]}), PodFacts(), Asked(pools=("config", "10.0.0.0/8"))),
        (request(), PodFacts({POOLS6: '["six"]'}), Asked()),
        (
            request(ipam={"assign_ipv6": True}),
            PodFacts({POOLS6: '["six"]', POOLS4: '["four"]'}),
            Asked(families=(4, 6), pools=("four", "six")),
        ),
        (
            request({"ips": ["10.9.9.9/24"]}),
            PodFacts({asked.IP_ADDRS: '["fd00::0:7", "10.1.2.3"]'}),
            Asked(families=(6, 4), exact=("fd00::7", "10.1.2.3")),
        ),
        (request({"ips": ["10.9.9.9/24"]}), PodFacts(), Asked(exact=("10.9.9.9",))),
        (request({"mac": "02:00:00:00:00:01"}), PodFacts(), Asked(mac="02:00:00:00:00:01")),
        (
            request({"mac": "02:00:00:00:00:01"}),
            PodFacts({asked.HW_ADDR: "1C-0C-0A-C0-FF-EE"}),
            Asked(mac="1c:0c:0a:c0:ff:ee"),
        ),
        (request(mtu=1300), PodFacts(), Asked(mtu=1300)),
        (
            request(sysctl={"net.core.somaxconn": "500", "net/ipv4/conf/IFNAME/arp_filter": 1}),
            PodFacts(),
            Asked(sysctls=(("net/core/somaxconn", "500"), ("net/ipv4/conf/eth0/arp_filter", "1"))),
        ),
        (request(), PodFacts({}, {}, {"team": "a"}), Asked(namespace_labels={"team": "a"})),
        (
            request(),
            PodFacts({asked.FLOATING_IPS: '["1.2.3.4", "2001:DB8::1", "1.2.3.4"]'}),
            Asked(floating=("1.2.3.4", "2001:db8::1")),
        ),
        (
            request(feature_control={"source_prefixes": True}),
            PodFacts({asked.SOURCES: '["10.8.0.0/16", "fd00::/8"]'}),
            Asked(sources=("10.8.0.0/16", "fd00::/8")),
        ),
    ],
)
def test_who_is_heard(call: Request, facts: PodFacts, wanted: Asked) -> None:
    assert asked.asked(call, facts) == wanted


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (asked.IP_ADDRS, "10.1.2.3"),
        (asked.IP_ADDRS, '["10.1.2"]'),
        (asked.IP_ADDRS, '["10.1.2.3", "10.1.2.4"]'),
        (asked.IP_ADDRS, "[1]"),
        (asked.IP_ADDRS, "[" * 100_000),
        (asked.HW_ADDR, "01:00:00:00:00:00"),
        (asked.HW_ADDR, "nonsense"),
        (asked.IP_FAMILIES, '["IPv5"]'),
        (asked.IP_FAMILIES, '["IPv4", "ipv4"]'),
        (asked.FLOATING_IPS, '["10.8.0"]'),
        (asked.FLOATING_IPS, '["127.0.0.1"]'),
        (asked.FLOATING_IPS, '["10.8.0.1/32"]'),
        (asked.SOURCES, '["10.8.0.0/16"]'),
        (POOLS4, "{}"),
        (POOLS4, "[]"),
    ],
)
def test_a_malformed_annotation_is_named_with_its_pod(name: str, text: str) -> None:
    with pytest.raises(CniError) as caught:
        asked.asked(request(), PodFacts({name: text}))
    assert caught.value.code == BAD_CONFIG
    assert name in caught.value.msg
    assert "shop/web" in caught.value.msg
    assert len(caught.value.details) < 100


def test_a_malformed_annotation_of_the_namespace_is_its_own() -> None:
    with pytest.raises(CniError, match="of namespace shop"):
        asked.asked(request(), PodFacts({}, {POOLS4: "x"}))


@pytest.mark.parametrize(
    ("config", "features", "name", "text"),
    [
        ({"feature_control": {"floating_ips": False}}, Features(), asked.FLOATING_IPS, '["1.2.3.4"]'),
        ({}, Features(floating_ips=False), asked.FLOATING_IPS, '["1.2.3.4"]'),
        ({"feature_control": {"source_prefixes": "false"}}, Features(True, True), asked.SOURCES, '["10.8.0.0/16"]'),
    ],
)
def test_what_is_switched_off_is_refused_by_name(
    config: dict[str, Any], features: Features, name: str, text: str
) -> None:
    with pytest.raises(CniError, match="switched off") as caught:
        asked.asked(request(**config), PodFacts({name: text}), features)
    assert name in caught.value.msg


@pytest.mark.parametrize(
    "config",
    [
        {"ipam": []},
        {"feature_control": {"floating_ips": 3}},
        {"ipam": {"assign_ipv4": "maybe"}},
        {"ipam": {"assign_ipv4": "false"}},
        {"ipam": {"ipv4_pools": "a"}},
        {"mtu": "1500"},
        {"mtu": True},
        {"mtu": 20},
        {"sysctl": {"kernel.panic": "1"}},
        {"sysctl": {"net/../kernel/panic": "1"}},
        {"sysctl": {"net": "1"}},
        {"sysctl": {"net..x": "1"}},
        {"sysctl": {"net.core.somaxconn": ["1"]}},
        {"sysctl": {"net.core.somaxconn": "1\n2"}},
        {"sysctl": ["net.core.somaxconn"]},
    ],
)
def test_what_a_configuration_may_not_say(config: dict[str, Any]) -> None:
    with pytest.raises(CniError) as caught:
        asked.asked(request(**json.loads(json.dumps(config))))
    assert caught.value.code == BAD_CONFIG
