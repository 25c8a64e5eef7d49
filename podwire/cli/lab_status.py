"""`podwire lab list`, `status`, `inspect` and `kubeconfig`: looking at labs."""

from __future__ import annotations

from dataclasses import replace

import click

from podwire.cli.errors import reported
from podwire.cli.node import unenforced
from podwire.cli.output import boxed, columns, megabytes, output_option, show
from podwire.cli.which import lab_plan, lab_state, name_option
from podwire.lab.state import LabError, LabState, every_lab
from podwire.lab.status import IMAGE, LabStatus, line_of, look
from podwire.observe.endpoints import ENFORCED


@click.command("list")
@output_option
def list_labs(form: str) -> None:
    """The labs of this machine (of this user).

    \b
    podwire lab list
    podwire lab list -o json
    """
    with reported():
        lines = [line_of(state) for state in every_lab()]
    rows = [(line.name, line.state, str(line.nodes), line.server, line.directory) for line in lines]
    show(lines, form, lambda: columns(("NAME", "STATE", "NODES", "SERVER", "DIRECTORY"), rows) if rows else "no lab")


@click.command()
@name_option
@output_option
def status(name: str, form: str) -> None:
    """Nodes, agents, pods, addresses and memory of a lab (proportional set sizes).

    \b
    podwire lab status
    podwire lab status --name five -o yaml
    """
    with reported():
        state = lab_state(name)
        found = _with_policy(state, look(state, lab_plan(state)))
    show(found, form, lambda: status_table(found))
    if found.state != "running":
        raise SystemExit(1)


def _with_policy(state: LabState, found: LabStatus) -> LabStatus:
    """The same with what the nodes say of network policy; a lab that does not run says nothing."""
    if found.state != "running":
        return found
    from podwire.cli.nodes import lab_seen

    try:
        said = {seen.node: seen.policy for seen in lab_seen(state)}
    except LabError:  # a node is gone, and its line says so
        return found
    return replace(found, nodes=tuple(replace(node, policy=said.get(node.name, "")) for node in found.nodes))


def status_table(found: LabStatus) -> str:
    """The lab's line, whether policy is in force, its nodes, its pods."""
    top = f"{found.name}: {found.state}, {found.processes} processes, {megabytes(found.memory_bytes)}, {found.server}"
    loud = [unenforced(node.name, node.policy) for node in found.nodes if node.policy not in ("", ENFORCED)]
    parts = ["\n".join([top, *([found.note] if found.note else []), *loud])]
    parts.append(
        columns(
            ("NODE", "ROLE", "READY", "ADDRESS", "POD-CIDR", "PODS", "AGENT", "KUBELET", "MEMORY"),
            [
                (
                    node.name,
                    node.role,
                    node.ready,
                    node.address,
                    node.pod_cidr or "-",
                    str(node.pods),
                    node.agent,
                    node.kubelet,
                    megabytes(node.memory_bytes),
                )
                for node in found.nodes
            ],
        )
    )
    if found.pods:
        pods = [
            (pod.namespace, pod.name, pod.ready, pod.phase, pod.address or "-", pod.node or "-") for pod in found.pods
        ]
        parts.append(columns(("NAMESPACE", "POD", "READY", "PHASE", "ADDRESS", "NODE"), pods))
    return "\n\n".join(parts)


@click.command()
@name_option
@click.option("-t", "--topo", default="", metavar="FILE", help="The containerlab topology the lab was made from.")
@output_option
def inspect(name: str, topo: str, form: str) -> None:
    """The nodes with kind, image, state and addresses, as containerlab shows them.

    \b
    podwire lab inspect
    podwire lab inspect -t pod-network.clab.yaml
    """
    with reported():
        if topo and not name:
            from podwire.cli.lab_up import plan_of

            name = plan_of("", None, topo)[0].name
        state = lab_state(name)
        found = look(state, lab_plan(state))
    rows = [(node.name, f"k8s-kind\n{IMAGE}", node.state, f"{node.address}\n{node.address6}") for node in found.nodes]
    values = [
        {
            "name": node.name,
            "kind": "k8s-kind",
            "image": IMAGE,
            "state": node.state,
            "ipv4_address": node.address,
            "ipv6_address": node.address6,
        }
        for node in found.nodes
    ]
    show(values, form, lambda: boxed(("Name", "Kind/Image", "State", "IPv4/6 Address"), rows))


@click.command()
@name_option
def kubeconfig(name: str) -> None:
    """Print a kubeconfig that holds this lab alone.

    \b
    podwire lab kubeconfig > lab.kubeconfig
    """
    from podwire.lab import kubeconfig as page
    from podwire.lab.up import admin

    with reported():
        state = lab_state(name)
        click.echo(page.text(page.document(page.entry_name(state.name), admin(state))), nl=False)
