"""kind's and containerlab's files: what is understood, warned about, refused with line and key."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from podwire.lab import kindfile, topology
from podwire.lab.topology import HostMount, LabSpec, NodeSpec, PlanError, PortMapping

HEAD = "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\n"


def no_file(name: str) -> str:
    raise FileNotFoundError(2, "No such file or directory", name)


def read(text: str) -> tuple[LabSpec, list[str]]:
    return kindfile.read(text, "kind.yaml", no_file)


def test_the_file_of_the_hands_on_lab() -> None:
    spec, warnings = read(
        HEAD + 'networking:\n  podSubnet: "10.244.0.0/16"     # pods\n  serviceSubnet: "10.96.0.0/16"\n'
        "nodes:\n  - role: control-plane\n  - role: worker\n  - role: worker\n"
    )
    assert warnings == []
    assert spec == LabSpec(
        nodes=(NodeSpec("control-plane"), NodeSpec("worker"), NodeSpec("worker")),
        pod_subnet="10.244.0.0/16",
        service_subnet="10.96.0.0/16",
    )


def test_everything_that_means_something() -> None:
    spec, warnings = read(
        HEAD
        + """name: full
networking:
  disableDefaultCNI: true
  ipFamily: ipv4
kubeadmConfigPatches:
- |
  kind: ClusterConfiguration
  controllerManager:
    extraArgs:
      node-cidr-mask-size: "27"
- |
  kind: KubeletConfiguration
  maxPods: 40
nodes:
- role: control-plane
  extraPortMappings:
  - containerPort: 30080
    hostPort: 8080
    listenAddress: "0.0.0.0"
    protocol: udp
  extraMounts:
  - hostPath: /tmp/a
    containerPath: /a
    readOnly: true
- role: worker
  labels:
    zone: a
  kubeadmConfigPatches:
  - |
    kind: JoinConfiguration
    nodeRegistration:
      kubeletExtraArgs:
      - name: max-pods
        value: "9"
      - name: node-labels
        value: "x=y,z="
"""
    )
    assert warnings == []
    assert (spec.name, spec.network, spec.node_mask, spec.max_pods) == ("full", "none", 27, 40)
    assert spec.nodes[0].ports == (PortMapping(30080, 8080, "0.0.0.0", "UDP"),)
    assert spec.nodes[0].mounts == (HostMount("/tmp/a", "/a", True),)
    assert spec.nodes[1].labels == (("zone", "a"), ("x", "y"), ("z", ""))
    assert spec.nodes[1].max_pods == 9


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nodes: ]", "kind.yaml:1: not YAML"),
        ("kind: Cluster\n", "needs `kind: Cluster` and `apiVersion: kind.x-k8s.io/v1alpha4`"),
        ("kind: Cluster\napiVersion: kind.x-k8s.io/v1\n", "kind.yaml:2: apiVersion: must be kind.x-k8s.io/v1alpha4"),
        (HEAD + "nodes:\n- role: master\n", "kind.yaml:4: nodes[0].role: must be control-plane or worker"),
        (HEAD + "nodes:\n- role: worker\n", "kind.yaml:4: nodes: no node has role control-plane"),
        (HEAD + "nodes:\n- role: control-plane\n- role: control-plane\n", "more than one control plane"),
        (HEAD + "nodes: 3\n", "kind.yaml:3: nodes: must be a list"),
        (HEAD + "networking:\n  ipFamily: ipv6\n", "kind.yaml:4: networking.ipFamily: ipv6 alone does not work"),
        (HEAD + "networking:\n  ipFamily: ipv5\n", "must be ipv4, ipv6 or dual"),
        (HEAD + "networking:\n  disableDefaultCNI: maybe\n", "networking.disableDefaultCNI: must be true or false"),
        (
            HEAD + "networking:\n  podSubnet: a\n  podSubnet: b\n",
            "kind.yaml:5: networking.podSubnet: stands here twice",
        ),
        (HEAD + "nodes:\n- extraPortMappings:\n  - containerPort: 99999\n", "99999 is not a port number"),
        (HEAD + "nodes:\n- extraMounts:\n  - hostPath: /a\n    containerPath: b\n", "needs containerPath, an absolute"),
        (HEAD + "---\n" + HEAD, "a second document"),
        (
            HEAD + "nodes:\n- extraPortMappings:\n  - {containerPort: 80, hostPort: 8080}\n- role: worker\n"
            "  extraPortMappings:\n  - containerPort: 81\n    hostPort: 8080\n",
            "kind.yaml:8: nodes[1].extraPortMappings[0]: hostPort 8080/TCP is already mapped in line 5",
        ),
        (HEAD + "kubeadmConfigPatches:\n- |\n  a: ]\n", "kind.yaml:5: not YAML"),
    ],
)
def test_refused_with_line_and_key(text: str, words: str) -> None:
    with pytest.raises(PlanError) as caught:
        read(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("podSubnet: 10.0.0.0/99", "kind.yaml:4: networking.podSubnet: '10.0.0.0/99' is not a subnet"),
        ("serviceSubnet: 172.18.0.0/16", "kind.yaml:4: networking.serviceSubnet: 172.18.0.0/16 overlaps"),
    ],
)
def test_what_only_the_whole_shows_is_placed_as_well(text: str, words: str) -> None:
    spec, _ = read(HEAD + f"networking:\n  {text}\n")
    with pytest.raises(PlanError) as caught:
        topology.build(spec)
    assert str(caught.value).startswith(words)


def test_what_means_nothing_is_named_in_a_warning() -> None:
    _, warnings = read(
        HEAD
        + "featureGates: {A: true}\nnetworking:\n  kubeProxyMode: ipvs\nnodes:\n- role: control-plane\n  image: x\n"
        "  kubeadmConfigPatches:\n  - |\n    kind: InitConfiguration\n    skipPhases: [a]\n"
    )
    assert [warning.split(": ")[:2] for warning in warnings] == [
        ["kind.yaml:3", "featureGates"],
        ["kind.yaml:5", "networking.kubeProxyMode"],
        ["kind.yaml:8", "nodes[0].image"],
        ["kind.yaml:12", "nodes[0].kubeadmConfigPatches[0].skipPhases"],
    ]


def test_a_containerlab_topology_names_the_kind_file() -> None:
    files = {"k.yaml": HEAD + "name: other\nnetworking:\n  podSubnet: 192.168.0.0/16\n"}
    text = """name: top
