"""Field sets of new objects, and keys given twice: the quick ways say what the thorough ones say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.apiserver.fields import schema_for
from podwire.apiserver.ownership import everything, to_fields, written
from podwire.apiserver.strict import duplicate_keys, may_repeat

SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(['":', " :x", "\\", 'a"', "\u00e9"])
KEYS = st.sampled_from(["metadata", "labels", "spec", "name", "selector", "template", 'k"', ":", "\\"])
VALUES = st.recursive(SCALARS, lambda sub: st.lists(sub, max_size=3) | st.dictionaries(KEYS, sub, max_size=4))


@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=4))
def test_the_fields_of_a_new_object_in_one_walk(obj: dict[str, Any]) -> None:
    schema = schema_for("apps/v1", "Deployment")
    assert schema is not None
    assert written(obj, schema) == to_fields(everything(obj, schema))


def test_keyed_lists_and_atomic_maps_in_one_walk() -> None:
    schema = schema_for("v1", "Pod")
    assert schema is not None
    ports = [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}]
    pod = {
        "metadata": {"finalizers": ["b", "a"], "labels": {}},
        "spec": {"nodeSelector": {"a": "b"}, "containers": [{"name": "b", "ports": ports}, {"name": "a"}]},
    }
    fields = written(pod, schema)
    assert fields == to_fields(everything(pod, schema))
    assert list(fields["f:spec"]["f:containers"]) == [".", 'k:{"name":"a"}', 'k:{"name":"b"}']


def test_an_ordinary_text_is_not_read_a_second_time() -> None:
    obj = {"kind": "Pod", "spec": {"containers": [{"name": "a", "env": [{"name": "A", "value": "1:2"}]}]}}
    for indent in (None, 2):
        assert not may_repeat(json.dumps(obj, indent=indent).encode(), obj)


@pytest.mark.parametrize(
    "body",
    [
        '{"a": 1, "a": 2}',
        '{"a" : {"b":1}, "c": [{"d":1,"d"\n:2}]}',
        '{"a": {"x": "\\":"}, "a": 1}',
        '{"a": {"b": 1, "c": 2}, "a": {":": 1}}',
        '{"a\\\\": 1, "a\\\\": 2}',
    ],
)
def test_a_key_given_twice_is_never_missed(body: str) -> None:
    assert duplicate_keys(body.encode())
    assert may_repeat(body.encode(), json.loads(body))
