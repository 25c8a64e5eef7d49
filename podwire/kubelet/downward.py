"""Pure: values of the downward API, fieldRef and resourceFieldRef.

Source: the behaviour of k8s.io/kubernetes pkg/fieldpath and pkg/api/v1/resource.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any

from podwire.model.quantity import parse_quantity

_SUBSCRIPT = re.compile(r"^(metadata\.(?:annotations|labels))\['(.+)'\]$")
_RESOURCE = re.compile(r"^(limits|requests)\.(.+)$")


class FieldError(ValueError):
    """The path names no field that the downward API offers."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the downward API tells of the node. Amounts are in cores and bytes."""

    name: str
    address: str
    cpu: Decimal
    memory: Decimal


def format_map(values: Mapping[str, str] | None) -> str:
    """Labels or annotations as a file shows them: `key="escaped value"` lines, sorted."""
    lines = []
    for key, value in sorted((values or {}).items()):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
        lines.append(f'{key}="{escaped}"')
    return "\n".join(lines)


def field_value(pod: Mapping[str, Any], path: str, node: NodeFacts, addresses: tuple[str, ...]) -> str:
    """The text of one fieldPath. Raises FieldError."""
    metadata, spec = pod["metadata"], pod["spec"]
    subscript = _SUBSCRIPT.match(path)
    if subscript:
        return str((metadata.get(subscript[1].partition(".")[2]) or {}).get(subscript[2], ""))
    host_network = bool(spec.get("hostNetwork"))
    pod_addresses = (node.address,) if host_network else addresses
    simple = {
        "metadata.name": metadata.get("name", ""),
        "metadata.namespace": metadata.get("namespace", ""),
        "metadata.uid": metadata.get("uid", ""),
        "spec.nodeName": node.name,
        "spec.serviceAccountName": spec.get("serviceAccountName") or "default",
        "status.hostIP": node.address,
        "status.hostIPs": node.address,
        "status.podIP": pod_addresses[0] if pod_addresses else "",
        "status.podIPs": ",".join(pod_addresses),
    }
    if path in simple:
        return str(simple[path])
    if path in ("metadata.labels", "metadata.annotations"):
        return format_map(metadata.get(path.partition(".")[2]))
    raise FieldError(f"unsupported fieldPath: {path}")


def resource_value(container: Mapping[str, Any], resource: str, divisor: str | int | None, node: NodeFacts) -> str:
    """The text of one resourceFieldRef, rounded up to whole divisors; an absent limit is what the node has.

    Raises FieldError.
    """
    found = _RESOURCE.match(resource)
    if not found:
        raise FieldError(f"unsupported container resource: {resource}")
    section, name = found.groups()
    resources = container.get("resources") or {}
    amount = (resources.get(section) or {}).get(name)
    if amount is None and section == "limits" and name in ("cpu", "memory"):
        value = node.cpu if name == "cpu" else node.memory
    else:
        value = parse_quantity(amount) if amount is not None else Decimal(0)
    unit = parse_quantity(divisor) if divisor not in (None, "", "0", 0) else Decimal(1)
    return str(int((value / unit).to_integral_value(rounding=ROUND_CEILING)))
