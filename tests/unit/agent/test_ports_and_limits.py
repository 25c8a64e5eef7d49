"""What is calculated before the kernel is asked: forwards of a pod's ports, token buckets of its limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.agent import bandwidth
from podwire.agent.attachments import Attachment
from podwire.agent.behind import pod_addresses
from podwire.agent.extras import owner
from podwire.agent.hostports import Ports, planned
from podwire.cni.capabilities import PortMapping
from podwire.cni.spec import Address, CniError, Interface, Result
from podwire.kernel import qdisc
from podwire.render.nft_hostports import Forward

MAX = (1 << 32) - 1


def test_the_first_address_of_each_family_gets_the_ports() -> None:
    ports = Ports((PortMapping(8080, 80), PortMapping(53, 53, "udp", "fd00::1")), ("10.1.0.5", "10.1.0.6", "fd00::5"))
    assert planned(ports) == (
        Forward("tcp", "", 8080, "10.1.0.5", 80),
        Forward("tcp", "", 8080, "fd00::5", 80),
        Forward("udp", "fd00::1", 53, "fd00::5", 53),
    )
    assert planned(Ports((PortMapping(80, 80),) * 2, ("10.1.0.5",))) == (Forward("tcp", "", 80, "10.1.0.5", 80),)


@pytest.mark.parametrize(("host_ip", "addresses"), [("fd00::1", ("10.1.0.5",)), ("10.0.0.1", ("fd00::5",)), ("", ())])
def test_a_port_that_can_lead_nowhere_is_refused(host_ip: str, addresses: tuple[str, ...]) -> None:
    with pytest.raises(CniError) as caught:
        planned(Ports((PortMapping(8080, 80, "tcp", host_ip),), addresses))
    assert caught.value.code == 7
    assert "8080" in caught.value.msg


@given(st.integers(1, (1 << 63) - 1), st.integers(1, (1 << 63) - 1), st.integers(68, 65535))
def test_a_bucket_is_one_that_the_kernel_takes_and_a_packet_passes(rate: int, burst: int, mtu: int) -> None:
    bucket = bandwidth.bucket(rate, burst, mtu)
    assert bucket is not None
    assert bucket.rate >= 1
    assert mtu < bucket.burst <= MAX
    assert bucket.burst <= bucket.limit <= MAX
    assert qdisc.same(bucket, bucket)


def test_buckets() -> None:
    assert bandwidth.bucket(0, 0, 1500) is None
    ten = bandwidth.bucket(10_000_000, 800_000, 1500)
    assert ten == qdisc.TokenBucket(1_250_000, 100_000, 100_000 + 31_250)
    unstated = bandwidth.bucket(80_000_000, MAX, 1500)
    assert unstated is not None
    assert unstated.burst == 500_000  # 50 ms, not half a gigabyte
    assert bandwidth.bucket(80_000_000, 8, 1500) == qdisc.TokenBucket(10_000_000, 1518, 251_518)
    assert not qdisc.same(ten, None)
    assert not qdisc.same(ten, unstated)


def test_names_fit_and_follow_from_the_host_end() -> None:
    name = bandwidth.ifb_name("cali0123456789a")
    assert len(name) == 15
    assert name == bandwidth.ifb_name("cali0123456789a") != bandwidth.ifb_name("cali0123456789b")


def test_each_layer_of_a_chain_owns_its_ports() -> None:
    record = Attachment("c", "eth0", "net", "", "", "", 0, "")
    assert owner(record) == "c/eth0"
    assert owner(Attachment("c", "eth0", "net", "", "", "", 0, "", role="portmap")) == "c/eth0/portmap"


def test_addresses_of_the_host_are_not_the_pods() -> None:
    result = Result(
        (Interface("br0"), Interface("eth0", sandbox="/run/netns/x")),
        (Address("10.1.0.1/24", interface=0), Address("10.1.0.5/24", interface=1), Address("fd00::5/64")),
    )
    assert list(pod_addresses(result)) == ["10.1.0.5", "fd00::5"]
