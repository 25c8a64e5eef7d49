"""The CNI contract as tables: what comes in, which number goes out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.cni import plan, spec
from podwire.cni.spec import Address, CniError, Destination, Interface, Result

ENV = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/run/netns/x",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=multitool;K8S_POD_UID=u1",
}
CONFIG: dict[str, Any] = {"cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "podwire"}


def parse(env: dict[str, str | None] | None = None, config: Any = None) -> spec.Request:
    merged = {key: value for key, value in {**ENV, **(env or {})}.items() if value is not None}
    raw = config if isinstance(config, bytes) else json.dumps({**CONFIG, **(config or {})}).encode()
    return spec.parse(merged, raw)


def test_request() -> None:
    request = parse()
    assert (request.namespace, request.pod, request.uid) == ("default", "multitool", "u1")
    assert (request.command, request.network, request.version) == ("ADD", "k8s-pod-network", "1.0.0")


@pytest.mark.parametrize(
    ("env", "config", "code", "words"),
    [
        ({"CNI_COMMAND": "FLY"}, None, 4, "CNI_COMMAND"),
        ({"CNI_NETNS": None, "CNI_PATH": None}, None, 4, "CNI_NETNS,CNI_PATH"),
        ({"CNI_CONTAINERID": "../etc"}, None, 4, "CNI_CONTAINERID"),
        ({"CNI_CONTAINERID": "x" * 201}, None, 4, "CNI_CONTAINERID"),
        ({"CNI_IFNAME": "a/b"}, None, 4, "CNI_IFNAME"),
        ({"CNI_IFNAME": ".."}, None, 4, "CNI_IFNAME"),
        ({"CNI_IFNAME": "sixteen-letters-"}, None, 4, "CNI_IFNAME"),
        ({"CNI_ARGS": "novalue"}, None, 4, "CNI_ARGS"),
        (None, b"{", 6, "decode"),
        (None, b"[]", 6, "not a JSON object"),
        (None, b"\xff\xfe", 6, "decode"),
        (None, b"[" * 100000, 6, "decode"),
        (None, {"name": ""}, 7, "network name"),
        (None, {"name": "a b"}, 7, "network name"),
        (None, {"name": 5}, 7, "network name"),
        (None, {"cniVersion": "2.0.0"}, 1, "incompatible"),
        (None, {"cniVersion": 7}, 1, "incompatible"),
        (None, {"runtimeConfig": []}, None, ""),
        (None, {"runtimeConfig": [1]}, 7, "runtimeConfig"),
        (None, {"prevResult": {"ips": [{}]}}, 6, "prevResult"),
        (None, {"prevResult": "x"}, 6, "prevResult"),
        ({"CNI_COMMAND": "CHECK"}, {"cniVersion": "0.3.1"}, 1, "CHECK"),
        ({"CNI_COMMAND": "DEL", "CNI_NETNS": None}, None, None, ""),
        ({"CNI_COMMAND": "DEL", "CNI_NETNS": ""}, None, None, ""),
    ],
)
def test_refusals(env: dict[str, str | None] | None, config: Any, code: int | None, words: str) -> None:
    if code is None:
        parse(env, config)
        return
    with pytest.raises(CniError) as caught:
        parse(env, config)
    assert caught.value.code == code
    assert words in str(caught.value)
    answer = json.loads(caught.value.encode("1.0.0"))
    assert answer["cniVersion"] == "1.0.0"
    assert answer["code"] == code


def test_runtime_config_of_containerd_and_crio_read_the_same() -> None:
    go = parse(None, {"runtimeConfig": {"portMappings": [{"HostPort": 80, "ContainerPort": 8080}]}})
    tagged = parse(None, {"runtimeConfig": {"portmappings": [{"hostPort": 80, "containerPort": 8080}]}})
    assert go.runtime == tagged.runtime == {"portmappings": [{"hostport": 80, "containerport": 8080}]}


@given(st.binary(max_size=200))
def test_any_stdin_is_a_request_or_a_numbered_error(raw: bytes) -> None:
    try:
        spec.parse(ENV, raw)
    except CniError as error:
        assert error.code in range(1, 12)


RESULT = Result(
    (Interface("cali1", "ee:ee:ee:ee:ee:ee", 1450), Interface("eth0", "02:00:00:00:00:01", 1450, "/run/netns/x")),
    (Address("10.244.1.5/32", "169.254.1.1", 1),),
    (Destination("0.0.0.0/0", "169.254.1.1"),),
)


@pytest.mark.parametrize(
    ("version", "ip_version", "mtu"),
    [("0.3.0", "4", None), ("0.3.1", "4", None), ("0.4.0", "4", None), ("1.0.0", None, None), ("1.1.0", None, 1450)],
)
def test_result_in_every_version(version: str, ip_version: str | None, mtu: int | None) -> None:
    answer = json.loads(spec.encode(RESULT, version))
    assert answer["cniVersion"] == version
    assert answer["ips"][0].get("version") == ip_version
    assert answer["interfaces"][1].get("mtu") == mtu
    assert "sandbox" not in answer["interfaces"][0]
    assert answer["routes"] == [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}]


def test_result_comes_back_as_prev_result() -> None:
    answer = json.loads(spec.encode(RESULT, "1.1.0"))
    assert parse(None, {"prevResult": answer}).previous == RESULT


def test_routed_plan_has_the_seeds_names() -> None:
    wiring = plan.routed(parse(), 1450, b"\x01\x02\x03\x04\x05\x06")
    assert (wiring.host_name, wiring.pod_name, wiring.mtu) == ("cali6d09fa47963", "eth0", 1450)
    assert wiring.pod_mac == "02:02:03:04:05:06"


def test_names_without_a_pod_and_of_further_interfaces_differ() -> None:
    plain = plan.host_name(parse({"CNI_ARGS": ""}))
    second = plan.host_name(parse({"CNI_IFNAME": "net1"}))
    assert len({plain, second, "cali6d09fa47963"}) == 3
    assert all(len(name) == 15 for name in (plain, second))


@given(st.binary(min_size=6, max_size=6))
def test_macs_are_local_unicast(entropy: bytes) -> None:
    first = int(plan.mac_from(entropy)[:2], 16)
    assert (first & 1, first & 2) == (0, 2)
