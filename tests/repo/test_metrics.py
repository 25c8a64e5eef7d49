"""Each figure has a unit, a sentence and a line in docs/metrics.md; dashboard and alerts ask for what there is."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from podwire.agent import families
from podwire.agent.figures import COUNTER, HISTOGRAM, Family

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "metrics.md"

# what a name may end in: a base unit, or the thing that is counted
UNITS = {
    "seconds", "bytes", "leader", "info", "ready", "calls", "endpoints", "addresses", "blocks", "errors", "conflicts",
    "updates", "lists", "resumes", "failures", "applies", "writes", "changes", "reads", "repairs", "events", "fds",
    "configurations",
    "policies", "classes", "tables", "rows", "enforced", "packets", "logged", "pods",
}  # fmt: skip
BOUNDED = {
    "part", "version", "python", "kernel", "verb", "role", "code", "state", "pool", "resource", "status", "kind",
    "table", "change", "event", "level", "direction",
}  # fmt: skip
ADDED = {"node", "job", "instance", "le"}  # by Prometheus, or by scrape.yaml
WORDS = {
    "sum", "by", "max", "min", "count", "rate", "increase", "histogram_quantile", "absent", "vector", "or", "up",
    "ignoring", "group_left", "label_values",
}  # fmt: skip


@pytest.mark.parametrize("family", families.ALL, ids=lambda family: family.name)
def test_a_figure_says_what_it_is(family: Family) -> None:
    assert re.fullmatch(r"(podwire|process)_[a-z0-9_]*[a-z]", family.name)
    base = family.name.removesuffix("_total")
    assert family.name.endswith("_total") == (family.kind == COUNTER), "counters, and only they, end in _total"
    assert base.rsplit("_", 1)[-1] in UNITS, f"{family.name} ends in no unit"
    assert re.fullmatch(r"[A-Z0-9].{15,}\.", family.help), "HELP is a sentence"
    assert set(family.labels) <= BOUNDED, "a label whose values nobody bounds"
    assert bool(family.buckets) == (family.kind == HISTOGRAM)
    assert list(family.buckets) == sorted(set(family.buckets))


def test_names_are_given_once() -> None:
    names = [family.name for family in families.ALL]
    assert len(set(names)) == len(names)


def table() -> str:
    lines = ["| name | type | labels | meaning |", "|---|---|---|---|"]
    for one in sorted(families.ALL, key=lambda family: family.name):
        labels = ", ".join(f"`{label}`" for label in one.labels) or "–"
        lines.append(f"| `{one.name}` | {one.kind} | {labels} | {one.help} |")
    return "\n".join(lines)


def test_the_page_has_them_all() -> None:
    text = PAGE.read_text()
    before, _, rest = text.partition("<!-- begin -->\n")
    held, _, after = rest.partition("\n<!-- end -->")
    if os.environ.get("PODWIRE_WRITE_DOCS"):
        PAGE.write_text(
            f"{before}<!-- begin -->\n{table()}\n<!-- end -->{after if after else rest[len('<!-- end -->') :]}"
        )
        return
    assert held == table(), "PODWIRE_WRITE_DOCS=1 writes the table anew"


def samples() -> dict[str, set[str]]:
    """Names that a query may ask for, with their labels."""
    found = {"up": set[str]()}
    for family in families.ALL:
        endings = ("_bucket", "_sum", "_count") if family.kind == HISTOGRAM else ("",)
        found.update({family.name + ending: set(family.labels) for ending in endings})
    return found


def dashboard() -> Any:
    return json.loads((ROOT / "deploy/grafana/podwire.json").read_text())


def queries() -> Iterator[tuple[str, str]]:
    board = dashboard()
    for panel in board["panels"]:
        yield from ((f"panel {panel['title']}", target["expr"]) for target in panel.get("targets", ()))
    yield from ((f"variable {v['name']}", v["query"]) for v in board["templating"]["list"] if v["type"] == "query")
    for group in yaml.safe_load((ROOT / "deploy/prometheus/podwire.rules.yaml").read_text())["groups"]:
        yield from ((f"alert {rule['alert']}", rule["expr"]) for rule in group["rules"])


def faults(query: str) -> list[str]:
    """Names and labels in a query that nothing has."""
    known, wrong = samples(), []
    bare = re.sub(r'"[^"]*"', '""', query)
    assert bare.count("(") == bare.count(")") and bare.count("{") == bare.count("}")
    asked: set[str] = set()
    for name, selector in re.findall(
        r"([a-zA-Z_:][\w:]*)(\{[^}]*\})?(?!\w)",
        re.sub(r"\b(by|ignoring) \([^)]*\)", "", re.sub(r"\[[^]]*\]", "", bare)),
    ):
        if name in known:
            asked |= known[name]
            labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
            wrong += [f"{name} has no label {label}" for label in sorted(labels - known[name] - ADDED)]
        elif name not in WORDS and not query.startswith("label_values"):
            wrong.append(f"there is no {name}")
    for names in re.findall(r"\b(?:by|ignoring) \(([^)]*)\)", bare):
        labels = {label.strip() for label in names.split(",")}
        wrong += [f"nothing asked for has the label {label}" for label in sorted(labels - asked - ADDED)]
    return wrong


@pytest.mark.parametrize(("where", "query"), list(queries()), ids=lambda value: None)
def test_a_query_asks_for_what_there_is(where: str, query: str) -> None:
    assert faults(query) == [], f"{where}: {query}"


def test_the_test_above_can_fail() -> None:
    assert faults("sum by (nodes) (rate(podwire_ready_total[5m]))") == [
        "there is no podwire_ready_total",
        "nothing asked for has the label nodes",
    ]
    assert faults('podwire_endpoints{pod="x"}') == ["podwire_endpoints has no label pod"]


def test_every_figure_is_on_the_dashboard() -> None:
    asked = " ".join(query for where, query in queries() if not where.startswith("alert"))
    silent = {families.VIRTUAL, families.DESCRIPTOR_LIMIT, families.STARTED}
    assert [
        f.name for f in families.ALL if f not in silent and not re.search(rf"\b{f.name}(_bucket|_count)?\b", asked)
    ] == []


def test_panels_have_their_own_place_and_number() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_alerts_say_what_to_do() -> None:
    rules = yaml.safe_load((ROOT / "deploy/prometheus/podwire.rules.yaml").read_text())["groups"][0]["rules"]
    for rule in rules:
        assert rule["labels"]["severity"] in ("warning", "critical"), rule["alert"]
        assert rule["annotations"]["summary"] and rule["annotations"]["description"], rule["alert"]
