"""The tigera operator's Installation, as far as Podwire honours it: its address pools. Pure.

Also the definitions of the kinds that its stock file `custom-resources.yaml` brings, so that the file can be applied.
Source: operator.tigera.io/v1 Installation (names, defaults and enumerations of spec.calicoNetwork.ipPools).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from podwire.model.address import AddressError, Cidr
from podwire.model.gvr import INSTALLATIONS, IPPOOLS

Object = dict[str, Any]

GROUP = INSTALLATIONS.group
MANAGED = {"app.kubernetes.io/managed-by": "tigera-operator"}
SILENT = ("APIServer", "Goldmane", "Whisker")
"""Kinds that stand in the stock file beside the Installation, and mean nothing here."""

# encapsulation → (ipipMode, vxlanMode)
_MODES = {
    "IPIP": ("Always", "Never"),
    "IPIPCrossSubnet": ("CrossSubnet", "Never"),
    "VXLAN": ("Never", "Always"),
    "VXLANCrossSubnet": ("Never", "CrossSubnet"),
    "None": ("Never", "Never"),
}
_HONOURED = {
    "name",
    "cidr",
    "encapsulation",
    "blockSize",
    "natOutgoing",
    "nodeSelector",
    "disableBGPExport",
    "disableNewAllocations",
    "allowedUses",
    "assignmentMode",
}
_KINDS: dict[str, type] = dict.fromkeys(
    ("name", "cidr", "encapsulation", "natOutgoing", "nodeSelector", "assignmentMode"), str
)
_KINDS |= {"blockSize": int, "disableBGPExport": bool, "disableNewAllocations": bool, "allowedUses": list}


@dataclass(frozen=True, slots=True)
class Reading:
    """The IPPools that an Installation asks for, what is wrong with those it cannot have, and the paths of what is set
    in it and means nothing here."""

    pools: tuple[Object, ...] = ()
    faults: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


def read(installation: Mapping[str, Any]) -> Reading:
    """One bad pool does not stop the others."""
    spec = _mapping(installation.get("spec"))
    network = _mapping(spec.get("calicoNetwork"))
    asked = network.get("ipPools")
    pools: list[Object] = []
    faults: list[str] = []
    ignored = [f"spec.{key}" for key in spec if key != "calicoNetwork"]
    ignored += [f"spec.calicoNetwork.{key}" for key in network if key != "ipPools"]
    for position, entry in enumerate(asked if isinstance(asked, list) else []):
        where = f"spec.calicoNetwork.ipPools[{position}]"
        entry = _mapping(entry)
        ignored += [f"{where}.{key}" for key in entry if key not in _HONOURED]
        try:
            pool = _pool(entry, pools)
        except ValueError as error:
            faults.append(f"{where}: {error}")
            continue
        pools.append(pool)
    return Reading(tuple(pools), tuple(faults), tuple(ignored))


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _pool(entry: Mapping[str, Any], before: list[Object]) -> Object:
    """Raises ValueError in words for whoever wrote it."""
    for key, kind in _KINDS.items():
        if type(entry.get(key)) not in (kind, type(None)):
            raise ValueError(f"{key}: {str(entry[key])[:64]!r} is no {kind.__name__}")
    if not all(isinstance(use, str) for use in entry.get("allowedUses") or ()):
        raise ValueError("allowedUses: is no list of texts")
    try:
        cidr = Cidr.parse(str(entry.get("cidr") or ""))
    except AddressError as error:
        raise ValueError(f"cidr: {error}") from None
    size = entry.get("blockSize") or (26 if cidr.width == 32 else 122)
    if not cidr.length <= size <= cidr.width:
        raise ValueError(f"blockSize: /{size} does not fit into {cidr}")
    encapsulation = entry.get("encapsulation") or ("IPIP" if cidr.width == 32 else "None")
    if encapsulation not in _MODES:
        raise ValueError(f"encapsulation: {encapsulation!r} is none of {', '.join(_MODES)}")
    if cidr.width == 128 and encapsulation.startswith("IPIP"):
        raise ValueError(f"encapsulation: {encapsulation} is for IPv4 pools only")
    for other in before:
        if Cidr.parse(other["spec"]["cidr"]).overlaps(cidr):
            raise ValueError(f"cidr: {cidr} overlaps {other['spec']['cidr']} of pool {other['metadata']['name']}")
    ipip, vxlan = _MODES[encapsulation]
    spec = {
        "cidr": str(cidr),
        "blockSize": size,
        "ipipMode": ipip,
        "vxlanMode": vxlan,
        "natOutgoing": entry.get("natOutgoing", "Enabled") == "Enabled",
        "nodeSelector": entry.get("nodeSelector") or "all()",
        "disabled": bool(entry.get("disableNewAllocations", False)),
        "disableBGPExport": bool(entry.get("disableBGPExport", False)),
        "allowedUses": entry.get("allowedUses") or ["Workload", "Tunnel"],
        "assignmentMode": entry.get("assignmentMode") or "Automatic",
    }
    name = entry.get("name") or _free_name(cidr, [pool["metadata"]["name"] for pool in before])
    head = {"apiVersion": IPPOOLS.api_version, "kind": IPPOOLS.kind}
    return {**head, "metadata": {"name": name, "labels": dict(MANAGED)}, "spec": spec}


def _free_name(cidr: Cidr, taken: list[str]) -> str:
    """Of a pool that was given none: the family's default, else made from its CIDR."""
    first = f"default-ipv{4 if cidr.width == 32 else 6}-ippool"
    return first if first not in taken else str(cidr).replace(".", "-").replace(":", "-").replace("/", "-")


