"""Objects with values of any type anywhere: an error that names the object, or an answer, never a crash."""

from __future__ import annotations

import copy
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import randomscenes

from podwire.observe.manifests import ManifestError, read
from podwire.observe.policydiff import difference
from podwire.observe.policylint import lint
from podwire.observe.policymatrix import Matrix, parse_ports
from podwire.observe.policyquestions import Asked, QuestionError, ask
from podwire.observe.policyscene import Scene, over

VALUES: tuple[Any, ...] = (None, [], {}, "", 0, -1, "x", [None], {"a": None}, True, 1e9, [{}], "1.2.3.4", ["x"])


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from _places(each, (*path, key))


def _spoil(rng: random.Random, obj: Any) -> None:
    *way, last = rng.choice(list(_places(obj)))
    for key in way:
        obj = obj[key]
    obj[last] = copy.deepcopy(rng.choice(VALUES))


@pytest.mark.parametrize("part", range(4))
def test_nothing_crashes(part: int) -> None:
    refused = answered = 0
    for seed in range(part * 30, part * 30 + 30):
        rng = random.Random(seed)
        objects = copy.deepcopy(randomscenes.base(rng) + randomscenes.policies(rng, 3))
        for _ in range(2):
            _spoil(rng, rng.choice(objects if rng.random() < 0.2 else objects[-3:]))
        try:
            scene = Scene(over((), read(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}), "x.json")))
        except ManifestError as error:
            assert str(error).startswith("x.json: ") and error.remedy
            refused += 1
            continue
        lint(scene)
        list(Matrix(scene, parse_ports("80,UDP/53")).rows())
        try:
            difference(scene, scene)
            if scene.ported:
                ask(Asked.of(scene), str(scene.ported[0]), f"{scene.ported[-1]}:80")
            answered += 1
        except QuestionError as error:
            assert str(error)
    assert answered > 3 and refused > 1
