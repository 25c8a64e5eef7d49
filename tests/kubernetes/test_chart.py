"""What helm renders of the chart is what `podwire install --dry-run` prints."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from podwire.install import manifests
from podwire.install.chart import VALUES, kept
from podwire.install.options import Options
from tests.kubernetes.plane import Plane, programs, running

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
    later = [kept(each) for each in (manifests.pool(options), *manifests.tiers())]
    assert rendered == {(each["kind"], each["metadata"]["name"]): each for each in [*wanted, *later]}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with running(programs(), tmp_path_factory.mktemp("plane")) as found:
        yield found


def test_a_release_lives_on_a_genuine_api(helm: Path, plane: Plane) -> None:
    """Installed, changed, rolled back, removed and installed again by helm itself; addresses' pool and kinds stay."""

    def call(*words: str) -> str:
        environment = {**os.environ, "HOME": str(plane.folder), "KUBECONFIG": str(plane.folder / "kubeconfig")}
        done = subprocess.run([helm, *words, "-n", "net"], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def get(kind: str, path: str) -> str:
        done = plane.kubectl("-n", "net", "get", *kind.split(), "-o", f"jsonpath={path}")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def mark() -> str:
        return get("daemonset podwire-agent", "{.spec.template.metadata.annotations.podwire/settings}")

    image = "registry.example.org/podwire:0.1.0"
    call("install", "podwire", str(CHART), "--create-namespace", f"--set=image={image}", "--set=podCidr=10.8.0.0/16")
    assert get("ippool default-ipv4-ippool", "{.spec.cidr}") == "10.8.0.0/16"
    assert get("daemonset,deployment", "{.items[*].spec.template.spec.containers[0].image}").split() == [image, image]
    before = mark()
    call("upgrade", "podwire", str(CHART), "--reuse-values", "--set=mtu=1400")
    assert "mtu = 1400" in get("configmap podwire-agent", "{.data}") and mark() != before, "the agents are brought over"
    assert get("ippool default-ipv4-ippool", "{.spec.cidr}") == "10.8.0.0/16"
    call("rollback", "podwire", "1")
    assert "mtu = 0" in get("configmap podwire-agent", "{.data}") and mark() == before
    call("uninstall", "podwire")
    left = plane.kubectl(
        "get",
        "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings",
        "-o",
        "name",
    )
    assert "podwire" not in left.stdout and get("daemonset,deployment,configmap", "{.items[*].metadata.name}") in (
        "",
        "kube-root-ca.crt",
    )
    assert get("ippool default-ipv4-ippool", "{.spec.cidr}") == "10.8.0.0/16"
    call("install", "podwire", str(CHART), f"--set=image={image}", "--set=podCidr=10.8.0.0/16")
    assert mark() == before
