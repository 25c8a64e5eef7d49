"""Pods on kubenet's bridge, for the pages that look at it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def shape(tmp_path: Path) -> dict[str, Any]:
    """kubenet's, with a range of its own: the world's nodes route blocks of 10.244.0.0/16."""
    ipam = {"type": "host-local", "ranges": [[{"subnet": "10.77.1.0/24"}]], "dataDir": str(tmp_path / "networks")}
    return {
        "wiring": "bridge",
        "bridge": "cbr0",
        "isDefaultGateway": True,
        "hairpinMode": True,
        "ipMasq": True,
        "ipam": ipam,
    }


def add(pod: Any, shape: dict[str, Any], **more: Any) -> Any:
    code, output = pod.call("ADD", **{**shape, **more})
    assert code == 0, output
    pod.result = json.loads(output)
    return pod


def address(pod: Any) -> str:
    return str(pod.result["ips"][0]["address"]).partition("/")[0]


def host_end(pod: Any) -> str:
    return str(pod.result["interfaces"][1]["name"])
