"""A scene as classes and verdict tables, every pod taken for one of this node. Pure."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from podwire.calc.policy import PolicyCalc
from podwire.calc.verdicts import PolicyState
from podwire.model.api import Object
from podwire.model.endpointslice import EndpointSlice
from podwire.model.member import Namespace, ServiceAccount
from podwire.model.meta import Meta
from podwire.model.networkset import NetworkSet
from podwire.model.node import Node
from podwire.model.pod import Pod
from podwire.model.policy import Policy, Tier
from podwire.model.policykinds import BY_API, written
from podwire.model.written import PolicyError
from podwire.observe.policyscene import OF_THE_CLUSTER, Scene

T = TypeVar("T")


def compiled(scene: Scene) -> PolicyState:
    """What cannot be read is left out: `policylint` says so."""
    calc = PolicyCalc()
    for name, space in scene.spaces.items():
        calc.on_namespace(name, Namespace(Meta(name=name, labels=dict(space.labels))))
    for one in scene.objects:
        kind = one["kind"]
        if (one["apiVersion"], kind) in BY_API:
            _policy(calc, one)
        elif kind == "Pod" and (pod := _record(one, Pod)):
            calc.on_pod(pod.key, pod)
            calc.on_local(pod.key, True if pod.governed else None)
        elif kind == "ServiceAccount" and (account := _record(one, ServiceAccount)):
            calc.on_service_account((account.metadata.namespace, account.metadata.name), account)
        elif kind == "Node" and (node := _record(one, Node)):
            calc.on_node(node.name, node)
        elif kind == "EndpointSlice" and (found := _record(one, EndpointSlice)):
            calc.on_slice(found.key, found)
    calc.flush()
    return calc.state


def _policy(calc: PolicyCalc, obj: Object) -> None:
    kind = BY_API[obj["apiVersion"], obj["kind"]]
    try:
        value: Any = kind.convert(written(settled(obj)))
    except PolicyError:
        return
    match value:
        case Policy():
            calc.on_policy(value.key, value)
        case Tier():
            calc.on_tier(value.name, value)
        case NetworkSet():
            calc.on_network_set((value.namespace, value.name), value)


def settled(obj: Object) -> Object:
    """In the namespace where kubectl would put it, and with texts for labels."""
    metadata = obj["metadata"]
    if obj["kind"] not in OF_THE_CLUSTER and not metadata.get("namespace"):
        metadata = {**metadata, "namespace": "default"}
    labels = {str(key): str(value) for key, value in (metadata.get("labels") or {}).items()}
    kept = {key: value for key, value in metadata.items() if value is not None}
    return {**obj, "metadata": {**kept, "labels": labels}}


def _record(obj: Object, kind: type[T]) -> T | None:
    try:
        return msgspec.convert(settled(obj), kind)
    except msgspec.ValidationError:
        return None
