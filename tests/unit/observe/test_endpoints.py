"""A node's attachments as rows."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from build import pod

from podwire.cli import node as page
from podwire.model.seen import NodeSeen, SeenAttachment, SeenRoute
from podwire.observe import endpoints


def attachment(name: str, state: str = "ready", *faults: str) -> SeenAttachment:
    return SeenAttachment(
        name, "eth0", "routed", state, f"cali-{name}", "", "default", name, ("10.0.0.1",), (), "", faults
    )


SEEN = NodeSeen(
    "n1",
    agent="ready",
    attachments=(
        attachment("a"),
        attachment("b", "ready", "link down", "no route"),
        attachment("c", "wiring", "ignored"),
        attachment("d", "deleted"),
    ),
    links={"cali-a": True, "cali-b": False, "cali-x": True},
    routes=(SeenRoute("10.0.0.9", "cali-x"), SeenRoute("10.0.0.1", "cali-a")),
    blind=("routes: no permission",),
)


def test_states() -> None:
    rows = endpoints.endpoint_rows(SEEN)
    assert [(row.pod, row.interface, row.state) for row in rows] == [
        ("a", "cali-a", "ok"),
        ("b", "cali-b", "damaged"),
        ("c", "cali-c", "being made"),
        ("d", "cali-d", "being removed"),
        ("", "cali-x", "stray"),
    ]
    assert rows[-1].addresses == ("10.0.0.9",) and "no attachment on record" in rows[-1].faults[0]


def test_a_nodes_line() -> None:
    row = endpoints.node_row(SEEN)
    assert (row.attachments, row.damaged, row.stray) == (4, 1, 1)
    lines = page.status_table([row]).splitlines()
    assert lines[1].split() == ["n1", "ready", "-", "none", "-", "4", "1", "1", "0"]
    assert lines[-1] == "n1: not looked at: routes: no permission"


def test_the_table_says_what_is_wrong() -> None:
    lines = page.endpoint_table(endpoints.endpoint_rows(SEEN)).splitlines()
    assert lines[0].split() == ["NODE", "NAMESPACE", "POD", "INTERFACE", "ADDRESSES", "STATE", "PORTS", "LIMITS"]
    assert lines[7:9] == ["n1: b: link down", "n1: b: no route"] and page.endpoint_table([]) == "no pod is attached"


def test_endpoints_from_pods() -> None:
    pods = [pod("b", "n2", "10.0.0.2"), pod("a", "n1", "10.0.0.1"), pod("h", "n1", "172.18.0.2", hostNetwork=True)]
    assert [row["workload"] for row in endpoints.workload_rows(pods)] == ["a", "b"]
    assert [row["workload"] for row in endpoints.workload_rows(pods, ["n2"])] == ["b"]
    assert page.workload_table(endpoints.workload_rows(pods)).splitlines()[1].split()[:4] == [
        "default",
        "a",
        "n1",
        "10.0.0.1/32",
    ]
    assert page.workload_table([]) == "no Pod is an endpoint"