# -- definitions --------------------------------------------------------------------------------------------------


def crds() -> list[Object]:
    """The CustomResourceDefinitions; a new object each time."""
    return [_crd("Installation", _installation()), *(_crd(kind, _anything()) for kind in SILENT)]


def _anything() -> Object:
    return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def _installation() -> Object:
    text, flag = {"type": "string"}, {"type": "boolean"}
    pool = {
        "type": "object",
        "required": ["cidr"],
        "properties": {
            "name": dict(text),
            "cidr": dict(text),
            "encapsulation": {"type": "string", "enum": list(_MODES)},
            "blockSize": {"type": "integer", "format": "int32"},
            "natOutgoing": {"type": "string", "enum": ["Enabled", "Disabled"]},
            "nodeSelector": dict(text),
            "disableBGPExport": dict(flag),
            "disableNewAllocations": dict(flag),
            "allowedUses": {
                "type": "array",
                "items": {"type": "string", "enum": ["Workload", "Tunnel", "LoadBalancer"]},
            },
            "assignmentMode": {"type": "string", "enum": ["Automatic", "Manual"]},
        },
    }
    pools = {"type": "array", "maxItems": 25, "items": {**pool, "x-kubernetes-preserve-unknown-fields": True}}
    network = {**_anything(), "properties": {"ipPools": pools}}
    return {**_anything(), "properties": {"calicoNetwork": network}}


def _crd(kind: str, spec: Object) -> Object:
    plural = f"{kind.lower()}s"
    properties = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
    schema = {"type": "object", "properties": {**properties, "spec": spec, "status": _anything()}}
    version = {
        "name": INSTALLATIONS.version,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": schema},
    }
    names = {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {"group": GROUP, "names": names, "scope": "Cluster", "versions": [version]},
    }


def changes(wanted: Object, there: Mapping[str, Any]) -> Iterator[str]:
    """The fields of a pool's spec in which what is there differs from what is wanted."""
    has = _mapping(there.get("spec"))
    defaults = {"disabled": False, "disableBGPExport": False, "natOutgoing": False, "nodeSelector": "all()"}
    defaults |= {"ipipMode": "Never", "vxlanMode": "Never", "assignmentMode": "Automatic"}
    defaults |= {"allowedUses": ["Workload", "Tunnel"]}
    for key, value in wanted["spec"].items():
        if has.get(key, defaults.get(key)) != value:
            yield key
