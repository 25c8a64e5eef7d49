"""The declared resources and their text in deploy/crds are the same. PODWIRE_GOLDEN=1 rewrites the text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from podwire.ipam.crds import crds, default_pool
from podwire.model import installation, policycrds

ALL = [*crds(), *installation.crds(), *policycrds.crds()]
FOLDER = Path(__file__).parents[3] / "deploy" / "crds"


@pytest.mark.parametrize("crd", ALL, ids=lambda crd: crd["spec"]["names"]["plural"])
def test_text_equals_declaration(crd: dict) -> None:
    path = FOLDER / f"{crd['metadata']['name']}.yaml"
    if os.environ.get("PODWIRE_GOLDEN"):
        path.write_text(yaml.dump(crd, Dumper=_Plain, sort_keys=False, width=120))
    assert yaml.safe_load(path.read_text()) == crd


def test_nothing_else_lies_there() -> None:
    assert len(list(FOLDER.glob("*.yaml"))) == len(ALL)


def test_the_default_pool_fits_its_schema() -> None:
    pool = next(crd for crd in crds() if crd["spec"]["names"]["kind"] == "IPPool")
    fields = pool["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    assert set(default_pool("10.244.0.0/16")["spec"]) <= set(fields)


class _Plain(yaml.SafeDumper):
    """No anchors: parts that are shared in code are written out."""

    def ignore_aliases(self, data: object) -> bool:
        return True
