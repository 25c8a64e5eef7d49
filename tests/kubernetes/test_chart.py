"""What helm renders of the chart is what `podwire install --dry-run` prints."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from podwire.install import manifests
from podwire.install.chart import VALUES
from podwire.install.options import Options

CHART = Path(__file__).parents[2] / "deploy/chart"
VARIANTS = {
    "default": Options(),
    "everything chosen": Options(
        namespace="podwire-system",
        image="registry.test:5000/podwire@sha256:" + "0" * 64,
        pull_policy="Never",
        pod_cidr="10.8.0.0/14",
        block_size=28,
        encapsulation="Never",
        mtu=1400,
        api_server="https://192.0.2.1:6443",
    ),
}


@pytest.fixture(scope="module")
def helm() -> Path:
    build = [Path(__file__).parent / "build", "helm"]
    return Path(subprocess.run(build, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()) / "helm"


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_rendered_is_what_install_prints(helm: Path, tmp_path: Path, options: Options) -> None:
    sets = [f"--set={value}={getattr(options, option)}" for option, value in VALUES.items()]
    done = subprocess.run(
        [helm, "template", "podwire", CHART, "--include-crds", f"--namespace={options.namespace}", *sets],
        env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    rendered = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(done.stdout) if each}
    wanted = [each for each in manifests.everything(options) if each["kind"] != "Namespace"]
    later = [manifests.pool(options), *manifests.tiers()]
    assert rendered == {(each["kind"], each["metadata"]["name"]): each for each in [*wanted, *later]}
