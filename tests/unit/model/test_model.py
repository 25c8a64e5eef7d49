"""Addresses, expressions and slim records."""

from __future__ import annotations

import ipaddress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.model.address import AddressError, Cidr, format_ip, parse_ip
from podwire.model.block import affinity_name, block_name
from podwire.model.expression import ExpressionError, parse_expression
from podwire.model.ippool import IPPool
from podwire.model.node import Node, derived_mac
from podwire.model.pod import Pod


@given(st.ip_addresses())
def test_addresses_agree_with_the_standard_library(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    number, width = parse_ip(str(address))
    assert (number, width) == (int(address), address.max_prefixlen) and format_ip(number, width) == str(address)


@pytest.mark.parametrize(
    "text", ["", "1.2.3", "1.2.3.256", "01.2.3.4", "1.2.3.4.5", "1.2.3.x", "::g", "fe80::1%eth0", "١.2.3.4"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(AddressError):
        parse_ip(text)


@given(st.integers(0, 2**32 - 1), st.integers(0, 32), st.integers(0, 2**32 - 1), st.integers(0, 32))
def test_prefixes_agree_with_the_standard_library(a: int, la: int, b: int, lb: int) -> None:
    one, two = Cidr.around(a, la), Cidr.around(b, lb)
    real_one, real_two = ipaddress.ip_network(str(one)), ipaddress.ip_network(str(two))
    assert one.overlaps(two) == real_one.overlaps(real_two) and one.covers(two) == real_two.subnet_of(real_one)
    assert one.size == real_one.num_addresses and format_ip(one.last) == str(real_one.broadcast_address)
    assert Cidr.parse(str(one)) == one


def test_host_bits() -> None:
    with pytest.raises(AddressError, match=r"did you mean 10\.0\.0\.0/8"):
        Cidr.parse("10.1.2.3/8")
    assert str(Cidr.parse("10.1.2.3/8", host_bits=True)) == "10.0.0.0/8"
    for text in ("10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "::/129"):
        with pytest.raises(AddressError):
            Cidr.parse(text)


LABELS = {"env": "prod", "app": "web-1", "in": "x"}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", True),
        ("all()", True),
        ("env == 'prod'", True),
        ('env != "prod"', False),
        ("missing != 'x'", True),
        ("missing == ''", False),
        ("has(env) && !has(missing)", True),
        ("!!has(env)", True),
        ("env in {'dev', 'prod',}", True),
        ("env not in {'dev'}", True),
        ("missing notin {'dev'}", True),
        ("app starts with 'web' && app endswith '1' && app contains '-'", True),
        ("missing contains ''", False),
        ("env == 'dev' || env == 'prod' && app == 'x'", False),
        ("(env == 'dev' || env == 'prod') && in == 'x'", True),
        ("env in {}", False),
    ],
)
def test_expressions(text: str, wanted: bool) -> None:
    assert parse_expression(text)(LABELS) is wanted


@pytest.mark.parametrize(
    "text", ["a", "a = 'b'", "'a' == b", "()", "a == 'b' &", "has (a)", "a == b", "a in {b}", "a == 'b'\n", "a =="]
)
def test_what_is_no_expression(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse_expression(text)


def test_names() -> None:
    assert block_name("10.0.0.0/26") == "10-0-0-0-26" and block_name("fd00::/122") == "fd00---122"
    assert affinity_name("a", "10.0.0.0/26") == "a-10-0-0-0-26"
    long = affinity_name("n" * 250, "10.0.0.0/26")
    assert len(long) <= 253 and long != affinity_name("n" * 250, "10.0.0.64/26")
    assert derived_mac("node1") == "66:f9:37:c3:7e:94"


def test_slim_records() -> None:
    node = msgspec.json.decode(
        b'{"metadata":{"name":"a"},"spec":{"podCIDR":"10.244.1.0/24"},"status":{"addresses":'
        b'[{"type":"Hostname","address":"a"},{"type":"InternalIP","address":"172.18.0.2"}],"extra":1}}',
        type=Node,
    )
    assert (node.address, node.pod_cidrs, node.subnet, node.addresses) == (
        "172.18.0.2",
        ("10.244.1.0/24",),
        "",
        ("172.18.0.2",),
    )
    pod = msgspec.convert({"metadata": {"name": "p"}, "status": {"phase": "Running", "podIP": "10.1.1.1"}}, Pod)
    assert pod.addresses == ("10.1.1.1",)
    done = msgspec.convert({"metadata": {"name": "p"}, "status": {"phase": "Succeeded", "podIP": "10.1.1.1"}}, Pod)
    assert done.addresses == ()


@pytest.mark.parametrize(
    ("spec", "usable"),
    [
        ({"cidr": "10.0.0.0/16"}, True),
        ({"cidr": "10.0.0.0/16", "disabled": True}, False),
        ({"cidr": "10.0.0.1/16"}, False),
        ({"cidr": "10.0.0.0/27"}, False),
        ({"cidr": "10.0.0.0/27", "blockSize": 28}, True),
    ],
)
def test_pools(spec: dict, usable: bool) -> None:
    assert msgspec.convert({"metadata": {"name": "p"}, "spec": spec}, IPPool).usable is usable
