"""Workload endpoints: what of a Pod is an endpoint of the network, under Calico's names. Pure.

Nobody stores them: they are read off the Pods, by the lab's API server and by `podwire node endpoints --all` alike.
Source: projectcalico.org/v3 WorkloadEndpoint (fields, name, which pods count, where an address is taken from).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from podwire.model.quantity import parse_quantity

Object = dict[str, Any]

API_VERSION = "projectcalico.org/v3"
KIND = "WorkloadEndpoint"
PREFIX = "cali"
INTERFACE = "eth0"
_ADDRESS_NOTES = ("cni.projectcalico.org/podIPs", "cni.projectcalico.org/podIP", "vpc.amazonaws.com/pod-ips")
_FINISHED = ("Succeeded", "Failed")
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def endpoint_name(node: str, pod: str, interface: str = INTERFACE) -> str:
    """`<node>-k8s-<pod>-<interface>`, with every `-` inside a part doubled."""
    return "-".join(part.replace("-", "--") for part in (node, "k8s", pod, interface))


def host_interface(namespace: str, pod: str) -> str:
    """The host end of a pod's veth pair: `cali` and 11 hex digits of the SHA-1 of "namespace.pod"."""
    return PREFIX + hashlib.sha1(f"{namespace}.{pod}".encode(), usedforsecurity=False).hexdigest()[:11]


def is_endpoint(pod: Mapping[str, Any]) -> bool:
    """Pods in the host's network, and pods that no node has yet, are none."""
    spec = pod.get("spec") or {}
    return bool(spec.get("nodeName")) and not spec.get("hostNetwork")


def pod_addresses(pod: Mapping[str, Any]) -> list[str]:
    """The pod's addresses from the first place that has some; none once it has ended."""
    status, notes = pod.get("status") or {}, _notes(pod)
    leaving = bool((pod.get("metadata") or {}).get("deletionTimestamp"))
    if status.get("phase") in _FINISHED or (leaving and notes.get("cni.projectcalico.org/podIP") == ""):
        return []
    found = [str(entry.get("ip") or "") for entry in status.get("podIPs") or [] if isinstance(entry, dict)]
    places = [found, [str(status.get("podIP") or "")], *(notes.get(key, "").split(",") for key in _ADDRESS_NOTES)]
    for place in places:
        if texts := [text.strip().partition("/")[0] for text in place if text.strip()]:
            return texts
    return []


def workload_endpoint(pod: Mapping[str, Any]) -> Object | None:
    """The endpoint that a Pod is, or None."""
    if not is_endpoint(pod):
        return None
    metadata, spec = pod["metadata"], pod["spec"]
    namespace, name, node = metadata.get("namespace", ""), metadata["name"], spec["nodeName"]
    account = spec.get("serviceAccountName") or ""
    notes = _notes(pod)
    labels = {
        **(metadata.get("labels") or {}),
        "projectcalico.org/namespace": namespace,
        "projectcalico.org/orchestrator": "k8s",
    }
    if account and len(account) < 63:
        labels["projectcalico.org/serviceaccount"] = account
    addresses = pod_addresses(pod)
    about: Object = {
        "orchestrator": "k8s",
        "node": node,
        "pod": name,
        "endpoint": INTERFACE,
        "containerID": notes.get("cni.projectcalico.org/containerID", ""),
        "serviceAccountName": account,
        "interfaceName": host_interface(namespace, name),
        "mac": notes.get("cni.projectcalico.org/hwAddr", ""),
        "ipNetworks": [f"{address}/{128 if ':' in address else 32}" for address in addresses],
        "ipNATs": _nats(notes, addresses),
        "profiles": [f"kns.{namespace}", *([f"ksa.{namespace}.{account}"] if account else [])],
        "ports": _ports(spec),
        "allowSpoofedSourcePrefixes": _strings(notes.get("cni.projectcalico.org/allowedSourcePrefixes", "")),
        "qosControls": _controls(notes),
    }
    shown: Object = {
        "name": endpoint_name(node, name),
        "namespace": namespace,
        "uid": mirrored_uid(str(metadata.get("uid") or "")),
        "labels": labels,
    }
    for key in ("creationTimestamp", "generateName", "resourceVersion"):
        if metadata.get(key):
            shown[key] = metadata[key]
    kept = {key: value for key, value in about.items() if value}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": shown, "spec": kept}


