"""When an allocation is in order, and that what cannot be told is."""

from __future__ import annotations

import msgspec
import pytest

from podwire.ipam import blocks, findings
from podwire.ipam.blocks import Attribute, Draft
from podwire.model.address import Cidr
from podwire.model.pod import Pod

ONE = Cidr.parse("10.244.0.0/28")
NOW = "2026-01-02T12:00:00Z"
CONTAINER = "0123456789abcdef" * 4


def pod(name: str = "web", node: str = "a", address: str = "10.244.0.0", phase: str = "Running", **more: object) -> Pod:
    status = {"phase": phase, "podIP": address, "podIPs": [{"ip": address}] if address else []}
    spec = {"nodeName": node, **more}
    return msgspec.convert({"metadata": {"name": name, "namespace": "d"}, "spec": spec, "status": status}, Pod)


def holder(handle: str = "h", **facts: str) -> Attribute:
    told = {"pod": "web", "namespace": "d", "node": "a", "timestamp": "2026-01-02T11:00:00Z", **facts}
    return Attribute.of(handle, {name: value for name, value in told.items() if value})


@pytest.mark.parametrize(
    ("handle", "known", "words"),
    [
        ("h", pod(), ""),
        ("h", pod(address=""), ""),
        ("h", None, "does not exist"),
        ("h", pod(phase="Failed"), "has ended (Failed)"),
        ("h", pod(phase="Succeeded"), "has ended (Succeeded)"),
        ("h", pod(node="b"), "is on node b, not on a"),
        ("h", pod(node=""), "is on no node, not on a"),
        ("h", pod(address="10.244.0.9"), "has 10.244.0.9"),
        ("h", pod(hostNetwork=True), "uses the host's network"),
        # a further interface's: the pod's status does not tell its addresses, but when the pod is gone it is leaked
        (f"net.{CONTAINER}.net1", pod(address="10.244.0.9"), ""),
        (f"net.{CONTAINER}.eth0.100", pod(address="10.244.0.9"), ""),
        (f"net.{CONTAINER}.net1", None, "does not exist"),
        (f"net.{CONTAINER}.net1", pod(node="b"), "is on node b, not on a"),
        (f"net.{CONTAINER}.net1", pod(address="10.244.0.9", phase="Failed"), "has ended (Failed)"),
        (f"net.{CONTAINER}", pod(address="10.244.0.9"), "has 10.244.0.9"),
        (f"my.net.{CONTAINER}", pod(address="10.244.0.9"), "has 10.244.0.9"),
    ],
)
def test_pods(handle: str, known: Pod | None, words: str) -> None:
    told = findings.fault(holder(handle), "10.244.0.0", known, True)
    assert words in told and bool(words) == bool(told)


@pytest.mark.parametrize(
    "facts", [{"pod": ""}, {"namespace": ""}, {"node": ""}, {"type": "vmAddress"}, {"pod": "", "namespace": ""}]
)
def test_what_cannot_be_told_is_never_a_leak(facts: dict[str, str]) -> None:
    assert findings.fault(holder(**facts), "10.244.0.0", None, False) == ""


def test_tunnels_and_addresses_claimed_ahead_last_as_long_as_their_node() -> None:
    for kind in ("vxlanTunnelAddress", "podwireAhead"):
        attribute = holder("x", pod="", namespace="", type=kind)
        assert findings.fault(attribute, "10.244.0.0", None, True) == ""
        assert findings.fault(attribute, "10.244.0.0", None, False) == "node a does not exist"


def test_addresses_that_rest_are_nobody_s() -> None:
    draft = Draft(blocks.fresh(ONE, "host:a"))
    for name in ("h", "k"):
        draft.take(holder(name))
    draft.release([0], blocks.cooling(NOW))
    assert [(address, one.handle) for address, one in findings.allocations(draft.done())] == [("10.244.0.1", "k")]


def test_texts_of_one_address_are_the_same() -> None:
    assert findings.same("fd00::1", "fd00:0:0::1") and not findings.same("fd00::1", "fd00::2")
    assert findings.same("odd", "odd") and not findings.same("odd", "10.0.0.1")
