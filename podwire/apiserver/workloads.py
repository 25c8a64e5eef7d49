"""WorkloadEndpoints: read off the Pods as they are committed, to be got, listed and watched but not written.

They live in a collection of their own that is never on disk: a change of a Pod that changes its endpoint becomes a
change there, with the Pod's revision, so that lists, watches and their resumption work as for any kind.
"""

from __future__ import annotations

from typing import Any

from podwire.apiserver.crds import schema_of
from podwire.apiserver.resources import Column, Resource
from podwire.apiserver.store import Change, Collection, Key, Store, Stored, encode
from podwire.model import workload
from podwire.model.gvr import PODS, WORKLOADENDPOINTS
from podwire.model.workload import workload_endpoint

Object = dict[str, Any]

_TEXT = {"type": "string"}
_NUMBER = {"type": "integer"}


def _object(properties: Object) -> Object:
    return {"type": "object", "properties": properties}


def _list(items: Object) -> Object:
    return {"type": "array", "items": items}


_SPEC = _object(
    {
        "orchestrator": _TEXT,
        "node": _TEXT,
        "pod": _TEXT,
        "endpoint": _TEXT,
        "containerID": _TEXT,
        "serviceAccountName": _TEXT,
        "interfaceName": _TEXT,
        "mac": _TEXT,
        "ipNetworks": _list(_TEXT),
        "ipNATs": _list(_object({"internalIP": _TEXT, "externalIP": _TEXT})),
        "profiles": _list(_TEXT),
        "ports": _list(
            _object({"name": _TEXT, "port": _NUMBER, "protocol": _TEXT, "hostPort": _NUMBER, "hostIP": _TEXT})
        ),
        "allowSpoofedSourcePrefixes": _list(_TEXT),
        "qosControls": _object({"ingressBandwidth": _NUMBER, "egressBandwidth": _NUMBER}),
    }
)
_SCHEMA = _object({"apiVersion": _TEXT, "kind": _TEXT, "metadata": {"type": "object"}, "spec": _SPEC})


def _row(obj: Object, now: float) -> list[Any]:
    return list(workload.row(obj).values())


RESOURCE = Resource(
    WORKLOADENDPOINTS,
    ("wep",),
    verbs=("get", "list", "watch"),
    columns=(
        Column("Name", format="name", description="Node, orchestrator, pod and interface.", priority=1),
        Column("Workload", description="The pod."),
        Column("Node", description="The node that the pod runs on."),
        Column("Networks", description="The pod's addresses."),
        Column("Interface", description="The host's end of the pod's veth pair."),
        Column("Profiles", description="Whose rules and labels it inherits.", priority=1),
        Column("NATs", description="Floating addresses, and what they lead to.", priority=1),
    ),
    row=_row,
    fields=("spec.node", "spec.pod"),
    custom=schema_of({"schema": {"openAPIV3Schema": _SCHEMA}}),
    is_custom=True,
    read_only="workload endpoints are read off the Pods; create, change or delete the Pod",
)


def follow(store: Store) -> None:
    """Fill the collection from the stored Pods, and keep it so. Call once, before the first write."""
    endpoints = store.collection(RESOURCE.storage)
    found = {}
    for pod in store.collection(PODS.plural).objects.values():
        if endpoint := _endpoint(pod):
            found[_key(endpoint)] = endpoint
    for key in sorted(found):
        endpoints.load(key, found[key])

    def changed(collection: str, change: Change) -> None:
        if collection == PODS.plural:
            _carry_over(endpoints, change)

    store.listen(changed)


def _carry_over(endpoints: Collection, change: Change) -> None:
    """What a Pod's change means for its endpoint; its name has the node in it, which a Pod changes at most once."""
    old, new = (_endpoint(pod) if pod else None for pod in (change.old, change.new))
    if old and (new is None or _key(new) != _key(old)):
        endpoints.commit(_key(old), None, change.revision)
    elif new is None or (old and _same(old.object, new.object)):
        return
    if new:
        endpoints.commit(_key(new), new, change.revision)
    endpoints.wake()


def _endpoint(pod: Stored) -> Stored | None:
    found = workload_endpoint(pod.object)
    return Stored(found, encode(found), pod.revision) if found else None


def _key(endpoint: Stored) -> Key:
    metadata = endpoint.object["metadata"]
    return metadata["namespace"], metadata["name"]


def _same(old: Object, new: Object) -> bool:
    """Equal but for the revision."""
    metadata = {**old["metadata"], "resourceVersion": new["metadata"].get("resourceVersion")}
    return bool(old["spec"] == new["spec"] and metadata == new["metadata"])
