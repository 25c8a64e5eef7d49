"""The CNI contract as tables: what comes in, which number goes out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.cni import plan, spec
from podwire.cni.spec import CniError

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
        (None, {"runtimeConfig": []}, 7, "runtimeConfig is not an object"),
        (None, {"runtimeConfig": [1]}, 7, "runtimeConfig"),
        ({"CNI_CONTAINERID": "a\nb"}, None, 4, "CNI_CONTAINERID"),
        ({"CNI_IFNAME": "a b"}, None, 4, "CNI_IFNAME"),
        ({"CNI_IFNAME": "a:b"}, None, 4, "CNI_IFNAME"),
        ({"CNI_NETNS": "x" * 5000}, None, 4, "CNI_NETNS"),
        ({"CNI_ARGS": "K8S_POD_NAME=../../x"}, None, 4, "K8S_POD_NAME"),
        ({"CNI_ARGS": "K8S_POD_NAMESPACE=" + "n" * 254}, None, 4, "K8S_POD_NAMESPACE"),
        ({"CNI_ARGS": "K8S_POD_UID=a\0b"}, None, 4, "K8S_POD_UID"),
        (None, b'{"cniVersion":"1.0.0","name":"n"', 6, "decode"),
        (None, b'{"cniVersion":"1.0.0","name":"n","x":1e999}', 6, "decode"),
        (None, b'{"cniVersion":"1.0.0","name":"n","x":NaN}', 6, "decode"),
        (None, b'{"cniVersion":"1.0.0","name":"n","x":"\\ud800"}', 6, "decode"),
        (None, b'{"cniVersion":"1.0.0","name":"n","x":' + b"9" * 9000 + b"}", 6, "decode"),
        (None, b'{"cniVersion":"1.0.0","name":"n","x":"\xff"}', 6, "decode"),
        (None, b'{"name":"n","runtimeConfig":{"x":' + b"[" * 700 + b"]" * 700 + b"}}", 6, "nested too deeply"),
        (None, b'{"cniVersion":"1.0.0","name":"a","name":"b/"}', 7, "network name"),
        (None, {"name": "x" * 201}, 7, "too long"),
        (None, {"name": None}, 7, "missing network name"),
        (None, {"cniVersion": ["1.0.0"]}, 1, "incompatible"),
        (None, {"cniVersion": "1.0"}, 1, "incompatible"),
        (None, {"cniVersion": ""}, None, ""),
        (None, {"prevResult": {"ips": [{}]}}, 6, "prevResult.ips[0].address is missing"),
        (None, {"prevResult": {"ips": [{"address": 5}]}}, 6, "prevResult.ips[0].address is not a string"),
        (None, {"prevResult": {"ips": [{"address": "10.0.0.1"}]}}, 6, "has no prefix length"),
        (None, {"prevResult": {"ips": [{"address": "pod/32"}]}}, 6, "prevResult.ips[0].address"),
        (None, {"prevResult": {"ips": [{"address": "10.0.0.1/32", "interface": 0}]}}, 6, "0 interfaces"),
        (None, {"prevResult": {"ips": [{"address": "10.0.0.1/32", "gateway": "gw"}]}}, 6, "ips[0].gateway"),
        (None, {"prevResult": {"ips": {}}}, 6, "prevResult.ips is not a list"),
        (None, {"prevResult": {"interfaces": [{"name": "a"}, 5]}}, 6, "prevResult.interfaces[1] is not an object"),
        (None, {"prevResult": {"interfaces": [{"name": "a", "mtu": -1}]}}, 6, "interfaces[0].mtu"),
        (None, {"prevResult": {"interfaces": [{"name": "a", "mtu": True}]}}, 6, "interfaces[0].mtu"),
        (None, {"prevResult": {"interfaces": [{"mac": "x"}]}}, 6, "interfaces[0].name is missing"),
        (None, {"prevResult": {"routes": [{"dst": "everywhere"}]}}, 6, "routes[0].dst"),
        (None, {"prevResult": {"routes": [{"dst": "0.0.0.0/0", "table": 1 << 40}]}}, 6, "routes[0].table"),
        (None, {"prevResult": {"dns": {"search": "x"}}}, 6, "prevResult.dns.search is not a list"),
        (None, {"prevResult": {"dns": {"search": [1]}}}, 6, "prevResult.dns.search is not a list of strings"),
        (None, {"prevResult": {"ip4": {"ip": "10.0.0.300/8"}}}, 6, "prevResult.ip4.ip"),
        (None, {"prevResult": "x"}, 6, "prevResult is not an object"),
        ({"CNI_COMMAND": "GC"}, {"cniVersion": "1.0.0"}, 1, "GC"),
        ({"CNI_COMMAND": "STATUS"}, {"cniVersion": "0.4.0"}, 1, "STATUS"),
        ({"CNI_COMMAND": "STATUS", "CNI_PATH": None}, {"cniVersion": "1.1.0"}, 4, "CNI_PATH"),
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


def test_annotations_keep_their_names() -> None:
    annotations = {"cni.projectcalico.org/ipAddrs": '["10.0.0.1"]', "x": 5}
    request = parse(None, {"runtimeConfig": {"io.kubernetes.cri.pod-annotations": annotations}})
    assert request.annotations == {"cni.projectcalico.org/ipAddrs": '["10.0.0.1"]'}
    assert parse(None, {"runtimeConfig": {"io.kubernetes.cri.pod-annotations": [1]}}).annotations == {}


def test_status_needs_no_attachment() -> None:
    env = {"CNI_COMMAND": "STATUS", "CNI_CONTAINERID": None, "CNI_IFNAME": None, "CNI_NETNS": None, "CNI_ARGS": None}
    assert parse(env, {"cniVersion": "1.1.0"}).command == "STATUS"


GC = {"CNI_COMMAND": "GC", "CNI_CONTAINERID": None, "CNI_IFNAME": None, "CNI_NETNS": None}
LIST = [{"containerID": "c1", "ifname": "eth0"}, {"containerID": "c2", "ifname": "net1"}]
PAIRS = frozenset({("c1", "eth0"), ("c2", "net1")})


@pytest.mark.parametrize(
    ("config", "valid"),
    [
        ({}, None),
        ({"cni.dev/valid-attachments": None}, None),
        ({"cni.dev/valid-attachments": []}, frozenset()),
        ({"cni.dev/valid-attachments": LIST}, PAIRS),
        ({"cni.dev/attachments": LIST}, PAIRS),
        ({"cni.dev/valid-attachments": [], "cni.dev/attachments": LIST}, frozenset()),
        ({"cni.dev/valid-attachments": None, "cni.dev/attachments": LIST}, PAIRS),
        ({"cni.dev/valid-attachments": [{"ContainerID": "c1", "IfName": "eth0"}]}, frozenset({("c1", "eth0")})),
    ],
)
def test_valid_attachments(config: dict[str, Any], valid: frozenset[tuple[str, str]] | None) -> None:
    assert parse(GC, {"cniVersion": "1.1.0", **config}).valid == valid


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"c1": "eth0"}, "cni.dev/valid-attachments is not a list"),
        ("c1", "cni.dev/valid-attachments is not a list"),
        ([*LIST, "c1"], "cni.dev/valid-attachments[2] is not an object"),
        ([*LIST, {"containerID": "c3"}], "cni.dev/valid-attachments[2] needs containerID and ifname"),
        ([{"containerID": 5, "ifname": "eth0"}], "cni.dev/valid-attachments[0] needs"),
        ([{"containerID": "../x", "ifname": "eth0"}], "cni.dev/valid-attachments[0].containerID"),
        ([{"containerID": "c1", "ifname": "a/b"}], "cni.dev/valid-attachments[0].ifname"),
        ([{"containerID": "c1", "ifname": ""}], "cni.dev/valid-attachments[0].ifname"),
    ],
)
def test_half_a_list_collects_nothing(entries: Any, words: str) -> None:
    with pytest.raises(CniError) as caught:
        parse(GC, {"cniVersion": "1.1.0", "cni.dev/valid-attachments": entries})
    assert caught.value.code == 7
    assert words in str(caught.value)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
WORDS = "cniVersion name prevResult runtimeConfig ips ip4 interfaces interface routes dns address dst gw mtu"
MORE = ["portMappings", "cni.dev/valid-attachments", "containerID", "ifname", "search"]
KEYS = st.sampled_from([*WORDS.split(), *MORE])
TREES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5))
ENVIRONMENTS = st.fixed_dictionaries(
    {"CNI_COMMAND": st.sampled_from(["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"])},
    optional={
        name: st.text(max_size=20) | st.just(ENV[name])
        for name in ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH")
    },
)


def request_or_number(env: dict[str, str], raw: bytes) -> None:
    try:
        spec.parse(env, raw)
    except CniError as error:
        assert error.code in range(1, 9)
        assert json.loads(error.encode(spec.stated_version(raw)))["code"] == error.code


@given(st.binary(max_size=200), ENVIRONMENTS)
def test_any_bytes_are_a_request_or_a_numbered_error(raw: bytes, env: dict[str, str]) -> None:
    request_or_number(env, raw)


@given(st.sampled_from(["ADD", "CHECK", "GC", "DEL"]), st.sampled_from(spec.VERSIONS), st.dictionaries(KEYS, TREES))
def test_any_json_is_a_request_or_a_numbered_error(command: str, version: str, tree: dict[str, Any]) -> None:
    request_or_number({**ENV, "CNI_COMMAND": command}, json.dumps(tree).encode())
    request_or_number({**ENV, "CNI_COMMAND": command}, json.dumps({**CONFIG, **tree, "cniVersion": version}).encode())


def test_an_error_that_quotes_garbage_is_still_json() -> None:
    answer = json.loads(CniError(4, 'a "b" \udcff', "\n" + "x" * 100_000).encode("1.1.0"))
    assert answer["msg"] == 'a "b" \\udcff'
    assert len(answer["details"]) < 10_000


def test_routed_plan_has_the_seeds_names() -> None:
    wiring = plan.routed(parse(), 1450, plan.mac_from(b"\x01\x02\x03\x04\x05\x06"))
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
