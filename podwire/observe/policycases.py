"""Unit tests of policies: assertions in YAML, and how each went. Pure.

    tests:
    - name: the frontend reaches the API
      from: shop/frontend            # or a list; as in `podwire policy can`
      to: shop/api                   # or a list, or svc/shop/api
      port: 8080                     # a number or a name; or `ports: [8080, 9090/UDP, ICMP]`
      protocol: TCP                  # TCP if not said
      expect: allow                  # or deny
      by: NetworkPolicy shop/api     # optional: who must decide; `none`: nobody

A file may hold several documents; `tests` may stand beside objects in the same file. Unknown keys are errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from podwire.observe.manifests import Manifest, ManifestError
from podwire.observe.policyquestions import ECHO, Answer, Asked, QuestionError, Said, ask

ALLOW, DENY = "allow", "deny"
KEYS = ("name", "from", "to", "port", "ports", "protocol", "expect", "by")
NOBODY = "none"


@dataclass(frozen=True, slots=True)
class Case:
    """One assertion: `to` is a target as `ask` takes it. `where` is the file and line it stands at."""

    name: str
    source: str
    target: str
    expect: str
    by: str
    where: str


@dataclass(frozen=True, slots=True)
class Result:
    """`problem` is '' when it holds. `error`: it could not be asked at all."""

    name: str
    source: str
    target: str
    expect: str
    passed: bool
    problem: str
    where: str
    error: bool = False
    answers: tuple[Answer, ...] = ()


def cases(document: Manifest) -> list[Case]:
    """The assertions of a document that has `tests:`. Raises ManifestError."""
    found: list[Case] = []
    value = document.object
    extra = [key for key in value if key != "tests"]
    if extra:
        raise _wrong(
            document, extra[0], f"`{extra[0]}` means nothing beside `tests`", "Put it in a document of its own"
        )
    tests = value["tests"] or []
    if not isinstance(tests, list):
        raise _wrong(document, "tests", "tests is no list", "Begin each test with `- from: …`")
    for at, entry in enumerate(tests):
        found += _cases(document, f"tests[{at}]", entry)
    return found


def _cases(document: Manifest, path: str, entry: Any) -> Iterator[Case]:
    if not isinstance(entry, dict):
        raise _wrong(document, path, f"{path} is no mapping", f"Its keys are {', '.join(KEYS)}")
    for key in entry:
        if key not in KEYS:
            raise _wrong(document, f"{path}.{key}", f"`{key}` is no key of a test", f"Its keys are {', '.join(KEYS)}")
    for key in ("from", "to", "expect"):
        if not entry.get(key):
            raise _wrong(
                document, path, f"{path} has no `{key}`", f"A test needs from, to and expect: {ALLOW} or {DENY}"
            )
    if entry["expect"] not in (ALLOW, DENY):
        way = f"Write {ALLOW} or {DENY}"
        raise _wrong(document, f"{path}.expect", f"expect is {entry['expect']!r}", way)
    if "port" in entry and "ports" in entry:
        raise _wrong(document, f"{path}.ports", "port and ports", "Write one of them")
    protocol = str(entry.get("protocol") or "")
    several = any(isinstance(entry.get(key), list) and len(entry[key]) > 1 for key in ("from", "to", "ports"))
    ports = [str(port) for port in _list(entry.get("ports", entry.get("port")))]
    for source in _list(entry["from"]):
        for to in _list(entry["to"]):
            whom = f"[{to}]" if str(to).count(":") > 1 and not str(to).startswith("[") else str(to)
            for port in ports or [""]:
                number, _, own = ("", "", port) if port.upper() in ECHO else port.partition("/")
                word = own or protocol
                target = whom + (f":{number}" if number else "") + (f"/{word}" if word else "")
                name = str(entry.get("name") or f"{source} → {target}: {entry['expect']}")
                if entry.get("name") and several:
                    name += f" ({source} → {target})"
                where = document.where(path)
                yield Case(name, str(source), target, entry["expect"], str(entry.get("by") or ""), where)


def _list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _wrong(document: Manifest, path: str, problem: str, remedy: str) -> ManifestError:
    return ManifestError(document.source, document.line(path), problem, remedy)


def run(asked: Asked, wanted: Iterable[Case]) -> list[Result]:
    """Every assertion, asked of the oracle."""
    return [_run(asked, case) for case in wanted]


def _run(asked: Asked, case: Case) -> Result:
    try:
        answers = tuple(ask(asked, case.source, case.target))
    except QuestionError as error:
        return Result(case.name, case.source, case.target, case.expect, False, str(error), case.where, error=True)
    problem = next(filter(None, (_problem(case, one) for one in answers)), "")
    return Result(case.name, case.source, case.target, case.expect, not problem, problem, case.where, answers=answers)


def _problem(case: Case, one: Answer) -> str:
    """What is not as expected, with the rule that decided."""
    pair = f"{one.source} → {one.destination}{f':{one.port}' if one.port else ''}/{one.protocol}"
    if one.allowed != (case.expect == ALLOW):
        return f"{pair} is {'allowed' if one.allowed else 'denied'}: {'; '.join(_why(one))}"
    deciders = [side.policy or side.rule for side in (one.egress, one.ingress) if _decides(one, side)]
    wanted = "" if case.by == NOBODY else case.by
    if case.by and not any(_named(wanted, side) for side in (one.egress, one.ingress) if _decides(one, side)):
        said = ", ".join(word for word in deciders if word) or "nobody"
        return f"{pair} is {'allowed' if one.allowed else 'denied'}, but that is said by {said}, not by {case.by}"
    return ""


def _decides(one: Answer, side: Said) -> bool:
    return one.allowed or not side.allowed


def _named(wanted: str, side: Said) -> bool:
    """`by` may be a policy with or without its kind, namespace and rule."""
    if not wanted:
        return not side.policy
    whole = f"{side.policy} {side.rule}"
    names = {side.policy, whole, side.policy.partition(" ")[2], side.policy.rpartition("/")[2].rpartition(" ")[2]}
    if not side.policy and side.reason.startswith("governed by "):  # the end of a tier: whoever isolates
        governing = side.reason.removeprefix("governed by ").partition(";")[0].split(", ")
        names |= {each for name in governing for each in (name, name.partition(" ")[2], name.rpartition("/")[2])}
    names |= {f"{also.rpartition(' ')[0]}" for also in side.also}
    return wanted in names


def _why(one: Answer) -> Iterator[str]:
    for name, side in (("egress", one.egress), ("ingress", one.ingress)):
        if _decides(one, side):
            yield f"{name}: {side.reason}{f' ({side.where})' if side.where else ''}"
