"""What the runtime offers plugins about a pod: host ports, bandwidth, DNS, annotations. Pure.

Keys and shapes are those of CONVENTIONS.md; a plugin is told of those that its entry's `capabilities` ask for.
"""

from __future__ import annotations

from decimal import ROUND_CEILING
from typing import Any

from podwire.kubelet.dnsfiles import Resolver
from podwire.model.quantity import parse_quantity

Object = dict[str, Any]

BURST_BITS = (1 << 32) - 1
_LEAST, _MOST = 1_000, 10**15
ANNOTATIONS = "io.kubernetes.cri.pod-annotations"


def capability_arguments(pod: Object, resolver: Resolver) -> Object:
    """Raises ValueError, in upstream's words, for a bandwidth that cannot be meant."""
    annotations = pod["metadata"].get("annotations") or {}
    found: Object = {
        "portMappings": _port_mappings(pod["spec"]),
        "bandwidth": _bandwidth(annotations),
        "dns": _dns(resolver),
        ANNOTATIONS: dict(annotations),
    }
    return {key: value for key, value in found.items() if value}


def _port_mappings(spec: Object) -> list[Object]:
    """Host ports of containers, and of init containers that stay (restartPolicy Always)."""
    staying = [one for one in spec.get("initContainers") or [] if one.get("restartPolicy") == "Always"]
    mappings = []
    for container in [*staying, *(spec.get("containers") or [])]:
        for port in container.get("ports") or []:
            if port.get("hostPort"):
                mapping = {"hostPort": port["hostPort"], "containerPort": port["containerPort"]}
                mapping["protocol"] = str(port.get("protocol") or "TCP").lower()
                if port.get("hostIP"):
                    mapping["hostIP"] = port["hostIP"]
                mappings.append(mapping)
    return mappings


def _bandwidth(annotations: Object) -> Object:
    """Bits per second from kubernetes.io/ingress-bandwidth and egress-bandwidth, from 1k to 1P."""
    found: Object = {}
    for direction in ("ingress", "egress"):
        name = f"kubernetes.io/{direction}-bandwidth"
        if name not in annotations:
            continue
        rate = parse_quantity(annotations[name])
        if rate < _LEAST:
            raise ValueError(f"{name}: resource is unreasonably small (< 1kbit)")
        if rate > _MOST:
            raise ValueError(f"{name}: resource is unreasonably large (> 1Pbit)")
        found[f"{direction}Rate"] = int(rate.to_integral_value(ROUND_CEILING))
        found[f"{direction}Burst"] = BURST_BITS
    return found


def _dns(resolver: Resolver) -> Object:
    parts = {"servers": resolver.nameservers, "searches": resolver.search, "options": resolver.options}
    return {key: list(words) for key, words in parts.items() if words}
