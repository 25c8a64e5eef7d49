"""`podwire ipam check`."""

from __future__ import annotations

import shutil
import textwrap
from typing import Any

import click

from podwire.cli.checking import GRACE_SECONDS, WAIT_SECONDS, Report, check, scope_of
from podwire.cli.connect import cluster_options
from podwire.cli.errors import reported
from podwire.cli.output import boxed, output_option, show
from podwire.observe.finding import Finding


@click.command("check")
@click.option("--node", "nodes", multiple=True, metavar="NODE", help="Only this node; may be repeated.")
@click.option("--local", is_flag=True, help="Look into this machine as a node.")
@click.option(
    "--host-local", multiple=True, metavar="DIR", help="Also this directory of host-local; alone: only its files, here."
)
@click.option("--grace", default=GRACE_SECONDS, show_default=True, help="Seconds that a file may wait for its pod.")
@click.option("--wait", default=WAIT_SECONDS, show_default=True, help="Seconds before what looks wrong is read again.")
@cluster_options
@output_option
def check_addresses(
    nodes: tuple[str, ...],
    local: bool,
    host_local: tuple[str, ...],
    grace: float,
    wait: float,
    kubeconfig: str,
    context: str,
    form: str,
) -> None:
    """Leaks, double use, addresses outside pools, handles, affinities, and each node's kernel against the API.

    What looks wrong is read again after a moment, so that what is only on its way is not reported. Exits with 1 when
    something is found; `podwire ipam release --from-report` mends what a program can mend.

    \b
    podwire ipam check
    podwire ipam check --node lab-worker
    podwire ipam check -o json > report.json
    podwire ipam check --host-local /var/lib/cni/networks     files of this machine
    """
    with reported():
        scope = scope_of(nodes, host_local, kubeconfig, context, local=local, grace=grace, wait=wait)
        report = check(scope)
    show({"checked": report.checked, "findings": report.findings}, form, lambda: report_table(report))
    if report.findings:
        raise SystemExit(1)


def report_table(report: Report) -> str:
    """The findings, or what was looked at when there are none; and what could not be looked at."""
    blind = [f"not looked at: {what}" for what in report.checked.get("blind", [])]
    if report.findings:
        count = len(report.findings)
        end = f"{count} finding{'s' if count > 1 else ''} in {counted(report.checked)}"
        return "\n".join([finding_table(report.findings), end, *blind])
    return "\n".join([f"nothing found in {counted(report.checked)}", *blind])


def counted(checked: dict[str, Any]) -> str:
    """`1 pool, 3 blocks, 7 addresses, 7 handles, 5 pods; kernel of 3 nodes`."""
    names = ("pools", "blocks", "addresses", "handles", "pods")
    parts = [_number(checked[name], name) for name in names if name in checked]
    if checked.get("files"):
        parts.append(_number(checked["files"], "files"))
    seen = checked.get("nodes") or []
    kernel = f"kernel of {_number(len(seen), 'nodes')}" if seen else "no node's kernel (none can be reached from here)"
    return "; ".join([", ".join(parts), kernel] if parts else [kernel])


def _number(count: int, name: str) -> str:
    one = {"addresses": "address"}.get(name, name.removesuffix("s"))
    return f"{count} {one if count == 1 else name}"


def finding_table(findings: list[Finding]) -> str:
    """Kind, address, object, and what is wrong and to be done, wrapped to the terminal."""
    width = max(120, shutil.get_terminal_size((140, 40)).columns)
    kinds = max([len("Kind"), *(len(one.kind) for one in findings)])
    addresses = max([len("Address"), *(len(one.address) for one in findings)])
    left = width - kinds - addresses - 13
    objects = min(46, left * 2 // 5)
    rows = []
    for one in findings:
        where = [one.object, *([f"on {one.node}"] if one.node else [])]
        lines = [line for text in where for line in wrapped(text, objects)]
        what = [*wrapped(one.problem, left - objects), *wrapped(f"→ {one.remedy}", left - objects)]
        rows.append((one.kind, one.address or "-", "\n".join(lines), "\n".join(what)))
    return boxed(("Kind", "Address", "Object", "What is wrong, and what to do"), rows)


def wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False, subsequent_indent="  " if text.startswith("→") else "")
