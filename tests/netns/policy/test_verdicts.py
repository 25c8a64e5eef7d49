"""What a verdict table says, the kernel does: states made by hand, packets made by hand."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import pytest

from podwire.agent.policylogs import flow
from podwire.calc.verdicts import (
    EVERY,
    Decision,
    Governed,
    Match,
    PolicyChanges,
    PolicyState,
    Range,
    RuleRef,
    Stage,
    Table,
    class_of,
    judge,
)
from podwire.kernel import netlink
from podwire.kernel.nflog import LogSocket
from podwire.model.policy import ICMP, ICMPV6, SCTP, TCP, UDP, Direction, PolicyKey
from podwire.render.nft_policy import LOG_GROUP, LOG_PREFIX
from tests.netns.policy.wires import Flow, Node, listing

A4, B4, C4, D4 = "10.9.0.1", "10.9.0.2", "10.9.0.3", "10.9.0.4"
A6, B6, C6 = "fd09::1", "fd09::2", "fd09::3"
RULE = RuleRef(PolicyKey("NetworkPolicy", "default", "p"), "ingress[0]")
YES, NO = Decision(True, RULE), Decision(False, RULE)
END = Decision(False, RuleRef(None, "default"))
NONE = Decision(True, RuleRef(None, ""))


@pytest.fixture
def node() -> Iterator[Node]:
    made = Node()
    try:
        for name, *addresses in (("a", A4, A6), ("b", B4, B6), ("c", C4, C6), ("d", D4)):
            made.pod(name, *addresses)
        yield made
    finally:
        made.close()


def number(address: str) -> tuple[int, int]:
    found = ipaddress.ip_address(address)
    return int(found), found.max_prefixlen


def expected(state: PolicyState, node: Node, flow: Flow) -> bool:
    """What `judge` says of both ends."""
    for way in Direction:
        own, other = (flow.source, flow.target) if way is Direction.EGRESS else (flow.target, flow.source)
        tables = state.pods["default", node.owner(own).name]
        n = tables.egress if way is Direction.EGRESS else tables.ingress
        peer = class_of(state, other, *number(other))
        if n is not None and not judge(state.tables, n, peer, flow.protocol, flow.port, flow.source_port or None).allow:
            return False
    return True


def state() -> PolicyState:
    """b lets in what is asked below; a may go out to some; the rest is open."""
    into_b = Table(
        Direction.INGRESS,
        (
            Stage(False, {Match(0, TCP, 22, 22): NO, Match(0, UDP, 500, 600): YES, Match(0, 47): YES}),
            Stage(
                True,
                {
                    Match(1, TCP, 80, 80): YES,
                    Match(1, TCP, 8080, 8090): YES,
                    Match(1, TCP, 8085, 8085): NO,
                    Match(1, SCTP, 9999, 9999): YES,
                    Match(1, ICMP, 8 << 8, 8 << 8 | 255): YES,
                    Match(1, ICMP, 8 << 8 | 3, 8 << 8 | 3): NO,
                    Match(1, ICMPV6, 128 << 8, 128 << 8): YES,
                    Match(3, UDP): YES,
                    Match(3, UDP, 53, 53): NO,
                    Match(4, EVERY): YES,
                    Match(4, TCP, 1, 1): NO,
                },
            ),
        ),
        END,
    )
    from_a = Table(Direction.EGRESS, (Stage(True, {Match(2, TCP): YES, Match(2, ICMPV6): YES}),), END)
    return PolicyState(
        addresses={A4: 1, A6: 1, B4: 2, B6: 2, C4: 3, C6: 3},
        ranges={Range(32, number("10.9.0.4")[0], number("10.9.0.7")[0]): 4},
        tables={1: into_b, 2: from_a},
        pods={
            ("default", "a"): Governed(None, 2),
            ("default", "b"): Governed(1, None),
            ("default", "c"): Governed(),
            ("default", "d"): Governed(),
        },
    )


FLOWS = [
    *(Flow(source, B4, TCP, port) for source in (A4, C4, D4) for port in (1, 22, 80, 8080, 8085, 8090, 8091)),
    *(Flow(source, B4, UDP, port) for source in (A4, C4, D4) for port in (53, 54, 499, 500, 600, 601)),
    *(Flow(source, B4, SCTP, port) for source in (A4, C4, D4) for port in (9998, 9999)),
    *(Flow(source, B4, ICMP, port) for source in (A4, C4, D4) for port in (8 << 8, 8 << 8 | 3, 8 << 8 | 9, 13 << 8)),
    *(Flow(source, B4, protocol) for source in (A4, C4, D4) for protocol in (47, 253)),
    *(Flow(source, B6, TCP, port) for source in (A6, C6) for port in (22, 80, 8085, 8088)),
    *(Flow(source, B6, ICMPV6, kind << 8) for source in (A6, C6) for kind in (128, 129, 1)),
    *(Flow(A4, target, TCP, 7) for target in (C4, D4)),
    *(Flow(B4, target, UDP, 7) for target in (A4, C4, D4)),
    Flow(B6, A6, TCP, 7),
]


def test_packets_fare_as_the_tables_say(node: Node) -> None:
    told = state()
    node.apply(told)
    wanted = {flow: expected(told, node, flow) for flow in FLOWS}
    assert len(set(wanted.values())) == 2
    assert dict(zip(FLOWS, node.passing(FLOWS), strict=True)) == wanted
    assert listing(node)


def test_an_unchanged_world_is_not_written_again(node: Node) -> None:
    node.apply(state())
    before = listing(node)
    other = node.another()
    other.restore(pod.binding for pod in node.pods.values())
    told = state()
    # numbered another way, it is still the same
    told.addresses = {address: peer * 10 for address, peer in told.addresses.items()}
    told.ranges = {over: peer * 10 for over, peer in told.ranges.items()}
    for table in told.tables.values():
        for stage in table.stages:
            stage.rows = {key._replace(number=key.number * 10): row for key, row in stage.rows.items()}
    told.tables = {n + 7: table for n, table in told.tables.items()}
    told.pods = {pod: Governed(*(None if n is None else n + 7 for n in tables)) for pod, tables in told.pods.items()}
    with node.inside():
        netlink.writes.clear()
        assert other.apply(told, PolicyChanges()) == []
        assert not netlink.writes
    assert listing(node) == before


def test_a_log_rule_is_heard_with_the_packet_that_it_met(node: Node) -> None:
    told = state()
    said = RuleRef(PolicyKey("GlobalNetworkPolicy", "", "watch"), "ingress[0]")
    told.tables[1].stages[0].rows[Match(0, UDP, 500, 600)] = Decision(True, RULE, (said,))
    node.apply(told)
    with node.inside(), LogSocket(LOG_GROUP) as heard:
        assert node.passing([Flow(C4, B4, UDP, 501)]) == [True]
        (one,) = heard.packets()
    number = int(one.prefix.removeprefix(LOG_PREFIX))
    assert node.engine.logged()[number] == (said,)
    assert flow(one.payload) == (C4, B4, UDP, 501)
