"""One check of addresses: the API and the nodes, read twice when something looks wrong."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from podwire.cli.connect import Target, ask
from podwire.cli.nodes import local_seen, seen_of
from podwire.ipam.layout import ClassicApi
from podwire.model.api import Api
from podwire.model.seen import NodeSeen
from podwire.observe.addresses import holdings
from podwire.observe.cluster import Cluster, read
from podwire.observe.damage import api_findings
from podwire.observe.finding import Finding, persistent
from podwire.observe.kernel import all_node_findings, by_node, file_findings

GRACE_SECONDS = 60.0
WAIT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Scope:
    """What is checked. Without `where` only host-local's files of this machine are. `nodes` are names, none for all;
    `grace` is how long (seconds) a file may be older than its pod; `wait` the pause (seconds) before the second look.
    """

    where: Target | None
    nodes: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()
    local: bool = False
    grace: float = GRACE_SECONDS
    wait: float = WAIT_SECONDS


@dataclass(frozen=True, slots=True)
class Report:
    """What was found, and in what. `classic`: the cluster keeps its addresses under crd.projectcalico.org/v1."""

    findings: list[Finding]
    checked: dict[str, Any] = field(default_factory=dict)
    classic: bool = False


def check(scope: Scope) -> Report:
    """Raises ClickException, LabError."""
    cluster, seen = look(scope)
    found = findings(scope, cluster, seen)
    if found:
        time.sleep(scope.wait)
        cluster, seen = look(scope)
        found = persistent(found, findings(scope, cluster, seen))
    checked: dict[str, Any] = {"nodes": [one.node for one in seen], "files": sum(len(one.files) for one in seen)}
    if cluster is not None:
        held = holdings(cluster)
        checked |= {"pools": len(cluster.pools), "blocks": len(cluster.blocks), "addresses": len(held)}
        checked |= {"handles": len(cluster.handles), "pods": len(cluster.pods)}
    checked["blind"] = [f"{one.node}: {what}" for one in seen for what in one.blind]
    return Report(found, checked, cluster is not None and cluster.classic)


def stored_by(api: Api, *, classic: bool) -> Api:
    """By which a cluster's IPAM state is written, in the layout that it has."""
    return ClassicApi(api) if classic else api


def look(scope: Scope) -> tuple[Cluster | None, list[NodeSeen]]:
    """The API's and the nodes' state."""
    if scope.where is None:
        return None, [local_seen(scope.directories)]
    cluster = ask(scope.where, read)
    return cluster, seen_of(scope.where, scope.nodes, scope.directories, local=scope.local)


def findings(scope: Scope, cluster: Cluster | None, seen: Sequence[NodeSeen]) -> list[Finding]:
    """Everything wrong in one look."""
    now = time.time()
    found = [one for node in seen for one in file_findings(node, now, scope.grace)]
    if scope.where is None:
        return [one for one in found if not scope.directories or one.directory in scope.directories]
    if cluster is not None:
        found = [*api_findings(cluster, by_node(seen)), *all_node_findings(cluster, seen), *found]
    return [one for one in found if not scope.nodes or one.node in scope.nodes]


def scope_of(
    nodes: Sequence[str], host_local: Sequence[str], kubeconfig: str, context: str, *, local: bool, **times: float
) -> Scope:
    """The scope that flags describe: --host-local without a node or --local is about files of this machine alone."""
    from podwire.cli.connect import target

    if host_local and not (nodes or kubeconfig or context or local):
        return Scope(None, (), tuple(host_local), True, **times)
    where = target(kubeconfig, context, local=local)
    if nodes and where.lab is None and not local:
        click.echo("Warning: only the API is checked: nodes of another machine cannot be looked into", err=True)
    return Scope(where, tuple(nodes), tuple(host_local), local, **times)
