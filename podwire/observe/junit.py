"""Results of tests as JUnit XML, which CI systems read. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from podwire.observe.policycases import Result

_SUITE = "podwire policy test"


def document(results: Sequence[Result], *, seconds: float = 0.0) -> str:
    """One suite; a failed assertion is a failure, one that could not be asked an error."""
    failures, errors = (sum(not one.passed and one.error is kind for one in results) for kind in (False, True))
    counts = {"tests": str(len(results)), "failures": str(failures), "errors": str(errors), "time": f"{seconds:.3f}"}
    root = ElementTree.Element("testsuites", {"name": _SUITE, **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": _SUITE, **counts})
    for one in results:
        source, _, line = one.where.rpartition(":")
        place = {"file": source, "line": line} if line.isdigit() else {}
        name = _clean(one.name)
        case = ElementTree.SubElement(suite, "testcase", {"name": name, "classname": source or _SUITE, **place})
        if not one.passed:
            kind = "error" if one.error else "failure"
            said = ElementTree.SubElement(case, kind, {"message": _clean(one.problem), "type": one.expect})
            said.text = _clean(f"{one.where}: {one.source} → {one.target}: expected {one.expect}\n{one.problem}")
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _clean(text: str) -> str:
    """Without what XML cannot hold."""
    return "".join(char if char >= " " or char in "\t\n" else "?" for char in text)