topology:
  nodes:
    pod-network:
      kind: k8s-kind
      image: kindest/node:v1.28.0
      startup-config: k.yaml
    host:
      kind: ext-container
"""
    spec, warnings = kindfile.read(text, "t.clab.yaml", files.__getitem__)
    assert (spec.name, spec.pod_subnet) == ("pod-network", "192.168.0.0/16")
    assert len(warnings) == 2
    assert any("ext-container" in warning for warning in warnings)


def test_a_containerlab_topology_with_a_missing_file_names_it() -> None:
    text = "topology:\n  nodes:\n    a:\n      kind: k8s-kind\n      startup-config: gone.yaml\n"
    with pytest.raises(PlanError, match=r"t:5: topology.nodes.a.startup-config: gone.yaml: No such file"):
        kindfile.read(text, "t", no_file)


def test_an_empty_file_is_the_default_lab() -> None:
    assert read("# nothing\n")[0] == LabSpec()


def test_the_node_mask_may_stand_in_a_nodes_own_patch() -> None:
    patch = "    kind: ClusterConfiguration\n    controllerManager: {extraArgs: {node-cidr-mask-size: '27'}}\n"
    spec, warnings = read(HEAD + "nodes:\n- role: control-plane\n  kubeadmConfigPatches:\n  - |\n" + patch)
    assert (spec.node_mask, warnings) == (27, [])


OPERATOR = """apiVersion: operator.tigera.io/v1
kind: Installation
metadata: {name: default}
spec:
  calicoNetwork:
    bgp: Enabled
    ipPools:
    - {name: default-ipv4-ippool, blockSize: 27, cidr: 192.168.0.0/16, encapsulation: VXLANCrossSubnet}
    - {cidr: "fd00:10:99::/56", natOutgoing: Disabled}
---
apiVersion: operator.tigera.io/v1
kind: Whisker
metadata: {name: default}
"""


def test_the_operators_installation_gives_the_pools() -> None:
    spec, warnings = read(OPERATOR)
    assert (spec.pod_subnet, spec.dual) == ("192.168.0.0/16,fd00:10:99::/56", True)
    six, four = json.loads(spec.pools)
    assert six["spec"]["cidr"] == "fd00:10:99::/56"
    assert four["metadata"]["name"] == "default-ipv4-ippool"
    assert (four["spec"]["blockSize"], four["spec"]["vxlanMode"]) == (27, "CrossSubnet")
    assert [line.partition(": ")[2] for line in warnings] == [
        "Installation: spec.calicoNetwork.bgp: means nothing in a Podwire lab; ignored",
        "kind: Whisker: means nothing in a Podwire lab; ignored",
    ]
    plan = topology.build(spec)
    assert topology.from_dict(json.loads(json.dumps(topology.to_dict(plan)))) == plan and plan.pools == spec.pools
    named, _ = read(HEAD + "networking: {podSubnet: 192.168.0.0/17}\n---\n" + OPERATOR)
    assert named.pod_subnet == "192.168.0.0/17"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            OPERATOR.replace("VXLANCross", "Cross"),
            "kind.yaml:1: Installation: spec.calicoNetwork.ipPools[0]: encap",
        ),
        (
            OPERATOR.replace("192.168.0.0/16", '"fd00:10:98::/120"').replace("VXLANCrossSubnet", "None"),
            "blockSize: /27",
        ),
        (OPERATOR.replace("    - {name: default-ipv4", "    # {"), "pool of IPv4"),
        (OPERATOR + "---\n" + OPERATOR, "kind.yaml:15: a second Installation"),
    ],
)
def test_an_installation_that_cannot_be(text: str, words: str) -> None:
    with pytest.raises(PlanError, match=re.escape(words)):
        read(text)


def test_an_installation_needs_the_routed_network() -> None:
    spec, _ = read(OPERATOR.replace('    - {cidr: "fd00:10:99::/56", natOutgoing: Disabled}\n', ""))
    for more in ({"network": "kubenet"}, {"ipam": "host-local"}, {"programs": "/bin"}):
        with pytest.raises(PlanError, match="Installation: its pools need the routed network"):
            topology.build(replace(spec, **more))
