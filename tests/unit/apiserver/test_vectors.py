"""Patches, server-side apply and protobuf bodies against what Kubernetes' own libraries gave (tools/vectors)."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from podwire.apiserver.apply import ApplyConflict, apply, track_update
from podwire.apiserver.fields import schema_for
from podwire.apiserver.patches import PatchError, clone, strategic_merge
from podwire.apiserver.protobuf import decode
from podwire.apiserver.zeros import only_news

VECTORS: dict[str, list[dict[str, Any]]] = json.loads(Path(__file__).with_name("vectors.json").read_text())
API = {"Deployment": "apps/v1", "NetworkPolicy": "networking.k8s.io/v1"}


@pytest.mark.parametrize("case", VECTORS["strategic"], ids=lambda case: json.dumps(case["patch"])[:70])
def test_strategic_merge_gives_what_upstream_gives(case: dict[str, Any]) -> None:
    schema = schema_for(API.get(case["kind"], "v1"), case["kind"])
    assert schema is not None
    before = clone(case["object"])
    if "error" in case:
        with pytest.raises(PatchError):
            strategic_merge(case["object"], case["patch"], schema)
    else:
        assert strategic_merge(case["object"], case["patch"], schema) == case["result"]
    assert case["object"] == before


def plain(obj: dict[str, Any]) -> dict[str, Any]:
    """An object without what Go writes for empty structs, and without times."""
    out: dict[str, Any] = {}
    for key, value in obj.items():
        if key in ("time", "creationTimestamp") or (key in ("status", "strategy", "resources") and not value):
            continue
        if key in ("status", "loadBalancer") and value == {"loadBalancer": {}}:
            continue
        out[key] = inner(value)
    return out


def inner(value: Any) -> Any:
    if isinstance(value, dict):
        return plain(value)
    return [inner(item) for item in value] if isinstance(value, list) else value


def as_sent(obj: dict[str, Any]) -> dict[str, Any]:
    """What a Go client sends for an update: the whole typed object, empty structs and all."""
    metadata = {k: v for k, v in obj["metadata"].items() if k != "managedFields" and v is not None}
    return {**clone(obj), "metadata": metadata}


def by_owner(obj: dict[str, Any]) -> dict[str, Any]:
    entries = obj["metadata"].pop("managedFields", [])
    # a real server does not track status at the main end point; the library alone does
    return {
        f"{each['manager']}/{each['operation']}": {k: v for k, v in each["fieldsV1"].items() if k != "f:status"}
        for each in entries
    }


@pytest.mark.parametrize("case", VECTORS["apply"], ids=lambda case: " ".join(s["manager"] for s in case["steps"]))
def test_apply_and_update_move_ownership_as_upstream_does(case: dict[str, Any]) -> None:
    schema = schema_for(case["apiVersion"], case["kind"])
    live: dict[str, Any] | None = None
    for number, step in enumerate(case["steps"]):
        now = f"2026-01-01T00:00:0{number}Z"
        if "error" in step:
            with pytest.raises(ApplyConflict) as failure:
                apply(live, step["object"], step["manager"], step["force"], schema, now)
            assert sorted(str(failure.value)) == sorted(step["error"])
            continue
        if step["verb"] == "apply":
            live = apply(live, step["object"], step["manager"], step["force"], schema, now)
        else:
            live = track_update(live, as_sent(step["live"]), step["manager"], "Update", schema, now)
        ours, theirs = plain(live), plain(step["live"])
        for entry in theirs["metadata"]["managedFields"]:
            if entry["manager"] == "creator":
                # A server compares a new object with an empty one of its type, the library alone with nothing.
                only_news(entry["fieldsV1"], step["live"], schema)
        assert by_owner(ours) == by_owner(theirs)
        assert ours == theirs


@pytest.mark.parametrize("case", VECTORS["protobuf"], ids=lambda case: case["object"]["kind"])
def test_protobuf_bodies_decode_to_the_same_json(case: dict[str, Any]) -> None:
    found = decode(base64.b64decode(case["body"]))
    assert without_empty(found) == without_empty(case["object"])


def without_empty(value: Any) -> Any:
    """Go writes some zero values that carry no meaning (null times, empty structs); leave those out on both sides."""
    if isinstance(value, dict):
        return {
            k: without_empty(v)
            for k, v in value.items()
            if v is not None and not (k in ("status", "metadata") and v == {})
        }
    return [without_empty(item) for item in value] if isinstance(value, list) else value
