"""`podwire lab up`."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click

from podwire.cli.errors import reported
from podwire.cli.which import not_empty
from podwire.lab import topology
from podwire.lab.state import LabState, cache_root, labs_root
from podwire.lab.topology import LabPlan, LabSpec, PlanError

CACHED = "cached"
"""--kubernetes without a folder."""
HOME = "PODWIRE_KUBERNETES"
"""Environment: what --kubernetes is for a lab that is made without that option (`cached` or a folder)."""
WAIT, WAIT_GENUINE = 60.0, 180.0
"""Seconds that nodes have to become Ready, unless --wait says otherwise."""


@click.command()
@click.option(
    "--name",
    default=None,
    callback=not_empty,
    metavar="NAME",
    help="The lab's name; its nodes begin with it. [default: lab]",
)
@click.option(
    "--nodes", type=int, default=None, metavar="N", help="Nodes: one control plane and N-1 workers. [default: 3]"
)
@click.option(
    "--config",
    default="",
    metavar="FILE",
    help="A kind cluster file, containerlab topology or operator's Installation; - reads stdin.",
)
@click.option(
    "--network",
    type=click.Choice(topology.NETWORKS),
    default=None,
    help="routed: Podwire's own, VXLAN between nodes. kubenet: bridge cbr0 on each node, routes to the nodes' podCIDRs "
    "in the router between them, as a cloud holds them. none: nodes wait for the CNI plugin that you install. "
    "[default: routed]",
)
@click.option(
    "--ipam",
    type=click.Choice(topology.IPAMS),
    default=None,
    help="blocks: addresses from blocks that nodes claim through the API. host-local: each node's podCIDR, as files on "
    "the node. [default: blocks; with kubenet host-local]",
)
@click.option(
    "--kubernetes",
    is_flag=False,
    flag_value=CACHED,
    default=None,
    metavar="[BIN_DIR]",
    help="Genuine Kubernetes on the nodes: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubelet and "
    "containerd from BIN_DIR. [default BIN_DIR: where `make kubernetes` puts them; PODWIRE_KUBERNETES=BIN_DIR in the "
    "environment makes it the default]",
)
@click.option(
    "--services",
    type=click.Choice(topology.SERVICES),
    default=None,
    help="With --kubernetes: who makes Services work; with none there is no cluster DNS either. [default: kube-proxy]",
)
@click.option(
    "--policy",
    type=click.Choice(topology.POLICIES),
    default=None,
    help="off: network policy is stored and not enforced, as on a cluster whose plugin knows none; a node's "
    "/etc/podwire/agent.toml (policy.enforce) can say otherwise later. [default: on]",
)
@click.option(
    "--wait",
    type=float,
    default=None,
    metavar="SECONDS",
    help=f"How long to wait for the nodes to be Ready. [default: {WAIT:g}; with --kubernetes {WAIT_GENUINE:g}]",
)
def up(
    name: str,
    nodes: int | None,
    config: str,
    network: str | None,
    ipam: str | None,
    kubernetes: str | None,
    services: str | None,
    policy: str | None,
    wait: float | None,
) -> None:
    """Bring a lab up, or make sure that it is: calling it again changes nothing that is right.

    \b
    podwire lab up
    podwire lab up --nodes 5 --name five
    podwire lab up --config kind.yaml
    podwire lab up --network kubenet --name kubenet
    podwire lab up --kubernetes --name genuine
    """
    with reported():
        plan, asked = plan_of(name, nodes, config, network, ipam, kubernetes, services or "", policy or "")
        say = progress()
        from podwire.lab.up import up as bring_up

        if wait is None:
            wait = WAIT_GENUINE if plan.genuine else WAIT
        outcome = bring_up(plan, LabState(plan.name, labs_root()), say, wait=wait, asked=asked)
    if not outcome.started and outcome.ready:
        click.echo(f"Lab {plan.name} is up already; nothing was changed.")
    else:
        click.echo(hints(outcome.plan, outcome.ready, outcome.seconds))
    if not outcome.ready and outcome.plan.default_cni:
        raise SystemExit(1)


def plan_of(
    name: str,
    nodes: int | None,
    config: str,
    network: str | None = None,
    ipam: str | None = None,
    kubernetes: str | None = None,
    services: str = "",
    policy: str = "",
) -> tuple[LabPlan, bool]:
    """The plan that flags and file make, and whether they said anything beyond the name. Raises PlanError."""
    spec, programs = LabSpec(), programs_of(kubernetes or os.environ.get(HOME))
    if config:
        if nodes is not None:
            raise click.UsageError("--nodes and --config exclude each other: the file says which nodes there are")
        spec, warnings = read_config(config)
        for warning in warnings:
            click.echo(f"Warning: {warning}", err=True)
    if name:
        spec = replace(spec, name=name)
    if nodes is not None:
        spec = replace(spec, nodes=topology.default_nodes(nodes))
    spec = replace(spec, network=network or spec.network, ipam=ipam or spec.ipam, programs=programs, services=services)
    spec = replace(spec, policy=policy)
    return topology.build(spec), bool(
        config or nodes is not None or network or ipam or kubernetes or services or policy
    )


def programs_of(kubernetes: str | None) -> str:
    """The folder that --kubernetes names, or ""."""
    if not kubernetes:
        return ""
    return str(cache_root() / "kubernetes/bin" if kubernetes == CACHED else Path(kubernetes).absolute())


def read_config(config: str) -> tuple[LabSpec, list[str]]:
    """Read a configuration file, or standard input for `-`."""
    from podwire.lab import kindfile

    if config == "-":
        return kindfile.read(sys.stdin.read(), "stdin", lambda path: Path(path).read_text())
    path = Path(config)
    try:
        text = path.read_text()
    except OSError as error:
        raise PlanError(f"{config}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PlanError(f"{config}: is not text") from None
    return kindfile.read(text, config, lambda other: (path.parent / other).read_text())


def progress() -> Callable[[str], None]:
    """A printer of lines that begin with the seconds since now. Nobody has to read them to their end."""
    begin = time.monotonic()

    def say(words: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            click.echo(f"{time.monotonic() - begin:6.2f} s  {words}", err=True)

    return say


def hints(plan: LabPlan, ready: bool, seconds: float) -> str:
    """What to try next."""
    worker = plan.nodes[-1].name
    state = "all Ready" if ready else "not all Ready yet"
    if not plan.default_cni and not ready:
        state = "waiting for the CNI plugin that you install"
    return (
        f"Lab {plan.name}: {len(plan.nodes)} nodes, {state}, {seconds:.1f} s. Try:\n"
        "  kubectl get nodes -o wide\n"
        "  kubectl create deployment web --image=nginx --replicas=3\n"
        "  kubectl get pods -o wide\n"
        f"  podwire lab exec -it {worker} bash\n"
        f"  podwire lab status --name {plan.name}\n"
        f"  podwire lab down --name {plan.name}"
    )
