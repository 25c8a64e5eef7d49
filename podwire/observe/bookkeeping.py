"""Whether IPAM's books agree with its blocks: handles count what is taken, affinities say whose a block is. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from podwire.ipam.blocks import Block
from podwire.model.block import BlockAffinity
from podwire.observe.addresses import Holding
from podwire.observe.cluster import Cluster
from podwire.observe.finding import AFFINITY, DROP_AFFINITY, HANDLE, MAKE_AFFINITY, RECOUNT, Finding


def handle_findings(cluster: Cluster, held: list[Holding]) -> Iterator[Finding]:
    actual: dict[str, dict[str, int]] = {}
    for one in held:
        if one.handle:
            counts = actual.setdefault(one.handle, {})
            counts[one.block] = counts.get(one.block, 0) + 1
    stored = {handle.id: dict(handle.counts) for handle in cluster.handles}
    for handle in sorted({*actual, *stored}):
        has, says = actual.get(handle, {}), stored.get(handle)
        if says == has:
            continue
        address = next((one.address for one in held if one.handle == handle), "")
        problem = f"says {_counts(says)}, but the blocks say {_counts(has)}"
        if says is None:
            problem = f"is missing, but the blocks say {_counts(has)}"
        yield Finding(
            HANDLE,
            address,
            f"IPAMHandle {handle}",
            "",
            problem,
            "podwire ipam release --from-report writes it anew from the blocks",
            RECOUNT,
            handle=handle,
        )


def _counts(counts: Mapping[str, int] | None) -> str:
    return ", ".join(f"{count} in {block}" for block, count in sorted((counts or {}).items())) or "nothing"


def affinity_findings(cluster: Cluster) -> Iterator[Finding]:
    blocks = {str(block.cidr): block for block in cluster.blocks}
    nodes = {node.name for node in cluster.nodes}
    recorded = set()
    for affinity in cluster.affinities:
        if affinity.spec.type not in ("", "host"):
            continue
        recorded.add((affinity.spec.node, affinity.spec.cidr))
        problem, cure = _affinity_problem(affinity, blocks.get(affinity.spec.cidr), nodes)
        if problem:
            verb = {DROP_AFFINITY: "removes it", MAKE_AFFINITY: "confirms it"}.get(cure)
            yield Finding(
                AFFINITY,
                "",
                f"BlockAffinity {affinity.metadata.name}",
                affinity.spec.node,
                problem,
                f"podwire ipam release --from-report {verb}" if verb else "the node's agent finishes it when it runs",
                cure,
                affinity.spec.cidr,
            )
    for cidr, block in blocks.items():
        if block.node and (block.node, cidr) not in recorded:
            yield Finding(
                AFFINITY,
                "",
                f"block {cidr}",
                block.node,
                f"it is node {block.node}'s, but no BlockAffinity says so",
                "podwire ipam release --from-report writes the record",
                MAKE_AFFINITY,
                cidr,
            )


def _affinity_problem(affinity: BlockAffinity, block: Block | None, nodes: set[str]) -> tuple[str, str]:
    """What is wrong and its cure."""
    node, state = affinity.spec.node, affinity.spec.state or "confirmed"
    if block is None:
        return f"{state}, but there is no block {affinity.spec.cidr}", DROP_AFFINITY
    if block.node != node:
        return f"the block is {'node ' + block.node if block.node else 'nobody'}'s, not node {node}'s", DROP_AFFINITY
    if node not in nodes:
        return f"node {node} is gone", DROP_AFFINITY
    if state == "pending":
        return "the claim was begun (pending) and not finished", MAKE_AFFINITY
    return ("", "") if state == "confirmed" else (f"its release was begun ({state}) and not finished", "")
