"""`podwire policy` on a running lab: the cluster's own objects, and what its nodes say of enforcement."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from host import PODWIRE, Lab, lab_in
from kubectl import eventually

pytestmark = pytest.mark.timeout(240)

NODE, OTHER = "verbs-control-plane", "verbs-worker"
LOCKED = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "locked"},
    "spec": {"podSelector": {"matchLabels": {"app": "server"}}},
}
GLOBAL = {
    "apiVersion": "projectcalico.org/v3",
    "kind": "GlobalNetworkPolicy",
    "metadata": {"name": "no-telnet"},
    "spec": {
        "selector": "all()",
        "order": 1,
        "types": ["Ingress"],
        "ingress": [{"action": "Deny", "protocol": "TCP", "destination": {"ports": [23]}}, {"action": "Pass"}],
    },
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab_in(tmp_path_factory.mktemp("verbs")) as one:
        one("up", "--name", "verbs", "--nodes", "2")
        for name in ("server", "client"):
            spec = {
                "nodeName": OTHER,
                "containers": [{"name": "c", "image": "busybox", "command": ["sleep", "3600"]}],
                "terminationGracePeriodSeconds": 0,
            }
            meta = {"name": name, "labels": {"app": name}}
            make(one, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
        one.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
        make(one, LOCKED)
        yield one


def make(lab: Lab, obj: object) -> None:
    lab.kubectl("create", "-f", "-", stdin=json.dumps(obj))


def podwire(lab: Lab, *words: str, stdin: str = "", code: int = 0) -> str:
    done = subprocess.run(
        [PODWIRE, *words], env=lab.env, input=stdin, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def test_a_cluster_is_asked(lab: Lab) -> None:
    assert podwire(lab, "policy", "check").startswith("nothing found in 1 policy, 2 pods")
    told = podwire(lab, "policy", "can", "default/client", "default/server:80", code=1)
    assert "governed by NetworkPolicy default/locked; no rule matches" in told
    podwire(lab, "policy", "can", "default/server", "default/client:80")
    podwire(lab, "policy", "can", f"node/{OTHER}", "default/server:80")  # its own node
    podwire(lab, "policy", "can", f"node/{NODE}", "default/server:80", code=1)
    rows = json.loads(podwire(lab, "policy", "matrix", "--ports", "TCP/80", "-o", "json"))
    denied = [(row["from"], row["to"], row["ingress"], row["egress"]) for row in rows if not row["allowed"]]
    assert denied == [("default/client", "default/server", False, True)]


def test_what_a_file_would_change(lab: Lab) -> None:
    open_again = {**LOCKED, "spec": {**LOCKED["spec"], "ingress": [{"ports": [{"port": 80}]}]}}  # type: ignore[dict-item]
    told = podwire(lab, "policy", "diff", "-", stdin=json.dumps(open_again), code=1)
    assert "now allowed  TCP 80\n" in told and "1 allowed, 0 denied" in told
    assert "no connection differs" in podwire(lab, "policy", "diff", "-", stdin=json.dumps(LOCKED))


def test_assertions_against_the_cluster(lab: Lab, tmp_path: Path) -> None:
    tests = tmp_path / "tests.yaml"
    tests.write_text("tests: [{from: default/client, to: default/server, port: 80, expect: deny, by: locked}]")
    assert podwire(lab, "policy", "test", str(tests)).endswith("1 test, 0 failed\n")


def test_other_kinds_of_policy_are_read(lab: Lab) -> None:
    kinds = lab.kubectl("api-resources", "--api-group=projectcalico.org", "-o", "name")
    if "globalnetworkpolicies" not in kinds:
        pytest.skip("the lab does not serve GlobalNetworkPolicy")
    make(lab, GLOBAL)
    try:
        told = podwire(lab, "policy", "can", "default/server", "default/client:23", code=1)
        assert "Deny by GlobalNetworkPolicy no-telnet ingress[0]" in told
        podwire(lab, "policy", "can", "default/server", "default/client:24")
    finally:
        lab.kubectl("delete", "globalnetworkpolicies.projectcalico.org", "no-telnet")


def test_a_node_without_enforcement_is_told_loudly(lab: Lab) -> None:
    agent = "$(ps ax | awk '/[p]odwire agent/ {print $1}')"

    def enforced() -> bool:
        return "podwire_policy" in lab("exec", OTHER, "--", "nft", "list", "tables").stdout

    assert enforced()
    text = 'printf "[policy]\\nenforce = \\"off\\"\\n" >/etc/podwire/agent.toml'
    lab("exec", OTHER, "--", "sh", "-c", f"{text}; kill {agent}")
    eventually(lambda: not enforced(), 60)
    told = podwire(lab, "policy", "check", code=1)
    assert f"error: Node {OTHER}\n" in told and "policy.enforce = off: no policy has any effect on its pods" in told
    assert NODE not in told
    assert f"{OTHER}: network policy is NOT ENFORCED: policy.enforce = off" in lab("status").stdout
    (row,) = json.loads(podwire(lab, "node", "status", OTHER, "-o", "json"))
    assert row["policy"] == "off: policy.enforce = off"

    lab("exec", OTHER, "--", "sh", "-c", f"rm /etc/podwire/agent.toml; kill {agent}")
    eventually(enforced, 60)
    eventually(lambda: "NOT " not in lab("status").stdout, 60)
    eventually(lambda: subprocess.run([PODWIRE, "policy", "check"], env=lab.env, check=False).returncode == 0, 60)


def test_an_agent_that_stands_still_makes_policy_stale(lab: Lab) -> None:
    agent = "$(ps ax | awk '/[p]odwire agent/ {print $1}')"
    lab("exec", OTHER, "--", "sh", "-c", f"kill -STOP {agent}")
    try:
        told = podwire(lab, "policy", "check", code=1)
        assert f"error: Node {OTHER}\n" in told and "policy is stale" in told
        assert f"{OTHER}: network policy is NOT UP TO DATE" in lab("status").stdout
        assert "stale" in podwire(lab, "node", "status", OTHER, code=1)
    finally:
        lab("exec", OTHER, "--", "sh", "-c", f"kill -CONT {agent}")
    eventually(lambda: subprocess.run([PODWIRE, "policy", "check"], env=lab.env, check=False).returncode == 0, 60)
