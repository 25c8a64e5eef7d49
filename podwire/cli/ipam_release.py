"""`podwire ipam release`."""

from __future__ import annotations

import json
import sys
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from podwire.cli.checking import Report, Scope, check, look, scope_of, stored_by
from podwire.cli.connect import Target, ask, cluster_options
from podwire.cli.errors import reported
from podwire.model.address import AddressError, Cidr, parse_ip
from podwire.model.seen import SeenFile
from podwire.observe import mend
from podwire.observe.addresses import Holding, holdings
from podwire.observe.finding import REMOVE_FILE, SCRUB, Finding, persistent
from podwire.observe.kernel import by_node
from podwire.observe.living import why_live


@click.command("release")
@click.option("--ip", "addresses", multiple=True, metavar="A", help="An address to give back; may be repeated.")
@click.option("--from-report", "report", default="", metavar="FILE", help="What `check -o json` wrote; - reads stdin.")
@click.option("--force", is_flag=True, help="Also addresses that somebody uses.")
@click.option("--node", "nodes", multiple=True, metavar="NODE", help="Only this node; may be repeated.")
@click.option("--local", is_flag=True, help="Look into this machine as a node.")
@click.option(
    "--host-local", multiple=True, metavar="DIR", help="Files of this directory of host-local, on this machine."
)
@cluster_options
def release_addresses(
    addresses: tuple[str, ...],
    report: str,
    force: bool,
    nodes: tuple[str, ...],
    local: bool,
    host_local: tuple[str, ...],
    kubeconfig: str,
    context: str,
) -> None:
    """Give back addresses that nobody uses, or mend what a check found.

    An address is released only if it is still held as it was seen; one that somebody uses is refused, and who. From a
    report, what a new check does not find any more is left alone. Exits with 1 when something was refused or is left.

    \b
    podwire ipam release --ip 10.244.1.7 --ip 10.244.1.9
    podwire ipam check -o json | podwire ipam release --from-report -
    podwire ipam release --host-local /var/lib/cni/networks --ip 10.88.0.5
    """
    if bool(addresses) == bool(report):
        raise click.UsageError("either --ip, which may be repeated, or --from-report")
    wanted = [_canonical(text) for text in addresses]
    with reported():
        told, of_files = read_report(report) if report else ([], False)
        directories = tuple(dict.fromkeys(one.directory for one in told if one.directory))
        scope = scope_of(nodes, host_local or (directories if of_files else ()), kubeconfig, context, local=local)
        if report:
            code = from_report(replace(scope, directories=(*scope.directories, *directories)), told)
        elif scope.where is None:
            code = release_files(scope, wanted, force=force)
        else:
            code = release_held(scope, scope.where, wanted, force=force)
    raise SystemExit(code)


def _canonical(text: str) -> str:
    try:
        number, width = parse_ip(text)
    except AddressError as error:
        raise click.UsageError(f"--ip: {error}") from None
    return Cidr(number, width, width).address(0)


# -- by address -------------------------------------------------------------------------------------------------------


def release_held(scope: Scope, where: Target, wanted: list[str], *, force: bool) -> int:
    """Release addresses of blocks, all or, when one is refused, none."""
    cluster, seen = look(scope)
    assert cluster is not None
    held: dict[str, Holding] = {one.address: one for one in holdings(cluster)}
    refused = 0
    for address in wanted:
        if address not in held:
            click.echo(f"{address}: nobody holds it", err=True)
            refused += 1
        elif why := why_live(cluster, held[address], by_node(seen)):
            click.echo(f"{address}: {why}{' (--force given)' if force else ''}", err=True)
            refused += not force
    if refused:
        click.echo("nothing was released" + ("" if force else "; --force releases also what is in use"), err=True)
        return 1
    for address in wanted:
        one = held[address]
        try:
            ask(where, partial(_release, one=one, classic=cluster.classic))
        except mend.Changed as error:
            click.echo(f"{address}: {error}; nothing was done with it", err=True)
            refused += 1
        else:
            click.echo(f"released {address}, which {one.holder} held")
    return 1 if refused else 0


async def _release(api: Any, one: Holding, *, classic: bool) -> None:
    await mend.release(stored_by(api, classic=classic), one.block, one.address, one.handle, one.sequence)


def release_files(scope: Scope, wanted: list[str], *, force: bool) -> int:
    """Remove host-local's files of these addresses."""
    from podwire.agent.scrub import remove_file

    _, (seen,) = look(scope)
    kept: dict[str, list[SeenFile]] = {}
    for file in seen.files:
        if file.directory in scope.directories:
            kept.setdefault(file.address, []).append(file)
    refused = 0
    for address in wanted:
        if address not in kept:
            click.echo(f"{address}: no file of that name in {', '.join(scope.directories)}", err=True)
            refused += 1
        elif address in seen.present and not force:
            click.echo(f"{address}: a network namespace of this machine has it; --force releases it anyway", err=True)
            refused += 1
    if refused:
        click.echo("nothing was released", err=True)
        return 1
    for file in (file for address in wanted for file in kept[address]):
        click.echo(remove_file(file.directory, file.network, file.address, f"{file.container_id}/{file.interface}"))
    return 0


