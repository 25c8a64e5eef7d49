"""Plans: names, addresses, and what is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.lab import topology
from podwire.lab.topology import HostMount, LabSpec, NodeSpec, PlanError, PortMapping


def test_three_nodes_are_named_and_tainted_as_kind_does() -> None:
    plan = topology.build(LabSpec())
    assert [node.name for node in plan.nodes] == ["lab-control-plane", "lab-worker", "lab-worker2"]
    assert [node.address for node in plan.nodes] == ["172.18.0.2", "172.18.0.3", "172.18.0.4"]
    assert [node.tainted for node in plan.nodes] == [True, False, False]
    assert (plan.api_service, plan.cluster_dns) == ("10.96.0.1", "10.96.0.10")


def test_a_single_node_is_not_tainted() -> None:
    plan = topology.build(LabSpec(name="one", nodes=topology.default_nodes(1)))
    assert [(node.name, node.tainted) for node in plan.nodes] == [("one-control-plane", False)]


def test_the_control_plane_is_first_wherever_the_file_puts_it() -> None:
    plan = topology.build(LabSpec(nodes=(NodeSpec("worker"), NodeSpec("control-plane"))))
    assert [node.role for node in plan.nodes] == ["control-plane", "worker"]


def test_workers_are_numbered_from_the_second() -> None:
    names = [node.name for node in topology.build(LabSpec(nodes=topology.default_nodes(12))).nodes]
    assert names[1:4] == ["lab-worker", "lab-worker2", "lab-worker3"]
    assert names[-1] == "lab-worker11"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (LabSpec(name="Bad_Name"), "name: 'Bad_Name'"),
        (LabSpec(pod_subnet="10.244.0.0"), "too small"),
        (LabSpec(pod_subnet="nonsense"), "networking.podSubnet: 'nonsense' is not a subnet"),
        (LabSpec(pod_subnet="10.244.0.1/16"), "host bits set"),
        (LabSpec(pod_subnet="fd00::/48"), "only ipv4 works so far"),
        (LabSpec(pod_subnet="10.96.0.0/16"), "networking.podSubnet: 10.96.0.0/16 overlaps networking.serviceSubnet"),
        (LabSpec(pod_subnet="172.18.4.0/22"), "overlaps the node network"),
        (LabSpec(service_subnet="203.0.113.0/27"), "overlaps the outside network"),
        (LabSpec(service_subnet="10.96.0.0/29"), "networking.serviceSubnet: 10.96.0.0/29 is too small"),
        (LabSpec(pod_subnet="10.244.0.0/23", node_mask=24), "3 nodes with a /24 each do not fit"),
        (LabSpec(node_mask=12), "node-cidr-mask-size: 12"),
        (LabSpec(nodes=(NodeSpec("worker"),)), "exactly one"),
    ],
)
def test_refused(spec: LabSpec, words: str) -> None:
    with pytest.raises(PlanError) as caught:
        topology.build(spec)
    assert words in str(caught.value)


def test_the_same_host_port_twice_is_refused() -> None:
    port = PortMapping(80, 8080)
    with pytest.raises(PlanError, match="8080/TCP of lab-worker is already mapped to lab-control-plane"):
        topology.build(LabSpec(nodes=(NodeSpec("control-plane", ports=(port,)), NodeSpec("worker", ports=(port,)))))


def test_a_small_pod_subnet_gets_a_mask_that_fits() -> None:
    assert topology.build(LabSpec(pod_subnet="10.244.0.0/22")).node_mask == 26


@given(st.integers(1, 100), st.sampled_from(topology.NETWORKS), st.sampled_from(["", "a", "my-lab"]))
def test_a_plan_survives_json(count: int, network: str, name: str) -> None:
    nodes = (
        NodeSpec("control-plane", (("a", "b"),), 7, (PortMapping(80, 8080),), (HostMount("/a", "/b", True),)),
        *topology.default_nodes(count)[1:],
    )
    plan = topology.build(LabSpec(name=name, nodes=nodes, network=network))
    assert topology.from_dict(json.loads(json.dumps(topology.to_dict(plan)))) == plan
    assert len({node.address for node in plan.nodes}) == len({node.name for node in plan.nodes}) == count


@pytest.mark.parametrize(
    ("asked", "decided"),
    [
        (("", ""), ("routed", "blocks", True)),
        (("routed", "host-local"), ("routed", "host-local", True)),
        (("kubenet", ""), ("kubenet", "host-local", True)),
        (("kubenet", "host-local"), ("kubenet", "host-local", True)),
        (("none", ""), ("none", "blocks", False)),
    ],
)
def test_networks(asked: tuple[str, str], decided: tuple[str, str, bool]) -> None:
    plan = topology.build(LabSpec(network=asked[0], ipam=asked[1]))
    assert (plan.network, plan.ipam, plan.default_cni) == decided


@pytest.mark.parametrize(
    ("network", "ipam", "words"),
    [
        ("flannel", "", "--network: 'flannel' is none of routed, kubenet, none"),
        ("", "dhcp", "--ipam: 'dhcp' is none of blocks, host-local"),
        ("kubenet", "blocks", "--ipam: kubenet gives out the addresses of each node's own podCIDR"),
    ],
)
def test_networks_that_cannot_be(network: str, ipam: str, words: str) -> None:
    with pytest.raises(PlanError) as error:
        topology.build(LabSpec(network=network, ipam=ipam))
    assert words in str(error.value)


def test_a_plan_of_an_earlier_release_is_read() -> None:
    for cni, network in ((True, "routed"), (False, "none")):
        old = topology.to_dict(topology.build(LabSpec()))
        del old["network"], old["ipam"]
        assert topology.from_dict({**old, "default_cni": cni}).network == network


def test_pods_of_both_families() -> None:
    for programs in ("", "/bin"):
        assert topology.build(LabSpec(dual=True, programs=programs)).pod_subnet6 == "fd00:10:244::/56"
        with pytest.raises(PlanError, match="needs the routed network"):
            topology.build(LabSpec(dual=True, network="kubenet", programs=programs))
    with pytest.raises(PlanError, match="overlaps the IPv6 addresses of Services"):
        topology.build(LabSpec(dual=True, pod_subnet="10.244.0.0/16,fd00:10:96::/56"))


def test_who_makes_services_work_is_a_choice_of_genuine_kubernetes() -> None:
    assert topology.build(LabSpec()).services == ""
    genuine = topology.build(LabSpec(programs="/bin"))
    assert (genuine.genuine, genuine.services) == (True, "kube-proxy")
    assert topology.build(LabSpec(programs="/bin", services="none")).services == "none"
    for wrong in (LabSpec(services="none"), LabSpec(programs="/bin", services="ipvs")):
        with pytest.raises(PlanError, match="--services"):
            topology.build(wrong)


def test_policy_may_be_left_alone_wherever_the_lab_has_agents() -> None:
    assert topology.build(LabSpec()).policy == "on"
    assert topology.build(LabSpec(policy="off")).policy == "off"
    assert topology.build(LabSpec(policy="off", programs="/bin")).policy == "off"
    for wrong in (LabSpec(policy="no"), LabSpec(policy="off", programs="/bin", network="none")):
        with pytest.raises(PlanError, match="--policy"):
            topology.build(wrong)
