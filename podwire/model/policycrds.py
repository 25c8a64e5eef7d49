"""The custom resources of policies, declared; `deploy/crds/` holds the same as text.

Types come from the records that decode them; limits, defaults and CEL rules are those of upstream's definitions
(projectcalico.org/v3, policy.networking.k8s.io v1alpha2 and v1alpha1).
"""

from __future__ import annotations

from typing import Any

import msgspec

from podwire.model import (
    calicopolicy,
    calicorule,
    clusterpolicy,
    gvr,
    kubernetesselector,
    networkpolicy,
    networkset,
    policy,
)
from podwire.model.crdschema import Definition, More, Schema, Table, crd, listed, rule, schema, words

_TEXT = {"maxLength": calicorule.LONGEST}
_FORBIDDEN = "FieldValueForbidden"
_NO_GLOBAL = "global() may stand in the namespaceSelector of a rule only"
_NO_SERVICE = "may not stand beside services"
_PORT: Schema = {"minimum": 1, "maximum": 65_535, "format": "int32"}


def _no_global(*names: str) -> tuple[Schema, ...]:
    return tuple(rule(f"!has(self.{name}) || !self.{name}.contains('global(')", _NO_GLOBAL) for name in names)


def _empty(*names: str) -> str:
    return " && ".join(f"(!has(self.{name}) || size(self.{name}) == 0)" for name in names)


def _beside_services(*names: str) -> Schema:
    return rule(f"!has(self.services) || ({_empty(*names)})", f"{' and '.join(names)} {_NO_SERVICE}", _FORBIDDEN)


def _version(name: str, number: int, protocol: str, version: int) -> Schema:
    """A protocol that one IP version has."""
    other = f"(self.{name} != '{protocol}' && self.{name} != {number})"
    cel = f"!has(self.{name}) || {other} || !has(self.ipVersion) || self.ipVersion == {version}"
    return rule(cel, f"{protocol} goes with ipVersion {version}")


_ICMP = More(
    rules=(rule("!has(self.code) || has(self.type)", "an ICMP code needs a type"),),
    fields={"type": {"minimum": 0, "maximum": 254}, "code": {"minimum": 0, "maximum": 255}},
)
_NAMES = {"name": {"maxLength": 253}, "namespace": {"maxLength": 253}}
_RULE_RULES = (
    rule(
        "!has(self.http) || !has(self.protocol) || self.protocol == 'TCP' || self.protocol == 6",
        "http needs the protocol TCP, or none",
    ),
    rule("self.action == 'Allow' || !has(self.http)", "http may stand in Allow rules only", _FORBIDDEN),
    rule(
        "!has(self.destination) || !has(self.destination.services)"
        " || ((!has(self.destination.ports) || size(self.destination.ports) == 0)"
        " && (!has(self.destination.notPorts) || size(self.destination.notPorts) == 0))",
        f"ports and notPorts {_NO_SERVICE}",
        _FORBIDDEN,
    ),
    rule(
        "!has(self.icmp) || (has(self.protocol) && (self.protocol == 'ICMP' || self.protocol == 'ICMPv6'"
        " || self.protocol == 1 || self.protocol == 58))",
        "icmp needs the protocol ICMP or ICMPv6",
    ),
    *(
        _version(name, number, protocol, version)
        for name in ("protocol", "notProtocol")
        for number, protocol, version in ((1, "ICMP", 4), (58, "ICMPv6", 6))
    ),
)
_CALICO_RULES = {"ingress": listed(maxItems=1_024), "egress": listed(maxItems=1_024)}
_SELECTOR = More(fields={"matchExpressions": listed()}, rest={"x-kubernetes-map-type": "atomic"})
_POLICY = {
    **_CALICO_RULES,
    "tier": {"default": calicopolicy.DEFAULT_TIER},
    "selector": _TEXT,
    "serviceAccountSelector": _TEXT,
    "types": listed("set", maxItems=2, minItems=1, **{"items.enum": ["Ingress", "Egress"]}),
    "performanceHints": listed("set", **{"items.enum": ["AssumeNeededOnEveryNode"]}),
}
_GLOBAL_POLICY = {**_POLICY, "namespaceSelector": _TEXT}
_SELECTS = _no_global("selector", "serviceAccountSelector")
_HOSTS = (
    *_SELECTS,
    *_no_global("namespaceSelector"),
    rule(
        "!(has(self.doNotTrack) && self.doNotTrack && has(self.preDNAT) && self.preDNAT)",
        "preDNAT may not stand beside doNotTrack",
    ),
    *(
        rule(
            f"!has(self.{name}) || !self.{name} || (has(self.applyOnForward) && self.applyOnForward)",
            f"applyOnForward must be true with {name}",
        )
        for name in ("doNotTrack", "preDNAT")
    ),
    rule(
        f"!has(self.preDNAT) || !self.preDNAT || {_empty('egress')}",
        "a preDNAT policy has no egress rules",
    ),
    rule(
        "!has(self.preDNAT) || !self.preDNAT || !has(self.types) || !('Egress' in self.types)",
        "a preDNAT policy has no Egress type",
    ),
)
_STAGED = {"stagedAction": words(*calicopolicy.STAGED)}

