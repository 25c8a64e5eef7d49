"""`podwire ipam show`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from podwire.cli.bars import amount, bar, share, tinted
from podwire.cli.connect import ask, cluster_options, target
from podwire.cli.errors import reported
from podwire.cli.output import columns, output_option, show
from podwire.model.address import AddressError
from podwire.observe import addresses
from podwire.observe.cluster import Cluster, read
from podwire.observe.explain import Explained, explain

_NUMBERS = ("IPS TOTAL", "IPS IN USE", "IPS FREE")


@click.command("show")
@click.option("--show-blocks", is_flag=True, help="The blocks of each pool, and whose they are.")
@click.option("--show-borrowed", is_flag=True, help="Addresses that a node took from another's block.")
@click.option("--host-local", default="", metavar="DIR", help="What host-local keeps in that directory, here.")
@click.option("--ip", "address", default="", metavar="A", help="Explain one address.")
@cluster_options
@output_option
def show_addresses(
    show_blocks: bool, show_borrowed: bool, host_local: str, address: str, kubeconfig: str, context: str, form: str
) -> None:
    """Pools, blocks and addresses, how full they are, and who has them.

    \b
    podwire ipam show
    podwire ipam show --show-blocks
    podwire ipam show --show-borrowed
    podwire ipam show --ip 10.244.1.7
    podwire ipam show --host-local /var/lib/cni/networks
    """
    if host_local:
        _show_files(host_local, form)
        return
    with reported():
        cluster = ask(target(kubeconfig, context), read)
    if address:
        try:
            found = explain(cluster, address)
        except AddressError as error:
            raise click.UsageError(f"--ip: {error}") from None
        show(found, form, lambda: explained(found))
        return
    value: dict[str, Any] = {"pools": addresses.pool_rows(cluster), "nodes": addresses.node_rows(cluster)}
    if not cluster.blocks:
        value["pod_cidrs"] = addresses.cidr_rows(cluster)
    if show_blocks:
        value["blocks"] = addresses.block_rows(cluster)
    if show_borrowed:
        value["borrowed"] = addresses.borrowed_rows(cluster)
    for name, why in cluster.broken:
        click.echo(f"Warning: {name} cannot be understood and is left out: {why}", err=True)
    show(value, form, lambda: tinted(_tables(cluster, blocks=show_blocks, borrowed=show_borrowed)))


def _tables(cluster: Cluster, *, blocks: bool, borrowed: bool) -> str:
    if borrowed:
        return borrowed_table(addresses.borrowed_rows(cluster))
    if blocks:
        return block_table(addresses.pool_rows(cluster), addresses.block_rows(cluster))
    if not cluster.blocks and (rows := addresses.cidr_rows(cluster)):
        parts = [pool_table(addresses.pool_rows(cluster)) if cluster.pools else "", cidr_table(rows)]
    else:
        parts = [pool_table(addresses.pool_rows(cluster)), node_table(addresses.node_rows(cluster))]
    return "\n\n".join(part for part in parts if part)


def pool_table(rows: list[addresses.PoolRow]) -> str:
    """The pools with what each gives."""
    if not rows:
        return "no pool: pods get no address. An IPPool (projectcalico.org/v3) with spec.cidr makes one"
    cells = []
    for row in rows:
        traits = [row.state, row.encapsulation if row.encapsulation != "none" else "", "nat" if row.nat else ""]
        traits.append(f"{amount(row.reserved)} reserved" if row.reserved else "")
        figures = (amount(row.total), share(row.used, row.total), share(row.free, row.total))
        what = ", ".join(filter(None, traits))
        cells.append((row.name, row.cidr, f"/{row.block_size}", *figures, bar(row.used, row.total), what))
    return columns(("POOL", "CIDR", "BLOCKS", *_NUMBERS, "FILL", "STATE"), cells)


def node_table(rows: list[addresses.NodeRow]) -> str:
    """The nodes, by what they have claimed."""
    cells = [
        (
            row.node,
            str(row.blocks),
            amount(row.total),
            share(row.used, row.total),
            share(row.free, row.total),
            str(row.ahead),
            str(row.borrowed),
            bar(row.used, row.total),
        )
        for row in rows
    ]
    return columns(("NODE", "BLOCKS", *_NUMBERS, "AHEAD", "BORROWED", "FILL"), cells) if cells else ""


def cidr_table(rows: list[addresses.CidrRow]) -> str:
    """The nodes' podCIDRs, where each node gives addresses of its own (host-local)."""
    cells = []
    for row in rows:
        figures = (amount(row.total), share(row.used, row.total), share(row.free, row.total))
        cells.append((row.node, row.cidr, *figures, bar(row.used, row.total)))
    return columns(("NODE", "POD-CIDR", *_NUMBERS, "FILL"), cells)


