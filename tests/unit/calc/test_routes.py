"""What a node must hold, from nodes, pools and blocks."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podwire.calc.routes import RouteCalc, calculate
from podwire.calc.state import BlockRoute, LocalEndpoint, NodeState, Peer, TunnelDevice, Via
from podwire.model.block import IPAMBlock, block_name
from podwire.model.ippool import IPPool
from podwire.model.node import Node, derived_mac


def node(name: str, address: str, tunnel: str = "", subnet: int = 16) -> Node:
    annotations = {"projectcalico.org/IPv4Address": f"{address}/{subnet}"}
    if tunnel:
        annotations["projectcalico.org/IPv4VXLANTunnelAddr"] = tunnel
    return msgspec.convert({"metadata": {"name": name, "annotations": annotations}}, Node)


def pool(cidr: str = "10.244.0.0/16", vxlan: str = "Always", **spec: Any) -> IPPool:
    body = {"cidr": cidr, "vxlanMode": vxlan, "natOutgoing": True, **spec}
    return msgspec.convert({"metadata": {"name": "p"}, "spec": body}, IPPool)


def block(cidr: str, owner: str = "", borrowed: dict[int, str] | None = None, **spec: Any) -> IPAMBlock:
    size = 1 << (32 - int(cidr.partition("/")[2]))
    allocations: list[int | None] = [None] * size
    attributes = []
    for ordinal, who in (borrowed or {}).items():
        allocations[ordinal] = len(attributes)
        attributes.append({"handle_id": f"h{ordinal}", "secondary": {"node": who}})
    body = {"cidr": cidr, "allocations": allocations, "attributes": attributes, **spec}
    if owner:
        body["affinity"] = f"host:{owner}"
    return msgspec.convert({"metadata": {"name": block_name(cidr)}, "spec": body}, IPAMBlock)


NODES = {
    "a": node("a", "172.18.0.2", "10.244.0.0"),
    "b": node("b", "172.18.0.3", "10.244.1.0"),
    "far": node("far", "192.0.2.9", "10.244.2.0", 24),
}
BLOCKS = [block("10.244.0.0/26", "a"), block("10.244.1.0/26", "b"), block("10.244.2.0/26", "far")]


def state(pools: list[IPPool], blocks: list[IPAMBlock], nodes: dict[str, Node] | None = None) -> NodeState:
    named = {f"pool{n}": item for n, item in enumerate(pools)}
    return calculate("a", NODES if nodes is None else nodes, named, {item.metadata.name: item for item in blocks})


def routes(found: NodeState) -> dict[str, tuple[str, str]]:
    return {key: (route.via.value, route.gateway) for key, route in found.routes.items()}


BLACKHOLE = ("blackhole", "")


@pytest.mark.parametrize(
    ("mode", "near", "far"),
    [
        ("Always", ("vxlan", "10.244.1.0"), ("vxlan", "10.244.2.0")),
        ("CrossSubnet", ("direct", "172.18.0.3"), ("vxlan", "10.244.2.0")),
        ("Never", ("direct", "172.18.0.3"), None),
    ],
)
def test_encapsulation(mode: str, near: tuple[str, str], far: tuple[str, str] | None) -> None:
    wanted = {"10.244.0.0/26": BLACKHOLE, "10.244.1.0/26": near}
    if far:
        wanted["10.244.2.0/26"] = far
    found = state([pool(vxlan=mode)], BLOCKS)
    assert routes(found) == wanted
    if mode == "Never":
        assert found.device is None and found.peers == {}
    else:
        assert found.device == TunnelDevice("10.244.0.0", derived_mac("a"), "172.18.0.2")
        assert found.peers["b"] == Peer("b", "172.18.0.3", "10.244.1.0", derived_mac("b"))
        assert set(found.peers) == {"b", "far"}


def test_ipip_is_never_half_applied() -> None:
    found = state([pool(vxlan="Never", ipipMode="CrossSubnet")], BLOCKS)
    assert routes(found) == {"10.244.0.0/26": BLACKHOLE} and found.device is None


def test_borrowed_addresses_have_routes_of_their_own() -> None:
    blocks = [block("10.244.0.0/26", "a", {1: "a", 2: "b"}), block("10.244.1.0/26", "b", {5: "a", 6: "b"})]
    nodes = {name: NODES[name] for name in "ab"}
    assert routes(state([pool()], blocks, nodes)) == {
        "10.244.0.0/26": BLACKHOLE,
        "10.244.0.2/32": ("vxlan", "10.244.1.0"),
        "10.244.1.0/26": ("vxlan", "10.244.1.0"),
    }


def test_single_address_blocks_and_nobodys_blocks() -> None:
    blocks = [block("10.244.0.9/32", "a"), block("10.244.3.0/26"), block("10.244.1.0/26", "b", deleted=True)]
    nodes = {name: NODES[name] for name in "ab"}
    assert routes(state([pool()], blocks, nodes)) == {"10.244.1.0/32": ("tunnel", "")}, "b's tunnel address remains"


@pytest.mark.parametrize("mode", ["Always", "CrossSubnet", "Never"])
def test_ipv6_goes_inside_the_tunnel_as_the_underlay_is_ipv4(mode: str) -> None:
    nodes = {"a": node("a", "172.18.0.2", "10.244.0.0"), "b": node("b", "172.18.0.3", "10.244.1.0")}
    ends = {"a": "fd00:10:244::", "b": "FD00:10:244::0:100"}
    for name, end in ends.items():
        nodes[name].metadata.annotations["projectcalico.org/IPv6VXLANTunnelAddr"] = end
    six = pool("fd00:10:244::/56", mode, natOutgoing=False)
    held = [("fd00:10:244::/122", "a"), ("fd00:10:244::100/122", "b"), ("fd00:10:244::140/122", "absent")]
    blocks = [
        msgspec.convert(
            {"metadata": {"name": block_name(cidr)}, "spec": {"cidr": cidr, "affinity": f"host:{owner}"}}, IPAMBlock
        )
        for cidr, owner in held
    ]
    found = state([pool(), six], [*BLOCKS[:2], *blocks], nodes)
    wanted = {"10.244.0.0/26": BLACKHOLE, "10.244.1.0/26": ("vxlan", "10.244.1.0"), "fd00:10:244::/122": BLACKHOLE}
    if mode != "Never":
        wanted["fd00:10:244::100/122"] = ("vxlan", "fd00:10:244::100")
    assert routes(found) == wanted
    assert found.peers["b"] == Peer("b", "172.18.0.3", "10.244.1.0", derived_mac("b"), "fd00:10:244::100")
    assert found.device == TunnelDevice("10.244.0.0", derived_mac("a"), "172.18.0.2", "fd00:10:244::")
    assert found.pools == {"10.244.0.0/16"}, "masquerade is IPv4's"


def test_tunnel_addresses_outside_their_nodes_blocks_are_link_routes() -> None:
    nodes = {**NODES, "b": node("b", "172.18.0.3", "10.244.0.7")}
    blocks = [block("10.244.0.0/26", "a", {7: "b"}), block("10.244.2.0/26", "far")]
    assert routes(state([pool()], blocks, nodes)) == {
        "10.244.0.0/26": BLACKHOLE,
        "10.244.0.7/32": ("tunnel", ""),
        "10.244.2.0/26": ("vxlan", "10.244.2.0"),
    }


def test_incomplete_or_hostile_objects_are_passed_over() -> None:
    nodes = {"a": NODES["a"], "b": node("b", "not an address"), "far": node("far", "192.0.2.9", "nonsense")}
    odd = [block("10.244.1.0/26", "b"), block("10.244.2.0/26", "far"), block("10.244.9.0/26", "nobody")]
    broken = msgspec.convert({"metadata": {"name": "x"}, "spec": {"cidr": "10.244.0.300/26"}}, IPAMBlock)
    dangling = block("10.244.4.0/30", allocations=[7, None, None, None])
    bad_pool = pool("10.244.0.1/16")
    assert routes(state([pool(), bad_pool], [*odd, broken, dangling], nodes)) == {}


def test_masquerade_sets() -> None:
    pools = [
        pool("10.244.0.0/16"),
        pool("10.9.0.0/16", natOutgoing=False),
        pool("10.8.0.0/16", disabled=True),
        pool("10.7.0.0/16", allowedUses=["LoadBalancer"]),
    ]
    found = state(pools, [])
    assert found.pools == {"10.244.0.0/16", "10.9.0.0/16", "10.8.0.0/16"}
    assert found.nat_pools == {"10.244.0.0/16", "10.8.0.0/16"}
    assert found.hosts == {"172.18.0.2", "172.18.0.3", "192.0.2.9"}


def test_changes_name_what_changed_and_nothing_else() -> None:
    calc = RouteCalc("a")
    for name, one in NODES.items():
        calc.on_node(name, one)
    calc.on_pool("p", pool())
    for one in BLOCKS:
        calc.on_block(one.metadata.name, one)
    first = calc.flush()
    assert first.routes == set(calc.state.routes) and first.peers == {"b", "far"} and first.device and first.nat
    assert not calc.flush(), "nothing happened"
    calc.on_block("10-244-1-0-26", block("10.244.1.0/26", "b", {3: "b"}))
    calc.on_node("b", NODES["b"])
    assert not calc.flush(), "an assignment elsewhere and a heartbeat change nothing here"
    calc.on_node("b", node("b", "172.18.0.33", "10.244.1.0"))
    moved = calc.flush()
    assert (moved.routes, moved.peers, moved.device, moved.nat) == (frozenset(), {"b"}, False, True)
    calc.on_block("10-244-1-0-26", None)
    assert calc.flush().routes == {"10.244.1.0/26", "10.244.1.0/32"}
    calc.on_endpoint("c1", LocalEndpoint("cali1", "10.244.0.5"))
    assert calc.flush().endpoints == {"c1"} and calc.state.endpoints["c1"].interface == "cali1"


def test_one_event_costs_the_same_in_a_large_cluster() -> None:
    """Counted, not timed: how many destinations one event makes it look at."""
    calc = RouteCalc("n0")
    for n in range(1000):
        address, first = f"172.18.{n // 200}.{n % 200 + 1}", f"10.{n // 256}.{n % 256}.0"
        calc.on_node(f"n{n}", node(f"n{n}", address, first))
        calc.on_block(f"b{n}", block(f"{first}/26", f"n{n}"))
    calc.on_pool("p", pool("10.0.0.0/8"))
    calc.flush()
    assert len(calc.state.routes) == 1000
    looked: list[object] = []
    real = calc._route
    calc._route = lambda d: looked.append(d) or real(d)  # type: ignore[method-assign,func-returns-value]
    calc.on_block("b7", block("10.0.7.0/26", "n8"))
    calc.on_node("n9", node("n9", "172.18.9.9", "10.0.9.0"))
    calc.flush()
    assert len(looked) <= 5 and calc.state.routes["10.0.7.0/26"] == BlockRoute(
        "10.0.7.0/26", Via.VXLAN, "10.0.8.0", "n8"
    )


# -- any order of events ------------------------------------------------------------------------------------------

_nodes = st.builds(
    node,
    st.just("x"),
    st.sampled_from(["172.18.0.2", "172.18.0.3", "192.0.2.4", "bad"]),
    st.sampled_from(["", "10.244.0.0", "10.244.0.5", "10.244.1.0", "10.244.1.63"]),
    st.sampled_from([16, 24]),
)
_pools = st.builds(
    pool,
    st.sampled_from(["10.244.0.0/16", "10.244.0.0/24", "10.244.1.0/24", "10.0.0.0/8"]),
    st.sampled_from(["Always", "CrossSubnet", "Never"]),
    natOutgoing=st.booleans(),
    ipipMode=st.sampled_from(["Never", "Never", "Always"]),
)
_blocks = st.builds(
    block,
    st.sampled_from(["10.244.0.0/26", "10.244.0.0/28", "10.244.1.0/26", "10.244.1.0/30", "10.244.0.5/32"]),
    st.sampled_from(["", "a", "b", "c"]),
    st.dictionaries(st.just(0), st.sampled_from("abc")),
)
_events = st.one_of(
    st.tuples(st.just("node"), st.sampled_from("abc"), st.none() | _nodes),
    st.tuples(st.just("pool"), st.sampled_from("pq"), st.none() | _pools),
    st.tuples(st.just("block"), st.sampled_from("uvwxyz"), st.none() | _blocks),
    st.just(("flush", "", None)),
)


def renamed(name: str, found: Node | None) -> Node | None:
    return None if found is None else msgspec.structs.replace(found, metadata=_named(found, name))


def _named(found: Node, name: str) -> Any:
    return msgspec.structs.replace(found.metadata, name=name)


@settings(max_examples=300, deadline=None)
@given(st.lists(_events, max_size=30), st.randoms(use_true_random=False))
def test_incremental_equals_from_scratch_in_any_order(events: list[Any], dice: random.Random) -> None:
    calc = RouteCalc("a")
    world: dict[str, dict[str, Any]] = {"node": {}, "pool": {}, "block": {}}
    for kind, name, value in events:
        if kind == "flush":
            before = dict(calc.state.routes), dict(calc.state.peers)
            changes = calc.flush()
            for old, new, told in zip(
                before, (calc.state.routes, calc.state.peers), (changes.routes, changes.peers), strict=True
            ):
                assert told == {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
            continue
        value = renamed(name, value) if kind == "node" else value
        getattr(calc, f"on_{kind}")(name, value)
        world[kind].pop(name, None)
        if value is not None:
            world[kind][name] = value
    calc.flush()

    def shuffled(items: dict[str, Any]) -> dict[str, Any]:
        return dict(dice.sample(sorted(items.items(), key=lambda pair: pair[0]), len(items)))

    scratch = calculate("a", shuffled(world["node"]), shuffled(world["pool"]), shuffled(world["block"]))
    assert calc.state == scratch