_CALICO: Table = {
    calicorule.EntityRule: More(
        rules=(
            *_no_global("selector"),
            *(_beside_services(name) for name in ("selector", "notSelector", "namespaceSelector")),
            _beside_services("nets", "notNets"),
            rule("!has(self.services) || !has(self.serviceAccounts)", f"serviceAccounts {_NO_SERVICE}", _FORBIDDEN),
            rule(
                "!has(self.services) || (has(self.services.name) && size(self.services.name) > 0)",
                "services needs a name",
                "FieldValueRequired",
            ),
        ),
        fields={
            "nets": listed("set", maxItems=256),
            "notNets": listed("set", maxItems=256),
            "selector": _TEXT,
            "notSelector": _TEXT,
            "namespaceSelector": _TEXT,
            "ports": listed(maxItems=50),
            "notPorts": listed(maxItems=50),
        },
    ),
    calicorule.ServiceAccounts: More(fields={"names": listed("set")}),
    calicorule.Service: More(fields=_NAMES),
    calicorule.IcmpMatch: _ICMP,
    calicorule.HTTPMatch: More(fields={"methods": listed(maxItems=20), "paths": listed(maxItems=20)}),
    calicorule.HTTPPath: More(fields={"exact": _TEXT, "prefix": _TEXT}),
    calicorule.CalicoRule: More(
        ("action",), _RULE_RULES, {"action": words("Allow", "Deny", "Log", "Pass"), "ipVersion": {"enum": [4, 6]}}
    ),
    calicopolicy.Spec: More(rules=_SELECTS, fields=_POLICY),
    calicopolicy.GlobalSpec: More(rules=_HOSTS, fields=_GLOBAL_POLICY),
    calicopolicy.StagedSpec: More(rules=_SELECTS, fields={**_POLICY, **_STAGED}),
    calicopolicy.StagedGlobalSpec: More(rules=_HOSTS, fields={**_GLOBAL_POLICY, **_STAGED}),
    calicopolicy.TierSpec: More(
        fields={
            "order": {"default": int(calicopolicy.TIER_ORDER)},
            "defaultAction": words("Deny", "Pass", default="Deny"),
        }
    ),
    calicopolicy.ProfileSpec: More(fields=_CALICO_RULES),
    networkset.NetworkSetSpec: More(
        fields={
            "nets": listed(
                "set",
                maxItems=100_000,
                **{
                    "items.maxLength": 43,
                    "x-kubernetes-validations": [
                        rule("self.all(n, isCIDR(n) || isIP(n))", "must be IP addresses or CIDRs")
                    ],
                },
            )
        }
    ),
    kubernetesselector.LabelSelector: _SELECTOR,
    kubernetesselector.Requirement: More(("key", "operator"), fields={"values": listed()}),
    networkpolicy.IPBlock: More(("cidr",), fields={"except": listed()}),
    networkpolicy.PolicyPort: More(fields={"endPort": {"format": "int32"}}),
    networkpolicy.IngressRule: More(fields={"from": listed(), "ports": listed()}),
    networkpolicy.EgressRule: More(fields={"to": listed(), "ports": listed()}),
    networkpolicy.StagedSpec: More(
        fields={
            **_STAGED,
            "policyTypes": listed("set", maxItems=2, minItems=1),
        }
    ),
}


def _one_of(**fields: Schema) -> More:
    """A record of which exactly one field is given."""
    return More(fields=fields, rest={"minProperties": 1, "maxProperties": 1})


def _cluster(most: int, ports: str) -> dict[str, Any]:
    """Lists of a rule and what they may have at most."""
    return {"name": {"maxLength": 100}, ports: listed(minItems=1, maxItems=most)}


def _named(peers: str, ports: str, name: str) -> Schema:
    return rule(
        f"!(self.{peers}.exists(peer, has(peer.networks) || has(peer.nodes) || has(peer.domainNames))"
        f" && has(self.{ports}) && self.{ports}.exists(port, has(port.{name})))",
        "networks, nodes and domainNames have no named ports",
    )


