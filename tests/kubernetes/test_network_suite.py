"""Kubernetes' own network tests, as they are, on a lab of genuine Kubernetes."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.lab.host import Lab

CORE = (
    "Services should serve a basic endpoint from pods",
    "DNS should provide DNS for the cluster",
    "Granular Checks: Pods should function for intra-pod communication: http",
    "Granular Checks: Pods should function for node-pod communication: http",
    "HostPort validates that there is no conflict between pods with same hostPort but different hostIP and protocol",
    "Proxy version v1 should proxy through a service and a pod",
)
"""What a pod network is for: pods, Services and their names, across nodes; and what once failed here."""


SCTP = "[Feature:SCTPConnectivity]"
"""Specs that send SCTP by sockets of that kind, which not every kernel has. What policy does to SCTP is shown without
them in tests/netns/policy, by packets that are written byte by byte."""
BESIDE = 4
"""Runs at once of what spends its time waiting for refused connections."""


def run(real: Lab, built: Path, report: Path, focus: str, seconds: float) -> tuple[int, str]:
    """How many specs passed; the others, and why they did not."""
    told = [f"--kubeconfig={real.env['KUBECONFIG']}", f"--kubectl-path={built / 'kubectl'}"]
    return outcome(specs(real, built, report, focus, seconds, *told))


def specs(real: Lab, built: Path, report: Path, focus: str, seconds: float, *more: str) -> list[dict[str, Any]]:
    """The reports of the specs that were run."""
    command = [str(built / "netconf.test"), "--provider=skeleton", *more, f"--ginkgo.focus={focus}"]
    done = subprocess.run(
        [*command, "--ginkgo.no-color", f"--ginkgo.json-report={report}"],
        env=real.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert report.exists(), done.stdout[-4000:]
    found = json.loads(report.read_text())[0]["SpecReports"]
    return [spec for spec in found if spec["LeafNodeType"] == "It" and spec["State"] != "skipped"]


def name(spec: dict[str, Any]) -> str:
    return " ".join([*(spec["ContainerHierarchyTexts"] or []), spec["LeafNodeText"]])


def outcome(ran: list[dict[str, Any]]) -> tuple[int, str]:
    others = [
        f"{name(spec)}: {spec['State']}: {spec.get('Failure', {}).get('Message', '')[:2000]}"
        for spec in ran
        if spec["State"] != "passed"
    ]
    return len(ran) - len(others), "\n".join(others)


def run_beside(real: Lab, built: Path, folder: Path, names: list[str], seconds: float) -> list[dict[str, Any]]:
    """These specs, some at a time: each has namespaces of its own."""
    told = [f"--kubeconfig={real.env['KUBECONFIG']}", f"--kubectl-path={built / 'kubectl'}"]

    def share(number: int) -> list[dict[str, Any]]:
        focus = f"({'|'.join(map(re.escape, names[number::BESIDE]))})$"
        return specs(real, built, folder / f"{number}.json", focus, seconds, *told)

    with ThreadPoolExecutor(BESIDE) as pool:
        return [spec for found in pool.map(share, range(BESIDE)) for spec in found]


def speaks_sctp() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError:
        return False
    return True


@pytest.mark.timeout(400)
def test_core(real: Lab, built: Path, tmp_path: Path) -> None:
    focus = f"({'|'.join(map(re.escape, CORE))}) .*\\[Conformance\\]"
    assert run(real, built, tmp_path / "report.json", focus, 200) == (len(CORE), "")


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_conformance(real: Lab, built: Path, tmp_path: Path) -> None:
    """Every network spec that makes a cluster a conformant one."""
    passed, others = run(real, built, tmp_path / "report.json", r"\[sig-network\].*\[Conformance\]", 7000)
    assert others == ""
    assert passed > 40


@pytest.mark.timeout(1200)
def test_network_policy(real: Lab, built: Path, tmp_path: Path) -> None:
    """Every spec of NetworkPolicy; of 50 those of SCTP by sockets only where the kernel has these."""
    known = [name(spec) for spec in specs(real, built, tmp_path / "all.json", "Netpol", 60, "--ginkgo.dry-run")]
    assert len(known) == 50
    assert len([each for each in known if SCTP in each]) == 3
    wanted = [each for each in sorted(known) if SCTP not in each or speaks_sctp()]
    ran = run_beside(real, built, tmp_path, wanted, 1100)
    assert sorted(map(name, ran)) == wanted
    assert outcome(ran) == (len(wanted), "")
