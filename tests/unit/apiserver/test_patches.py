"""Laws and errors of JSON patch and merge patch."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.apiserver.fields import schema_for
from podwire.apiserver.patches import PatchError, clone, json_patch, merge_patch, strategic_merge

SCALARS = st.one_of(st.booleans(), st.integers(-5, 5), st.text(max_size=3))
KEYS = st.sampled_from(["a", "b", "c/d", "e~f"])
VALUES = st.recursive(
    SCALARS, lambda sub: st.lists(sub, max_size=3) | st.dictionaries(KEYS, sub, max_size=3), max_leaves=8
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=3)


def difference(old: Any, new: Any) -> Any:
    """The merge patch that leads from one object to another."""
    patch: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            if inner := difference(old[key], value):
                patch[key] = inner
        elif key not in old or old[key] != value or type(old[key]) is not type(value):
            patch[key] = value
    return patch


@given(OBJECTS, OBJECTS)
def test_a_merge_patch_leads_from_one_object_to_the_other(old: Any, new: Any) -> None:
    before = clone(old)
    patch = difference(old, new)
    assert merge_patch(old, patch) == new
    assert merge_patch(merge_patch(old, patch), patch) == new
    assert old == before


def pointer(*parts: str) -> str:
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)


@given(OBJECTS, KEYS, VALUES)
def test_adding_and_removing_cancel_out(obj: Any, key: str, value: Any) -> None:
    obj.pop(key, None)
    path = pointer(key)
    added = json_patch(obj, [{"op": "add", "path": path, "value": value}, {"op": "test", "path": path, "value": value}])
    assert added == {**obj, key: value}
    assert json_patch(added, [{"op": "remove", "path": path}]) == obj


@given(st.dictionaries(st.sampled_from("abc"), st.text(max_size=3), max_size=3), OBJECTS)
def test_without_lists_a_strategic_patch_is_a_merge_patch(labels: dict[str, str], other: Any) -> None:
    schema = schema_for("v1", "Pod")
    assert schema is not None
    old = {"metadata": {"labels": labels}}
    patch = {"metadata": {"labels": {key: None if key in labels else "new" for key in "abc"}}}
    assert strategic_merge(old, patch, schema) == merge_patch(old, patch)


@pytest.mark.parametrize(
    ("obj", "ops", "result"),
    [
        ({"a": [1, 2]}, [{"op": "add", "path": "/a/-", "value": 3}], {"a": [1, 2, 3]}),
        ({"a": [1, 2]}, [{"op": "add", "path": "/a/1", "value": 3}], {"a": [1, 3, 2]}),
        ({"a": [1, 2]}, [{"op": "replace", "path": "/a/0", "value": 3}], {"a": [3, 2]}),
        ({"a": 1}, [{"op": "move", "from": "/a", "path": "/b"}], {"b": 1}),
        ({"a": {"x": 1}}, [{"op": "copy", "from": "/a", "path": "/b"}], {"a": {"x": 1}, "b": {"x": 1}}),
        ({"a/b": 1}, [{"op": "test", "path": "/a~1b", "value": 1.0}], {"a/b": 1}),
        ({}, [{"op": "test", "path": "/gone", "value": None}], {}),
    ],
)
def test_json_patch(obj: Any, ops: Any, result: Any) -> None:
    assert json_patch(obj, ops) == result


@pytest.mark.parametrize(
    ("ops", "status", "words"),
    [
        (
            [{"op": "test", "path": "/a", "value": 2}],
            422,
            "operation 0 (test '/a'): testing value /a failed: test failed",
        ),
        ([{"op": "test", "path": "/a", "value": True}], 422, "testing value /a failed"),
        ([{"op": "remove", "path": "/zz"}], 422, "nonexistent key: zz"),
        ([{"op": "add", "path": "/l/9", "value": 1}], 422, "invalid index: 9"),
        ([{"op": "add", "path": "/l/01", "value": 1}], 422, "not a proper array index"),
        ([{"op": "replace", "path": "/zz", "value": 1}], 422, "doc is missing key"),
        ([{"op": "add", "path": "/x/y/z", "value": 1}], 422, "doc is missing path"),
        ([{"op": "fly", "path": "/a"}], 422, "Unexpected kind: fly"),
        ([{"op": "add", "path": "/a"}], 400, "missing value"),
        ([{"op": "add", "value": 1}], 400, "missing path"),
        ([{"op": "move", "from": "/o", "path": "/o/i"}], 422, "into itself"),
        ("nonsense", 400, "array of operations"),
    ],
)
def test_json_patch_refuses(ops: Any, status: int, words: str) -> None:
    with pytest.raises(PatchError) as failure:
        json_patch({"a": 1, "l": [1], "o": {"i": 1}}, ops)
    assert failure.value.status == status
    assert words in str(failure.value)
