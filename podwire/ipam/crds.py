"""The custom resources that IPAM keeps its state in, declared; `deploy/crds/` holds the same as text.

Source: projectcalico.org/v3 (fields, defaults and limits of upstream's native CRDs).
"""

from __future__ import annotations

from typing import Any

from podwire.model.gvr import BLOCKAFFINITIES, GVR, IPAMBLOCKS, IPAMCONFIGS, IPAMHANDLES, IPPOOLS, IPRESERVATIONS

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}
INTEGER: Schema = {"type": "integer"}


def _object(properties: dict[str, Schema], *required: str) -> Schema:
    schema: Schema = {"type": "object", "properties": properties}
    return {**schema, "required": list(required)} if required else schema


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _map(values: Schema) -> Schema:
    return {"type": "object", "additionalProperties": values}


def _enum(*values: str, default: str | None = None) -> Schema:
    schema: Schema = {"type": "string", "enum": list(values)}
    return schema if default is None else {**schema, "default": default}


def _immutable(schema: Schema, name: str) -> Schema:
    rule = {"rule": "self == oldSelf", "message": f"{name} is immutable", "reason": "FieldValueInvalid"}
    return {**schema, "x-kubernetes-validations": [rule]}


_MODE = ("Never", "Always", "CrossSubnet")

_POOL = _object(
    {
        "cidr": _immutable({"type": "string", "format": "cidr"}, "cidr"),
        "blockSize": {"type": "integer", "minimum": 0, "maximum": 128},
        "vxlanMode": _enum(*_MODE),
        "ipipMode": _enum(*_MODE),
        "natOutgoing": BOOLEAN,
        "disabled": BOOLEAN,
        "disableBGPExport": BOOLEAN,
        "nodeSelector": STRING,
        "namespaceSelector": STRING,
        "allowedUses": {**_list(_enum("Workload", "Tunnel", "LoadBalancer")), "maxItems": 10},
        "assignmentMode": _enum("Automatic", "Manual"),
    },
    "cidr",
)
_POOL_STATUS = _object(
    {
        "conditions": _list(
            _object(
                {
                    "type": STRING,
                    "status": _enum("True", "False", "Unknown"),
                    "reason": STRING,
                    "message": STRING,
                    "lastTransitionTime": {"type": "string", "format": "date-time"},
                    "observedGeneration": INTEGER,
                },
                "type",
                "status",
            )
        )
    }
)

_BLOCK = _object(
    {
        "cidr": STRING,
        "affinity": STRING,
        "affinityClaimTime": {"type": "string", "format": "date-time"},
        "allocations": _list({"type": "integer", "nullable": True}),
        "unallocated": _list(INTEGER),
        "attributes": _list(
            _object(
                {
                    "handle_id": STRING,
                    "secondary": _map(STRING),
                    "alternateOwnerAttrs": _map(STRING),
                    "releasedAt": {"type": "string", "format": "date-time"},
                }
            )
        ),
        "sequenceNumber": {"type": "integer", "format": "int64", "default": 0},
        "sequenceNumberForAllocation": _map({"type": "integer", "format": "int64"}),
        "deleted": BOOLEAN,
        "strictAffinity": BOOLEAN,
    },
    "allocations",
    "attributes",
    "cidr",
    "strictAffinity",
    "unallocated",
)

_AFFINITY = _object(
    {
        "cidr": STRING,
        "node": STRING,
        "state": _enum("", "pending", "confirmed", "pendingDeletion"),
        "type": STRING,
        "deleted": BOOLEAN,
    },
    "cidr",
    "node",
    "state",
)

_HANDLE = _object({"handleID": STRING, "block": _map(INTEGER), "deleted": BOOLEAN}, "block", "handleID")

_CONFIG = _object(
    {
        "strictAffinity": {"type": "boolean", "default": False},
        "autoAllocateBlocks": {"type": "boolean", "default": True},
        "maxBlocksPerHost": {"type": "integer", "format": "int32", "minimum": 0, "default": 0},
        "ipCooldownSeconds": {"type": "integer", "minimum": 0, "maximum": 1200},
        "kubeVirtVMAddressPersistence": _enum("Enabled", "Disabled"),
    }
)

_RESERVATION = _object({"reservedCIDRs": _list({"type": "string", "format": "cidr"})})


def _column(name: str, path: str, kind: str = "string") -> Schema:
    return {"name": name, "type": kind, "jsonPath": path}


def _crd(gvr: GVR, spec: Schema, *, status: Schema | None = None, columns: list[Schema] | None = None) -> Schema:
    properties: dict[str, Schema] = {"apiVersion": STRING, "kind": STRING, "metadata": {"type": "object"}, "spec": spec}
    version: Schema = {"name": gvr.version, "served": True, "storage": True}
    if status is not None:
        properties["status"] = status
        version["subresources"] = {"status": {}}
    version["schema"] = {"openAPIV3Schema": _object(properties)}
    if columns:
        version["additionalPrinterColumns"] = columns
    singular = gvr.kind.lower()
    names = {"kind": gvr.kind, "listKind": f"{gvr.kind}List", "plural": gvr.plural, "singular": singular}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{gvr.plural}.{gvr.group}"},
        "spec": {"group": gvr.group, "names": names, "scope": "Cluster", "versions": [version]},
    }


def crds() -> list[Schema]:
    """Every CustomResourceDefinition that IPAM needs; a new object each time."""
    cidr, node = _column("CIDR", ".spec.cidr"), _column("Node", ".spec.node")
    age = _column("Age", ".metadata.creationTimestamp", "date")
    pool_columns = [
        cidr,
        _column("VXLAN", ".spec.vxlanMode"),
        _column("NAT", ".spec.natOutgoing", "boolean"),
        _column("Disabled", ".spec.disabled", "boolean"),
        age,
    ]
    return [
        _crd(IPPOOLS, _POOL, status=_POOL_STATUS, columns=pool_columns),
        _crd(IPAMBLOCKS, _BLOCK, columns=[cidr, _column("Affinity", ".spec.affinity"), age]),
        _crd(BLOCKAFFINITIES, _AFFINITY, columns=[cidr, node, _column("State", ".spec.state")]),
        _crd(IPAMHANDLES, _HANDLE),
        _crd(IPAMCONFIGS, _CONFIG),
        _crd(IPRESERVATIONS, _RESERVATION),
    ]


def default_pool(cidr: str, *, block_size: int = 26, vxlan: str = "Always", nat: bool = True) -> Schema:
    """The IPPool that a cluster starts with, under upstream's name."""
    spec = {
        "cidr": cidr,
        "blockSize": block_size,
        "vxlanMode": vxlan,
        "ipipMode": "Never",
        "natOutgoing": nat,
        "nodeSelector": "all()",
        "allowedUses": ["Workload", "Tunnel"],
        "assignmentMode": "Automatic",
    }
    head = {"apiVersion": IPPOOLS.api_version, "kind": IPPOOLS.kind}
    return {**head, "metadata": {"name": "default-ipv4-ippool"}, "spec": spec}