def mirrored_uid(uid: str) -> str:
    """A uid of its own for a view of an object: the bits of each byte reversed, but for bytes 6 and 8, which hold the
    UUID's version and variant. Anything else than a UUID stays as it is."""
    try:
        raw = bytes.fromhex(uid.replace("-", ""))
    except ValueError:
        return uid
    if len(raw) != 16:
        return uid
    text = bytes(byte if at in (6, 8) else _MIRRORED[byte] for at, byte in enumerate(raw)).hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def row(endpoint: Mapping[str, Any]) -> dict[str, str]:
    """The columns by which calicoctl lists an endpoint."""
    spec = endpoint["spec"]
    nats = (f"{nat['externalIP']}->{nat['internalIP']}" for nat in spec.get("ipNATs") or [])
    return {
        "name": endpoint["metadata"]["name"],
        "workload": spec.get("pod", ""),
        "node": spec.get("node", ""),
        "networks": ",".join(spec.get("ipNetworks") or []),
        "interface": spec.get("interfaceName", ""),
        "profiles": ",".join(spec.get("profiles") or []),
        "nats": ",".join(nats),
    }


def _notes(pod: Mapping[str, Any]) -> dict[str, str]:
    return (pod.get("metadata") or {}).get("annotations") or {}


def _strings(text: str) -> list[str]:
    """A JSON list of strings in an annotation; anything else counts as none."""
    try:
        found = json.loads(text) if text else []
    except ValueError:
        return []
    return [entry for entry in found if isinstance(entry, str)] if isinstance(found, list) else []


def _nats(notes: Mapping[str, str], addresses: list[str]) -> list[Object]:
    """Floating addresses, each with the pod's address of its family."""
    found = []
    for external in _strings(notes.get("cni.projectcalico.org/floatingIPs", "")):
        inner = next((address for address in addresses if (":" in address) == (":" in external)), "")
        if inner:
            found.append({"internalIP": inner, "externalIP": external})
    return found


def _ports(spec: Mapping[str, Any]) -> list[Object]:
    """Container ports that have a name or a port of the host."""
    found = []
    containers = [*(spec.get("containers") or []), *(c for c in spec.get("initContainers") or [] if _sidecar(c))]
    for container in containers:
        for port in container.get("ports") or []:
            if port.get("name") or port.get("hostPort"):
                entry = {"name": port.get("name", ""), "port": port.get("containerPort", 0)}
                entry |= {"protocol": port.get("protocol") or "TCP", "hostPort": port.get("hostPort", 0)}
                entry |= {"hostIP": port.get("hostIP", "")}
                found.append({key: value for key, value in entry.items() if value})
    return found


def _sidecar(container: Mapping[str, Any]) -> bool:
    return container.get("restartPolicy") == "Always"


_CONTROLS = {
    "qos.projectcalico.org/ingressBandwidth": "ingressBandwidth",
    "qos.projectcalico.org/egressBandwidth": "egressBandwidth",
    "kubernetes.io/ingress-bandwidth": "ingressBandwidth",
    "kubernetes.io/egress-bandwidth": "egressBandwidth",
}


def _controls(notes: Mapping[str, str]) -> Object:
    """Bandwidth limits in bits per second; Calico's annotation wins over Kubernetes'."""
    found: Object = {}
    for note, name in _CONTROLS.items():
        if text := notes.get(note):
            try:
                found.setdefault(name, int(parse_quantity(text)))
            except ValueError:
                continue
    return found
