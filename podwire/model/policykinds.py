"""Every kind of policy, and what stands beside them, in one table: agent, commands and tests loop over it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from podwire.model import calicopolicy, clusterpolicy, gvr, networkpolicy, networkset
from podwire.model.gvr import GVR
from podwire.model.networkset import NetworkSet
from podwire.model.policy import Policy, PolicyKey, Tier
from podwire.model.written import Notes, PolicyError, Problem, Written

T = TypeVar("T", Policy, Tier, NetworkSet)


@dataclass(frozen=True, slots=True)
class PolicyKind(Generic[T]):
    """`record` is what a watch decodes to; `name` what `PolicyKey.kind` says."""

    gvr: GVR
    name: str
    reader: Callable[[Written, Notes], T]
    record: type[Written] = Written

    def convert(self, record: Written) -> T:
        """The value; its `problems` say what of it is not honoured. Raises PolicyError for what cannot be honoured at
        all."""
        return self.inspect(record)[0]

    def inspect(self, record: Written) -> tuple[T, tuple[Problem, ...]]:
        """The same, the problems as values. Raises PolicyError."""
        notes = Notes()
        try:
            return self.reader(record, notes), tuple(notes.problems)
        except RecursionError:
            raise PolicyError("spec", "it is nested too deeply") from None

    def key(self, namespace: str, name: str) -> PolicyKey:
        """The key of an object of which only the name is left (not in Calico's older layout: see `shown_name`)."""
        return PolicyKey(self.name, namespace if self.gvr.namespaced else "", name)


KINDS: tuple[PolicyKind[Policy], ...] = (
    PolicyKind(gvr.NETWORKPOLICIES, "NetworkPolicy", networkpolicy.policy),
    PolicyKind(gvr.CLUSTERNETWORKPOLICIES, "ClusterNetworkPolicy", clusterpolicy.cluster_network_policy),
    PolicyKind(gvr.ADMINNETWORKPOLICIES, "AdminNetworkPolicy", clusterpolicy.admin_network_policy),
    PolicyKind(
        gvr.BASELINEADMINNETWORKPOLICIES, "BaselineAdminNetworkPolicy", clusterpolicy.baseline_admin_network_policy
    ),
    PolicyKind(gvr.CALICONETWORKPOLICIES, calicopolicy.NETWORK_POLICY, calicopolicy.network_policy),
    PolicyKind(gvr.GLOBALNETWORKPOLICIES, "GlobalNetworkPolicy", calicopolicy.global_network_policy),
    PolicyKind(gvr.STAGEDNETWORKPOLICIES, "StagedNetworkPolicy", calicopolicy.staged_network_policy),
    PolicyKind(gvr.STAGEDGLOBALNETWORKPOLICIES, "StagedGlobalNetworkPolicy", calicopolicy.staged_global_network_policy),
    PolicyKind(
        gvr.STAGEDKUBERNETESNETWORKPOLICIES,
        "StagedKubernetesNetworkPolicy",
        calicopolicy.staged_kubernetes_network_policy,
    ),
)
TIER: PolicyKind[Tier] = PolicyKind(gvr.TIERS, "Tier", calicopolicy.tier)
SETS: tuple[PolicyKind[NetworkSet], ...] = (
    PolicyKind(gvr.NETWORKSETS, "NetworkSet", networkset.network_set),
    PolicyKind(gvr.GLOBALNETWORKSETS, "GlobalNetworkSet", networkset.network_set),
)
_ALL: tuple[PolicyKind[Any], ...] = (*KINDS, TIER, *SETS)
BY_API: Mapping[tuple[str, str], PolicyKind[Any]] = {(kind.gvr.api_version, kind.gvr.kind): kind for kind in _ALL}
"""By apiVersion and kind, as objects have them."""


def written(obj: Mapping[str, Any]) -> Written:
    """The record of an object as JSON has it. Raises PolicyError."""
    try:
        return msgspec.convert(obj, Written)
    except msgspec.ValidationError as error:
        text, _, place = str(error).partition(" - at `$")
        raise PolicyError(place.strip(".`"), text) from None
    except RecursionError:
        raise PolicyError("", "it is nested too deeply") from None
