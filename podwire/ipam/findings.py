"""Whether an allocation of a block is in order, from what the API says alone. Pure.

The rules of validity are Calico's: an allocation is in order when its pod exists, is on the noted node and reports the
address; also when the pod reports none yet, when the address is of a further interface (a pod's status has those of
eth0 only), and when too little is noted to tell. What cannot be told is never a leak. Both who collects leaks and who
reports faults go by this.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from podwire.ipam import ahead
from podwire.ipam.blocks import Attribute, Block
from podwire.model.address import AddressError, parse_ip
from podwire.model.block import TUNNEL_TYPES
from podwire.model.pod import Pod

ENDED = ("Succeeded", "Failed")
_FURTHER = re.compile(r"\.[0-9a-f]{12,}\..+$")
"""The end of a handle: container ID and an interface's name, which that of eth0 has not."""


def allocations(block: Block) -> Iterator[tuple[str, Attribute]]:
    """Every address that somebody holds."""
    for ordinal, index in enumerate(block.allocations):
        if index is not None and not block.attributes[index].released:
            yield block.cidr.address(ordinal), block.attributes[index]


def fault(attribute: Attribute, address: str, pod: Pod | None, node_exists: bool) -> str:
    """Why an allocation is not in order, in words; '' when it is, or when that cannot be told. `pod` is the one that
    the attribute names, None if there is none of that name."""
    node, name, namespace = attribute.fact("node"), attribute.fact("pod"), attribute.fact("namespace")
    if attribute.fact("type") in (*TUNNEL_TYPES, ahead.TYPE):
        return f"node {node} does not exist" if node and not node_exists else ""
    if not (node and name and namespace and attribute.handle) or attribute.fact("type"):
        return ""
    if pod is None:
        return f"pod {namespace}/{name} does not exist"
    if pod.status.phase in ENDED:
        return f"pod {namespace}/{name} has ended ({pod.status.phase})"
    if pod.spec.nodeName != node:
        where = f"is on node {pod.spec.nodeName}" if pod.spec.nodeName else "is on no node"
        return f"pod {namespace}/{name} {where}, not on {node}"
    if pod.spec.hostNetwork:
        return f"pod {namespace}/{name} uses the host's network"
    if (
        pod.addresses
        and not _FURTHER.search(attribute.handle)
        and not any(same(address, told) for told in pod.addresses)
    ):
        return f"pod {namespace}/{name} has {', '.join(pod.addresses)}"
    return ""


def same(one: str, other: str) -> bool:
    """Two texts of an address mean the same one."""
    try:
        return one == other or parse_ip(one) == parse_ip(other)
    except AddressError:
        return False
