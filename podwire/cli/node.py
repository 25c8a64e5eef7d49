"""`podwire node`: a node's attachments, and how it fares."""

from __future__ import annotations

import click

from podwire.cli.connect import ask, cluster_options, target
from podwire.cli.errors import reported
from podwire.cli.output import columns, output_option, show
from podwire.model.api import Object
from podwire.model.gvr import PODS
from podwire.model.seen import NodeSeen
from podwire.observe import endpoints
from podwire.observe.endpoints import ENFORCED, GOOD, EndpointRow, NodeRow


@click.group()
def node() -> None:
    """One node, or the nodes of a lab: what its agent has on record, and what its kernel holds.

    \b
    podwire node status
    podwire node endpoints
    podwire node endpoints --all              from the API alone, of every node
    """


@node.command("endpoints")
@click.argument("names", metavar="[NODE]...", nargs=-1)
@click.option("--local", is_flag=True, help="This machine is the node.")
@click.option("--all", "from_pods", is_flag=True, help="Every node's, read off the Pods as calicoctl lists them.")
@cluster_options
@output_option
def show_endpoints(
    names: tuple[str, ...], local: bool, from_pods: bool, kubeconfig: str, context: str, form: str
) -> None:
    """Attachments on record, each compared with the kernel: link, route, admission, the pod's side.

    Exits with 1 when something is damaged or stray.

    \b
    podwire node endpoints                    of every node of the lab
    podwire node endpoints lab-worker         of one
    podwire node endpoints --local            on a node itself
    podwire node endpoints --all -o yaml      any cluster's, from its Pods
    """
    with reported():
        if from_pods:
            pods: list[Object] = ask(target(kubeconfig, context), lambda api: api.list(PODS))[0]
            listed = endpoints.workload_rows(pods, names)
            show(listed, form, lambda: workload_table(listed))
            return
        rows = [row for seen in _seen(names, kubeconfig, context, local) for row in endpoints.endpoint_rows(seen)]
    show(rows, form, lambda: endpoint_table(rows))
    if any(row.state in (endpoints.DAMAGED, endpoints.STRAY) for row in rows):
        raise SystemExit(1)


@node.command("status")
@click.argument("names", metavar="[NODE]...", nargs=-1)
@click.option("--local", is_flag=True, help="This machine is the node.")
@cluster_options
@output_option
def show_status(names: tuple[str, ...], local: bool, kubeconfig: str, context: str, form: str) -> None:
    """Agent, CNI configuration, tunnel and attachments of a node, or of each node of the lab.

    POLICY is enforced, off, or stale (enforced as it was when the agent last could). Exits with 1 when an agent is not
    ready, policy is stale, or an attachment is damaged or stray.

    \b
    podwire node status
    podwire node status --local -o json
    """
    with reported():
        rows = [endpoints.node_row(seen) for seen in _seen(names, kubeconfig, context, local)]
    show(rows, form, lambda: status_table(rows))
    if any(row.agent != "ready" or row.policy.startswith("stale") or row.damaged or row.stray for row in rows):
        raise SystemExit(1)


def _seen(names: tuple[str, ...], kubeconfig: str, context: str, local: bool) -> list[NodeSeen]:
    from podwire.cli.nodes import RECORDS, local_seen, seen_of

    if local:
        return [local_seen()]
    try:
        where = target(kubeconfig, context)
    except click.ClickException:
        if not RECORDS.exists() or names:
            raise
        return [local_seen()]  # on a node, nobody else can be meant
    if where.lab is None:
        if RECORDS.exists() and not names:
            return [local_seen()]
        raise click.ClickException(
            f"the nodes of {where.cluster.server} ({where.source}) cannot be looked into from here: they are no lab's. "
            "Run `podwire node … --local` on the node, or `podwire node endpoints --all`, which asks the API alone"
        )
    return seen_of(where, names, (), local=False)


def endpoint_table(rows: list[EndpointRow]) -> str:
    """The attachments, with what is wrong in lines of their own below."""
    if not rows:
        return "no pod is attached"
    header: tuple[str, ...] = ("NODE", "NAMESPACE", "POD", "INTERFACE", "ADDRESSES", "STATE", "PORTS", "LIMITS")
    nats = any(row.nats for row in rows)
    cells = [
        (
            row.node,
            row.namespace or "-",
            row.pod or "-",
            row.interface,
            ",".join(row.addresses) or "-",
            row.state,
            ",".join(row.ports) or "-",
            row.limits or "-",
            *((",".join(row.nats) or "-",) if nats else ()),
        )
        for row in rows
    ]
    wrong = [
        f"{row.node}: {row.pod or row.interface}: {fault}" for row in rows if row.state != GOOD for fault in row.faults
    ]
    header += ("NATS",) if nats else ()
    return "\n".join([columns(header, cells), *(["", *wrong] if wrong else [])])


def workload_table(rows: list[dict[str, str]]) -> str:
    """As calicoctl lists them."""
    header = ("NAMESPACE", "WORKLOAD", "NODE", "NETWORKS", "INTERFACE", "PROFILES", "NATS")
    cells = [tuple(row[name.lower()] or "-" for name in header) for row in rows]
    return columns(header, cells) if rows else "no Pod is an endpoint"


def status_table(rows: list[NodeRow]) -> str:
    """The nodes, and below them what could not be looked at."""
    header = ("NODE", "AGENT", "POLICY", "CNI-CONFIG", "TUNNEL", "ENDPOINTS", "DAMAGED", "STRAY", "SPOOLED")
    cells = [
        (
            row.node,
            row.agent,
            row.policy.partition(":")[0] or "-",
            row.config or "none",
            row.tunnel or "-",
            *(str(count) for count in (row.attachments, row.damaged, row.stray, row.spooled)),
        )
        for row in rows
    ]
    loud = [unenforced(row.node, row.policy) for row in rows if row.policy not in ("", ENFORCED)]
    unseen = [f"{row.node}: not looked at: {what}" for row in rows for what in row.blind]
    return "\n".join([columns(header, cells), *(["", *loud, *unseen] if loud or unseen else [])])


def unenforced(node: str, policy: str) -> str:
    """A line that cannot be overlooked."""
    what = "NOT UP TO DATE" if policy.startswith("stale") else "NOT ENFORCED"
    return click.style(f"{node}: network policy is {what}: {policy.partition(': ')[2] or policy}", fg="red", bold=True)
