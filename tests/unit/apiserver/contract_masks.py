"""Answers of an API server without what differs from run to run: names of namespaces, times, uids, addresses given out.

What stays is what a client can depend on, words of error messages included.
"""

from __future__ import annotations

import json
import re
from typing import Any

_PATTERNS = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "<uid>"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "<time>"),
    (re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+"), "<token>"),
    (re.compile(r"\b10\.(9[6-9]|10\d|11[01])\.\d+\.\d+\b(?!/)"), "<ip>"),
    (re.compile(r"kube-api-access-\w{5}"), "kube-api-access-<x>"),
    (re.compile(r"(?<=in record \()\d+(?=\))"), "<resourceVersion>"),
    (re.compile(r"(?<=value: )[\[{].*[\]}](?=$|: )"), "<value>"),  # Go's field names and order
    (re.compile(r"Go struct field \S+ of type \S+"), "Go struct field <field>"),
    (re.compile(r"\bmade-\w{5}"), "made-<x>"),
    (re.compile(r"(?<=:)3[0-2]\d{3}(?=/(TCP|UDP))"), "<port>"),
    (re.compile(r"\b3[0-2]\d{3}\b(?=[^/]*provided port)"), "<port>"),
)
_AGE = re.compile(r"^(\d+[smhdy]){1,2}$")
_KIND = ("kind", "apiVersion")


def masked(value: Any, namespace: str, key: str = "") -> Any:
    """A copy of a decoded answer with the run's own values replaced by what kind of value they are."""
    if isinstance(value, dict):
        found = {
            _text(name, namespace): masked(each, namespace, name)
            for name, each in value.items()
            if not (key == "columnDefinitions" and name == "description")
            and not (name == "continue" and not each)
            and name != "storageVersionHash"
        }
        causes = found["details"].get("causes") if isinstance(found.get("details"), dict) else None
        if causes:  # the order of complaints is not promised, nor their repetition
            found["message"] = str(found.get("message")).partition(" is invalid: ")[0]
            unique = {json.dumps(each, sort_keys=True): each for each in causes}
            found["details"]["causes"] = [unique[text] for text in sorted(unique)]
        return found
    if isinstance(value, list):
        items = [masked(each, namespace, key) for each in value]
        if key == "managedFields":  # in order of time, which two runs need not share
            for each in items:
                each.pop("time", None)
            items.sort(key=lambda each: [each.get(part, "") for part in ("operation", "manager", "subresource")])
        if key == "items":  # typed clients do not look at the kind of an item, others fill it in
            items = [{k: v for k, v in each.items() if k not in _KIND} for each in items]
        return sorted(items) if key == "verbs" else items
    if key in ("nodePort", "healthCheckNodePort") and isinstance(value, int) and value >= 30000:
        return "<port>"
    if isinstance(value, str):
        if key in ("resourceVersion", "continue") and value:
            return f"<{key}>"
        if key == "cells" and _AGE.match(value):
            return "<age>"
        return _text(value, namespace)
    return value


def _text(text: str, namespace: str) -> str:
    text = text.replace(namespace, "{ns}")
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text


def chosen(answer: Any, paths: list[str]) -> dict[str, Any]:
    """Only the named dotted paths of an answer."""
    found = {}
    for path in paths:
        at = answer
        for part in path.split("."):
            at = at.get(part) if isinstance(at, dict) else None
        if at is not None:
            found[path] = at
    return found


def differences(want: Any, have: Any, path: str = "") -> list[str]:
    """What `have` says otherwise than `want`, one line for each place."""
    if isinstance(want, dict) and isinstance(have, dict):
        found = []
        for key in sorted(want.keys() | have.keys()):
            found += differences(want.get(key, "(absent)"), have.get(key, "(absent)"), f"{path}.{key}")
        return found
    if isinstance(want, list) and isinstance(have, list) and len(want) == len(have):
        return [
            line for n, pair in enumerate(zip(want, have, strict=True)) for line in differences(*pair, f"{path}[{n}]")
        ]
    return [] if want == have and type(want) is type(have) else [f"{path}: want {want!r}\n{' ' * 8}have {have!r}"]
