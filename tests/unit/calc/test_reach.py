"""A whole cluster from objects as files have them."""

from podwire.calc.reach import Cluster
from podwire.calc.verdicts import class_of, judge
from podwire.model.address import parse_ip
from podwire.model.policy import TCP


def pod(name: str, ip: str, **labels: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": labels},
        "status": {"podIPs": [{"ip": ip}]},
    }


ALLOW_FRONTEND = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "allow-frontend", "namespace": "shop"},
    "spec": {
        "podSelector": {"matchLabels": {"app": "backend"}},
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "frontend"}}}], "ports": [{"port": 8080}]}],
    },
}


def test_every_pod_is_governed_and_problems_are_told() -> None:
    broken = {"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": "x"}}
    broken["spec"] = {"selector": "app ="}  # type: ignore[assignment]
    pods = [pod("a", "10.0.0.1", app="frontend"), pod("b", "10.0.0.2", app="backend"), pod("c", "10.0.0.3")]
    cluster = Cluster.of([*pods, ALLOW_FRONTEND, broken, {"kind": "ConfigMap"}])
    state = cluster.state
    assert [title for title, _ in cluster.problems] == ["GlobalNetworkPolicy x"]
    assert state.pods.keys() == {("shop", name) for name in "abc"}
    ingress = state.pods["shop", "b"].ingress
    assert ingress is not None and state.pods["shop", "a"].ingress is None

    def passes(address: str, port: int) -> bool:
        return judge(state.tables, ingress, class_of(state, address, *parse_ip(address)), TCP, port).allow

    assert [passes(f"10.0.0.{n}", 8080) for n in (1, 2, 3)] == [True, False, False]
    assert not passes("10.0.0.1", 80)