# -- from a report ----------------------------------------------------------------------------------------------------


def read_report(path: str) -> tuple[list[Finding], bool]:
    """The findings that `check -o json` wrote, and whether they are of a machine's files alone, without a cluster.
    Raises ClickException naming what is not understood."""
    try:
        document = json.loads(sys.stdin.read() if path == "-" else Path(path).read_text())
        entries = document["findings"] if isinstance(document, dict) else document
        known = {field.name for field in fields(Finding)}
        told = [Finding(**{name: value for name, value in one.items() if name in known}) for one in entries]
        return told, isinstance(document, dict) and "pools" not in document.get("checked", {"pools": 0})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise click.ClickException(f"{path}: not a report of `podwire ipam check -o json`: {error}") from None


def from_report(scope: Scope, told: list[Finding]) -> int:
    """Mend what the report says and a new check still finds."""
    if not told:
        return 0
    report = check(replace(scope, grace=0.0))  # a file that was old enough for the report is so still: no grace
    still = persistent(told, report.findings)
    unseen, gone = _missing(told, report)
    if gone:
        click.echo(f"{gone} of {len(told)} findings are not found any more")
    for one in unseen:
        where = f"node {one.node} was not looked into: give --local there, or its lab's kubeconfig"
        click.echo(f"left for you: {one.kind}, {one.address or one.object}: {where}", err=True)
    left = len(unseen)
    for one in sorted(still, key=_turn):
        try:
            click.echo(_mend(scope, one, classic=report.classic))
        except mend.Changed as error:
            click.echo(f"left alone: {error}")
        except _NeedsYou as error:
            click.echo(f"left for you: {one.kind}, {one.address or one.object}: {error}", err=True)
            left += 1
    return 1 if left else 0


def _missing(told: list[Finding], report: Report) -> tuple[list[Finding], int]:
    """What the new check did not find: on nodes that it did not look into, and (how many) as it is gone."""
    missing = [one for one in told if not persistent(report.findings, [one])]
    unseen = [
        one for one in missing if one.cure in (SCRUB, REMOVE_FILE) and one.node not in report.checked.get("nodes", [])
    ]
    return unseen, len(missing) - len(unseen)


class _NeedsYou(Exception):
    """No program should decide this, or not from here."""


def _turn(one: Finding) -> int:
    """Addresses first: handles and affinities are mended by what is left then."""
    order = ("release", SCRUB, REMOVE_FILE, "recount")
    return order.index(one.cure) if one.cure in order else len(order)


def _mend(scope: Scope, one: Finding, *, classic: bool) -> str:
    if not one.cure:
        raise _NeedsYou(one.remedy)
    if one.cure in (SCRUB, REMOVE_FILE):
        return _mend_node(scope, one)
    if scope.where is None:
        raise _NeedsYou("it needs the cluster: give --kubeconfig")
    return ask(scope.where, partial(_mend_stored, one=one, classic=classic))


async def _mend_stored(api: Any, one: Finding, *, classic: bool) -> str:
    return await mend.mend(stored_by(api, classic=classic), one)


def _mend_node(scope: Scope, one: Finding) -> str:
    """On the node itself: here, or inside a node of a lab."""
    from podwire.agent import config as page
    from podwire.agent import scrub
    from podwire.cli.nodes import lab_nodes
    from podwire.kernel.netlink import KernelError

    def work(**settings: Any) -> bytes:
        if one.cure == REMOVE_FILE:
            return scrub.remove_file(one.directory, one.network, one.address, one.handle).encode()
        return scrub.scrub(page.load(**settings), one.interface, one.address).encode()

    lab = scope.where.lab if scope.where else None
    if lab is not None and not scope.local and one.node in lab_nodes(lab):
        from podwire.lab import inside
        from podwire.lab.state import LabError

        try:
            return (
                f"{one.node}: {inside.call(lab, one.node, partial(work, environment={}, node_name=one.node)).decode()}"
            )
        except LabError as error:
            raise _NeedsYou(str(error)) from error
    if not scope.local:
        raise _NeedsYou(f"run `podwire ipam release --local --from-report FILE` on node {one.node}")
    try:
        return work(node_name=one.node).decode()
    except (scrub.InUse, KernelError, OSError) as error:
        raise _NeedsYou(str(error)) from error