def _show_files(directory: str, form: str) -> None:
    """What host-local keeps on this machine, and whether a network namespace has it."""
    from podwire.cli.nodes import local_seen

    seen = local_seen((directory,))
    rows = [
        {
            "network": file.network,
            "address": file.address,
            "container": file.container_id,
            "interface": file.interface,
            "since": datetime.fromtimestamp(file.since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "state": "in use" if file.address in seen.present else "in no network namespace",
        }
        for file in seen.files
        if file.directory == directory
    ]
    show(rows, form, lambda: file_table(rows, directory))


def file_table(rows: list[dict[str, str]], directory: str) -> str:
    """The addresses, a file each."""
    header = ("NETWORK", "ADDRESS", "CONTAINER", "INTERFACE", "SINCE", "STATE")
    cells = [
        tuple((row[name.lower()][:13] if name == "CONTAINER" else row[name.lower()]) or "-" for name in header)
        for row in rows
    ]
    return columns(header, cells) if rows else f"host-local keeps no address in {directory}"


def block_table(pools: list[addresses.PoolRow], blocks: list[addresses.BlockRow]) -> str:
    """Each pool with its blocks below it, in calicoctl's columns and two of ours; blocks of no pool come last."""
    cells = []
    for pool in pools:
        cells.append(_line("IP Pool", pool.cidr, pool.total, pool.used, pool.name))
        cells += [_block_line(block) for block in blocks if block.pool == pool.name]
    cells += [_block_line(block) for block in blocks if not block.pool]
    return columns(("GROUPING", "CIDR", *_NUMBERS, "FILL", "NODE"), cells)


def _block_line(block: addresses.BlockRow) -> tuple[str, ...]:
    whose = block.node or block.affinity or "nobody's"
    if block.lent:
        whose += f" ({block.lent} lent)"
    return _line("Block", block.cidr, block.total, block.used, whose if block.pool else f"{whose}, in no pool")


def _line(grouping: str, cidr: str, total: int, used: int, note: str) -> tuple[str, ...]:
    free = total - used
    return grouping, cidr, amount(total), share(used, total), share(free, total), bar(used, total), note


def borrowed_table(rows: list[addresses.Holding]) -> str:
    """Who borrowed what from whom, in calicoctl's columns."""
    if not rows:
        return "no address is borrowed: every one in use comes from a block of its own node"
    cells = [(row.address, row.node, row.block, row.block_node, row.type or "pod", row.holder) for row in rows]
    return columns(("IP", "BORROWING-NODE", "BLOCK", "BLOCK-OWNER", "TYPE", "ALLOCATED-TO"), cells)


def explained(found: Explained) -> str:
    """One address, a fact a line."""
    holder = found.holder
    facts = [("Address", f"{found.address}, {found.state}")]
    if found.pool:
        facts.append(("Pool", f"{found.pool} ({found.pool_cidr}), {found.pool_state}"))
    if found.block:
        owner = found.block_node or "nobody"
        facts.append(
            ("Block", f"{found.block} of {owner}" + (f", affinity {found.affinity}" if found.affinity else ""))
        )
    if holder:
        facts.append(("Pod" if holder.pod else "Holder", holder.holder))
        facts.append(("Node", (holder.node or "unknown") + (" (borrowed)" if found.borrowed else "")))
        facts.append(("Handle", holder.handle or "none"))
        facts.append(("Since", holder.since or "unknown"))
        if holder.released:
            facts.append(("Released", f"{holder.released}; it rests until its cooldown is over"))
    if found.reserved_by:
        facts.append(("Reserved", f"by IPReservation {found.reserved_by}"))
    facts += [("Pod says", f"{name} ({phase})") for name, phase in found.pods]
    facts += [("Note", note) for note in found.notes]
    width = max(len(name) for name, _ in facts) + 1
    return "\n".join(f"{name + ':':<{width}}  {text}" for name, text in facts)
