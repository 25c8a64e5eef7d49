"""The same requests as to kube-apiserver 1.36.3, and the same answers.

`genuine/*.yaml` are the requests, `genuine/*.v1.36.3.json` what a genuine server answered, masked. With
PODWIRE_CONTRACT_SERVER and PODWIRE_CONTRACT_RECORD=1 the answers of the server named there are recorded instead.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from podwire.apiserver.kinds import BUILT_IN

sys.path.insert(0, str(Path(__file__).parent))
from contract_masks import chosen, differences, masked

FOLDER = Path(__file__).parent / "genuine"
PAGES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
VERSION = "v1.36.3"
_PATHS = {(each.gvr.api_version, each.gvr.kind): each.gvr for each in BUILT_IN}
_WARNING = re.compile(r'299 \S+ "((?:[^"\\]|\\.)*)"')


def path_of(manifest: dict[str, Any], namespace: str) -> str:
    gvr = _PATHS[manifest["apiVersion"], manifest["kind"]]
    root = f"/apis/{gvr.api_version}" if gvr.group else "/api/v1"
    return f"{root}/namespaces/{namespace}/{gvr.plural}" if gvr.namespaced else f"{root}/{gvr.plural}"


def with_namespace(value: Any, namespace: str) -> Any:
    return json.loads(json.dumps(value).replace("{ns}", namespace))


async def ask(http: Any, step: dict[str, Any], namespace: str) -> dict[str, Any]:
    """One step's answer, masked."""
    step = with_namespace(step, namespace)
    if "create" in step:
        method, path, body = "POST", path_of(step["create"], namespace), step["create"]
    else:
        method, path = step["request"].split(" ", 1)
        body = step["raw"].encode() if "raw" in step else step.get("body")
    headers = {"User_Agent": "contract/1", "Accept": step.get("accept", "application/json")}
    answer = await http(method, path, body, step.get("type", "application/json"), **headers)
    found: dict[str, Any] = {"code": answer.status}
    if step.get("raw_answer"):
        found["body"] = masked(yaml.safe_load(answer.text), namespace)
    elif answer.headers["Content-Type"].startswith("application/json"):
        decoded = [json.loads(line) for line in answer.text.splitlines()] if "watch=1" in path else answer.json
        found |= masked(decoded, namespace) if isinstance(decoded, dict) else {"events": masked(decoded, namespace)}
    else:
        found["text"] = answer.text
    warnings = [text for header in answer.headers.getall("Warning", []) for text in _WARNING.findall(header)]
    if warnings:
        found["warnings"] = masked(warnings, namespace)
    if step.get("wait"):
        await until_served(http, step["wait"])
    return chosen(found, step["only"]) if "only" in step else found


async def until_served(http: Any, path: str) -> None:
    for _ in range(100):
        if (await http("GET", path)).status == 200:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{path} is not served")


def said(step: dict[str, Any]) -> str:
    made = step.get("create")
    return step.get("name") or (f"create {made['kind']} {made.get('metadata')}" if made else step["request"])


@pytest.mark.parametrize("page", PAGES)
async def test_answers_as_the_genuine_server(http, space, page):
    steps = yaml.safe_load((FOLDER / f"{page}.yaml").read_text())
    answers = [await ask(http, step, space) for step in steps]
    facts = FOLDER / f"{page}.{VERSION}.json"
    if os.environ.get("PODWIRE_CONTRACT_RECORD"):
        lines = ",\n".join(json.dumps(each, sort_keys=True, ensure_ascii=False) for each in answers)
        facts.write_text(f"[\n{lines}\n]\n")
        return
    wanted = json.loads(facts.read_text())
    assert len(wanted) == len(answers), "record the answers again"
    wrong = []
    for number, (step, want, have) in enumerate(zip(steps, wanted, answers, strict=True)):
        lines = differences(want, have)
        if lines:
            wrong.append("\n    ".join([f"{number}: {said(step)}", *lines]))
    assert not wrong, f"{len(wrong)} of {len(steps)} answers differ\n" + "\n".join(wrong)
