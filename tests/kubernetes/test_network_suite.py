"""Kubernetes' own network tests, as they are, on a lab of genuine Kubernetes."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

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


def run(real: Lab, built: Path, report: Path, focus: str, seconds: float) -> tuple[int, str]:
    """How many specs passed; the others, and why they did not."""
    command = [str(built / "netconf.test"), "--provider=skeleton", f"--kubectl-path={built / 'kubectl'}"]
    command += [f"--ginkgo.focus={focus}", "--ginkgo.no-color", f"--ginkgo.json-report={report}"]
    done = subprocess.run(
        [*command, f"--kubeconfig={real.env['KUBECONFIG']}"],
        env=real.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert report.exists(), done.stdout[-4000:]
    specs = json.loads(report.read_text())[0]["SpecReports"]
    ran = [spec for spec in specs if spec["LeafNodeType"] == "It" and spec["State"] != "skipped"]
    others = [
        f"{' '.join(spec['ContainerHierarchyTexts'] or [])} {spec['LeafNodeText']}: {spec['State']}: "
        f"{spec.get('Failure', {}).get('Message', '')[:2000]}"
        for spec in ran
        if spec["State"] != "passed"
    ]
    return len(ran) - len(others), "\n".join(others)


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
