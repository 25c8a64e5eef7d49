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
)
"""What a pod network is for: pods, Services and their names, across nodes."""


def run(real: Lab, built: Path, report: Path, focus: str, seconds: float) -> dict[str, str]:
    """Each spec that was run, and how it ended (`passed`, …); the report says more."""
    command = [built / "netconf.test", "--provider=skeleton", f"--kubectl-path={built / 'kubectl'}"]
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
    return {
        " ".join([*(spec["ContainerHierarchyTexts"] or []), spec["LeafNodeText"]]): spec["State"]
        for spec in specs
        if spec["LeafNodeType"] == "It" and spec["State"] != "skipped"
    }


def test_core(real: Lab, built: Path, tmp_path: Path) -> None:
    focus = f"({'|'.join(map(re.escape, CORE))}) .*\\[Conformance\\]"
    ended = run(real, built, tmp_path / "report.json", focus, 170)
    assert len(ended) == len(CORE)
    assert set(ended.values()) == {"passed"}, ended


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_conformance(real: Lab, built: Path, tmp_path: Path) -> None:
    """Every network spec that makes a cluster a conformant one."""
    ended = run(real, built, tmp_path / "report.json", r"\[sig-network\].*\[Conformance\]", 7000)
    assert len(ended) > 40
    assert set(ended.values()) == {"passed"}, ended
