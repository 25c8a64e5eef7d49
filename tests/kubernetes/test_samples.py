"""Every YAML sample of the documentation before a genuine API server, by kubectl's server-side dry run.

A sample is a fenced block of YAML, or a file that a step of a lab writes (a here-document). Where it shows only a part
of a Pod, the rest of a small one is put around it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kubernetes.plane import Plane, programs, running

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "deploy").rglob("*.md"))]
FENCE = re.compile(r"^( *)```(\w+)?([^\n]*)\n(.*?)\n *```$", re.MULTILINE | re.DOTALL)
HERE_DOCUMENT = re.compile(r"<<-?'?(\w+)'?[^\n]*\n(.*?)\n\1$", re.MULTILINE | re.DOTALL)
OF_OTHERS = {
    "kind.x-k8s.io/v1alpha4": "kind's cluster file: `lab up --config` reads it, no API server does",
    "tests": "assertions: `podwire policy test` reads them, no API server does",
    "topology": "containerlab's topology: `lab up --topo` reads it, no API server does",
}
"""By apiVersion, or by a key of the file: samples that are for somebody else, and for whom."""
Object = dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """One YAML document, and where it is written."""

    place: str
    content: Object

    def other(self) -> str:
        """Whose it is, when it is no object of Kubernetes'; else empty."""
        return OF_OTHERS.get(self.content.get("apiVersion", ""), "") or next(
            (why for key, why in OF_OTHERS.items() if key in self.content), ""
        )

    def objects(self) -> Object:
        """What the API server is asked to take."""
        if "apiVersion" in self.content:
            return self.content
        assert "kind" not in self.content, f"{self.place}: kind without apiVersion"
        if all("/" in key for key in self.content):
            return a_pod(metadata={"annotations": self.content})
        assert set(self.content) <= {"metadata", "spec"}, f"{self.place} is neither an object nor a part of a Pod"
        return a_pod(**self.content)


def a_pod(metadata: Object | None = None, spec: Object | None = None) -> Object:
    spec = spec or {}
    containers = [{"image": "busybox", **one} for one in spec.get("containers", [{"name": "c"}])]
    head = {"name": "sample", **(metadata or {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": head, "spec": {**spec, "containers": containers}}


def samples(pages: list[Path]) -> Iterator[Sample]:
    """Of all pages but the transcripts, which repeat what the labs say."""
    for page in pages:
        if page.parent.name == "transcripts":
            continue
        text = page.read_text()
        for fence in FENCE.finditer(text):
            texts = [fence[4]] if fence[2] in ("yaml", "yml") else [one[2] for one in HERE_DOCUMENT.finditer(fence[4])]
            line = text.count("\n", 0, fence.start()) + 1
            for number, one in enumerate(texts):
                for document in yaml.safe_load_all(one):
                    place = f"{page.relative_to(ROOT) if ROOT in page.parents else page.name}:{line}"
                    assert isinstance(document, dict), f"{place}: not a YAML mapping"
                    yield Sample(f"{place} ({number + 1})" if number else place, document)


ALL = list(samples(PAGES))
OURS = [sample for sample in ALL if not sample.other()]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """With our kinds, and the account that every pod is given."""
    with running(programs(), tmp_path_factory.mktemp("plane")) as found:
        for words in (
            ("apply", "--server-side", "-f", str(ROOT / "deploy/crds")),
            ("wait", "--for=condition=Established", "crds", "--all", "--timeout=120s"),
            ("create", "serviceaccount", "default"),
        ):
            done = found.kubectl(*words)
            assert done.returncode == 0, done.stderr
        yield found


def told(plane: Plane, sample: Sample) -> str:
    """What is wrong with it; empty when it is taken."""
    words = ("create", "--dry-run=server", "--validate=strict", "-f", "-")
    done = plane.kubectl(*words, text=json.dumps(sample.objects()))
    return "" if done.returncode == 0 else done.stderr


@pytest.mark.parametrize("sample", OURS, ids=lambda sample: sample.place)
def test_a_sample_is_accepted(plane: Plane, sample: Sample) -> None:
    assert told(plane, sample) == ""


def test_each_kind_of_sample_is_found() -> None:
    kinds = {sample.content.get("kind") for sample in OURS}
    assert {"IPAMHandle", "NetworkPolicy", None} <= kinds
    assert {sample.other() for sample in ALL} - {""} == set(OF_OTHERS.values()), "no reason is given for nothing"


def test_a_wrong_sample_is_refused(plane: Plane, tmp_path: Path) -> None:
    page = tmp_path / "wrong.md"
    page.write_text(
        "```yaml\nspec:\n  containers:\n  - name: web\n    ports: [{containerPort: 80, hostPrt: 8080}]\n```\n"
        "```sh step\ncat <<'END' | kubectl create -f -\n"
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: x}\n"
        "spec: {cidr: 10.0.0.0/8, vxlanMode: Maybe}\n"
        "END\n```\n"
    )
    part, pool = (told(plane, sample) for sample in samples([page]))
    assert 'unknown field "spec.containers[0].ports[0].hostPrt"' in part
    assert 'Unsupported value: "Maybe"' in pool