_ENDS = rule("self.start < self.end", "start must be less than end")
_OUT = {"networks", "nodes", "domainNames"}
_PEER = _one_of(
    networks=listed(
        "set",
        minItems=1,
        maxItems=25,
        **{
            "items.maxLength": 43,
            "items.x-kubernetes-validations": [rule("isCIDR(self)", "must be a CIDR")],
        },
    ),
    domainNames=listed(
        "set",
        minItems=1,
        maxItems=25,
        **{
            "items.pattern": r"^(\*\.)?([a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.)+"
            r"[a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.?$"
        },
    ),
)
_ACTIONS, _OLD_ACTIONS = ("Accept", "Deny", "Pass"), ("Allow", "Deny", "Pass")
_CLUSTER: Table = {
    kubernetesselector.LabelSelector: _SELECTOR,
    kubernetesselector.Requirement: More(("key", "operator"), fields={"values": listed()}),
    clusterpolicy.Subject: _one_of(),
    clusterpolicy.Pods: More(("podSelector",)),
    clusterpolicy.Range: More(("start", "end"), (_ENDS,), {"start": _PORT, "end": _PORT}),
    clusterpolicy.DestinationPort: _one_of(number=_PORT),
    clusterpolicy.Ported: More(rest={"minProperties": 1}),
    clusterpolicy.Protocol: _one_of(),
    clusterpolicy.Peer: _PEER,
    clusterpolicy.IngressRule: More(
        ("action", "from"),
        fields={"action": words(*_ACTIONS), "from": listed(minItems=1, maxItems=25), **_cluster(25, "protocols")},
    ),
    clusterpolicy.EgressRule: More(
        ("action", "to"),
        (_named("to", "protocols", "destinationNamedPort"),),
        {"action": words(*_ACTIONS), "to": listed(minItems=1, maxItems=25), **_cluster(25, "protocols")},
    ),
    clusterpolicy.ClusterNetworkPolicySpec: More(
        ("tier", "priority", "subject"),
        fields={
            "tier": words("Admin", "Baseline"),
            "priority": {"minimum": 0, "maximum": clusterpolicy.LAST_PRIORITY, "format": "int32"},
            "ingress": listed(maxItems=25),
            "egress": listed(maxItems=25),
        },
    ),
}


def _old(actions: tuple[str, ...]) -> Table:
    """Of v1alpha1."""
    return {
        **_CLUSTER,
        clusterpolicy.PortNumber: More(("port", "protocol"), fields={"port": _PORT, "protocol": {"default": "TCP"}}),
        clusterpolicy.NumberedRange: More(
            ("start", "end"), (_ENDS,), {"start": _PORT, "end": _PORT, "protocol": {"default": "TCP"}}
        ),
        clusterpolicy.OldPort: _one_of(),
        clusterpolicy.OldIngressRule: More(
            ("action", "from"),
            fields={"action": words(*actions), "from": listed(minItems=1, maxItems=100), **_cluster(100, "ports")},
        ),
        clusterpolicy.OldEgressRule: More(
            ("action", "to"),
            (_named("to", "ports", "namedPort"),),
            {"action": words(*actions), "to": listed(minItems=1, maxItems=100), **_cluster(100, "ports")},
        ),
        clusterpolicy.AdminNetworkPolicySpec: More(
            ("priority", "subject"),
            fields={
                "priority": {"minimum": 0, "maximum": clusterpolicy.LAST_PRIORITY, "format": "int32"},
                "ingress": listed(maxItems=100),
                "egress": listed(maxItems=100),
            },
        ),
        clusterpolicy.BaselineAdminNetworkPolicySpec: More(
            ("subject",), fields={"ingress": listed(maxItems=100), "egress": listed(maxItems=100)}
        ),
    }


def _cluster_schema(kind: type[msgspec.Struct], table: Table) -> Schema:
    """Without the peers that only egress rules have."""
    made = schema(kind, table)
    peers = made["properties"]["ingress"]["items"]["properties"]["from"]["items"]
    peers["properties"] = {name: each for name, each in peers["properties"].items() if name not in _OUT}
    return made


