"""A whole cluster's policy state, every pod as if it were of this node: for questions that no single agent can answer.

Two pods of one class and one pair of tables may do the same; so what a whole cluster allows is said class by class.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from podwire.calc.policy import PolicyCalc
from podwire.calc.verdicts import PolicyState
from podwire.model.endpointslice import EndpointSlice
from podwire.model.member import Namespace, ServiceAccount
from podwire.model.meta import Meta
from podwire.model.node import Node
from podwire.model.pod import Pod
from podwire.model.policy import Policy, Tier
from podwire.model.policykinds import BY_API, written
from podwire.model.written import PolicyError

_RECORDS: Mapping[str, type[msgspec.Struct]] = {
    "Pod": Pod,
    "Namespace": Namespace,
    "ServiceAccount": ServiceAccount,
    "Node": Node,
    "EndpointSlice": EndpointSlice,
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """`problems` are of objects that could not be read and are left out: (what, why)."""

    state: PolicyState
    problems: tuple[tuple[str, str], ...] = ()

    @staticmethod
    def of(objects: Iterable[Mapping[str, Any]]) -> Cluster:
        """Objects as an API server or a file gives them; other kinds are skipped. Namespaces that pods live in and
        nobody gave have no labels but their name."""
        calc, problems = PolicyCalc(), list[tuple[str, str]]()
        spaces, given = set[str](), set[str]()
        for obj in objects:
            try:
                value = _read(obj)
            except (PolicyError, msgspec.ValidationError) as error:
                problems.append((_title(obj), str(error)))
                continue
            if isinstance(value, Pod):
                spaces.add(value.metadata.namespace)
            elif isinstance(value, Namespace):
                given.add(value.metadata.name)
            _tell(calc, value, _title(obj))
        for name in spaces - given:
            calc.on_namespace(name, Namespace(Meta(name)))
        calc.flush()
        return Cluster(calc.state, tuple(problems))


def _read(obj: Mapping[str, Any]) -> Any:
    """The value of an object, None for kinds that say nothing about policy."""
    kind = BY_API.get((str(obj.get("apiVersion")), str(obj.get("kind"))))
    if kind is not None:
        return kind.convert(written(obj))
    record = _RECORDS.get(str(obj.get("kind")))
    return None if record is None else msgspec.convert(obj, record)


def _tell(calc: PolicyCalc, value: Any, title: str) -> None:
    match value:
        case Pod():
            calc.on_pod(value.key, value)
            calc.on_local(value.key, True)
        case Namespace():
            calc.on_namespace(value.metadata.name, value)
        case ServiceAccount():
            calc.on_service_account((value.metadata.namespace, value.metadata.name), value)
        case Node():
            calc.on_node(value.name, value)
        case EndpointSlice():
            calc.on_slice(value.key, value)
        case Policy():
            calc.on_policy(value.key, value)
        case Tier():
            calc.on_tier(value.name, value)
        case None:
            pass
        case found:
            calc.on_network_set(title, found)


def _title(obj: Mapping[str, Any]) -> str:
    meta = obj.get("metadata")
    meta = meta if isinstance(meta, Mapping) else {}
    place = "/".join(str(part) for part in (meta.get("namespace"), meta.get("name")) if part)
    return f"{obj.get('kind')} {place}"
