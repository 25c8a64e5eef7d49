"""The role has the verbs that the agent's pages use, and none else: read from the pages themselves."""

from __future__ import annotations

import ast
from pathlib import Path

from podwire.install.rbac import CONTROLLER_GRANTS, GRANTS, LEASE_GRANTS
from podwire.model import gvr as kinds
from podwire.model import policykinds
from podwire.model.gvr import GVR

ROOT = Path(__file__).parents[3] / "podwire"
VERBS = {"get": ("get",), "list": ("list",), "create": ("create",), "update": ("update",), "patch": ("patch",),
         "delete": ("delete",), "watch": ("list", "watch")}  # fmt: skip
BY_NAME = {name: value for name, value in vars(kinds).items() if isinstance(value, GVR)}
BY_KIND = {value: name for name, value in BY_NAME.items()}

# Kinds that reach a call by an argument: (page, the kinds it is called with there).
THROUGH = {
    "agent/loop.py": {("watch", "NODES"), ("watch", "IPPOOLS"), ("watch", "IPAMBLOCKS")},
    "agent/pods.py": {("watch", "PODS"), ("watch", "NAMESPACES"), ("get", "PODS"), ("get", "NAMESPACES")},
    "agent/policyloop.py": {
        ("watch", BY_KIND[kind])
        for kind in (
            *(kinds.CRDS, kinds.NAMESPACES, kinds.SERVICEACCOUNTS, kinds.NODES, kinds.ENDPOINTSLICES, kinds.PODS),
            *(each.gvr for each in (*policykinds.KINDS, policykinds.TIER, *policykinds.SETS)),
        )
    },
    "agent/collector.py": {("get", "PODS"), ("get", "NODES")},
    "ipam/stored.py": {("delete", "IPAMBLOCKS"), ("delete", "BLOCKAFFINITIES")},
    # layout and countedapi pass on what others ask; of its own, layout asks for the definitions
    "ipam/layout.py": {("list", "IPAMBLOCKS")},
    "agent/countedapi.py": set(),
    "kube/events.py": set(),
}
# what one process does for the cluster has a role of its own
ELECTED = {"election.py"}
CONTROLLERS = ("agent/duties.py", "agent/election.py")
PAGES = sorted(
    [
        *(page for page in (ROOT / "agent").glob("*.py") if page.name not in ELECTED),
        *(ROOT / "ipam").glob("*.py"),
        ROOT / "kube/events.py",
    ]
)


def calls(page: Path) -> tuple[set[tuple[str, str]], bool]:
    """(verb, kind) of each call whose kind is named, and whether there are others."""
    found, unnamed = set(), False
    for node in ast.walk(ast.parse(page.read_text())):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in VERBS):
            continue
        owner = node.func.value
        name = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
        if name not in ("api", "_api") or not node.args:
            continue
        kind = node.args[0]
        if isinstance(kind, ast.Name) and kind.id in BY_NAME:
            found.add((node.func.attr, kind.id))
        else:
            unnamed = True
    return found, unnamed


def used() -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for page in PAGES:
        named, unnamed = calls(page)
        name = str(page.relative_to(ROOT))
        if name in CONTROLLERS:  # what these use is the controller's (tests/kubernetes runs it with its own rights)
            continue
        assert not unnamed or name in THROUGH, f"{name} calls the API with a kind by argument: say here which"
        for verb, kind in named | THROUGH.get(name, set()):
            found |= {(each, kind) for each in VERBS[verb]}
    return found


def test_granted_is_what_is_used() -> None:
    name_of = {value: name for name, value in BY_NAME.items()}
    granted = {(verb, name_of[grant.kind]) for grant in GRANTS for verb in grant.verbs}
    assert used() - granted == set(), "the agent uses what it is not granted"
    assert granted - used() == set(), "the agent is granted what it does not use"


def test_every_grant_says_what_for() -> None:
    assert all(grant.why and grant.verbs for grant in (*GRANTS, *CONTROLLER_GRANTS, *LEASE_GRANTS))
    assert len({(grant.kind, grant.part) for grant in GRANTS}) == len(GRANTS)