_CONDITION: Schema = {
    "type": "object",
    "required": ["lastTransitionTime", "message", "reason", "status", "type"],
    "properties": {
        "type": {"type": "string", "maxLength": 316},
        "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
        "reason": {"type": "string", "minLength": 1, "maxLength": 1_024},
        "message": {"type": "string", "maxLength": 32_768},
        "lastTransitionTime": {"type": "string", "format": "date-time"},
        "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
    },
}
_CONDITIONS: Schema = {
    "type": "object",
    "properties": {
        "conditions": {
            "type": "array",
            "items": _CONDITION,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        }
    },
}
_TIER_COLUMN, _ORDER_COLUMN = ("Tier", "string", ".spec.tier"), ("Order", "number", ".spec.order")
_PRIORITY_COLUMN = ("Priority", "integer", ".spec.priority")
_APPROVED = {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/network-policy-api/pull/347"}
_APPROVED_OLD = {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/network-policy-api/pull/30"}
_PINNED = tuple(
    rule(
        f"self.metadata.name != '{name}' || (self.spec.order == {order}.0 && self.spec.defaultAction == '{action}')",
        f"tier {name} has order {order} and defaultAction {action}",
    )
    for name, order, action in (
        ("kube-admin", 1_000, "Pass"),
        ("default", 1_000_000, "Deny"),
        ("kube-baseline", 10_000_000, "Pass"),
    )
)
_ONE = (rule("self.metadata.name == 'default'", "there is one BaselineAdminNetworkPolicy, and its name is default"),)


def _calico(of: gvr.GVR, spec: type[msgspec.Struct], *short: str) -> Definition:
    columns = (_TIER_COLUMN, _ORDER_COLUMN)
    return Definition(of, schema(spec, _CALICO), short, columns, selectable=(".spec.tier",))


def definitions() -> list[Definition]:
    """Of every kind, a new one each time."""
    admin, baseline = _old(_OLD_ACTIONS), _old(_OLD_ACTIONS[:2])
    return [
        Definition(
            gvr.CLUSTERNETWORKPOLICIES,
            _cluster_schema(clusterpolicy.ClusterNetworkPolicySpec, _CLUSTER),
            ("cnp",),
            (_TIER_COLUMN, _PRIORITY_COLUMN),
            _CONDITIONS,
            annotations=_APPROVED,
        ),
        Definition(
            gvr.ADMINNETWORKPOLICIES,
            _cluster_schema(clusterpolicy.AdminNetworkPolicySpec, admin),
            ("anp",),
            (_PRIORITY_COLUMN,),
            _CONDITIONS,
            annotations=_APPROVED_OLD,
        ),
        Definition(
            gvr.BASELINEADMINNETWORKPOLICIES,
            _cluster_schema(clusterpolicy.BaselineAdminNetworkPolicySpec, baseline),
            ("banp",),
            (),
            _CONDITIONS,
            _ONE,
            annotations=_APPROVED_OLD,
        ),
        _calico(gvr.CALICONETWORKPOLICIES, calicopolicy.Spec, "np", "caliconetworkpolicy"),
        _calico(gvr.GLOBALNETWORKPOLICIES, calicopolicy.GlobalSpec, "gnp"),
        _calico(gvr.STAGEDNETWORKPOLICIES, calicopolicy.StagedSpec, "snp"),
        _calico(gvr.STAGEDGLOBALNETWORKPOLICIES, calicopolicy.StagedGlobalSpec, "sgnp"),
        Definition(gvr.STAGEDKUBERNETESNETWORKPOLICIES, schema(networkpolicy.StagedSpec, _CALICO), ("sknp",)),
        Definition(
            gvr.TIERS,
            schema(calicopolicy.TierSpec, _CALICO),
            (),
            (_ORDER_COLUMN, ("DefaultAction", "string", ".spec.defaultAction")),
            _CONDITIONS,
            _PINNED,
        ),
        Definition(gvr.NETWORKSETS, schema(networkset.NetworkSetSpec, _CALICO), ("netsets",)),
        Definition(gvr.GLOBALNETWORKSETS, schema(networkset.NetworkSetSpec, _CALICO), ("gnetsets",)),
        Definition(gvr.PROFILES, schema(calicopolicy.ProfileSpec, _CALICO), ("pro",), required=("metadata",)),
    ]


def crds() -> list[Schema]:
    """Every CustomResourceDefinition of policies; a new object each time."""
    return [crd(each) for each in definitions()]


def first_tiers() -> list[Schema]:
    """The tiers that a cluster has from the start, as objects."""
    head = {"apiVersion": gvr.TIERS.api_version, "kind": gvr.TIERS.kind}
    return [
        {
            **head,
            "metadata": {"name": tier.name},
            "spec": {"order": int(tier.order), "defaultAction": tier.default.value},
        }
        for tier in policy.TIERS
    ]
