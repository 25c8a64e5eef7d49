"""What RBAC cannot say: a node's agent writes only what concerns its node. Pure.

A ValidatingAdmissionPolicy asks who writes: the service account's token names the node its pod runs on (claim
`authentication.kubernetes.io/node-name`), a host service's client certificate names it in its user. An identity that
names no node may write nothing at all. Handles name no node, so they are confined only where their name does (those of
tunnels): what a handle says is checked against the blocks by everyone who reads it.

Of a block, every agent may change the part that is its own: a node may borrow from another's block. So the policy
compares who holds each address before and after, with the writer's own and the free ones left out.

Source: Kubernetes, ValidatingAdmissionPolicy (admissionregistration.k8s.io/v1), service account token node claims.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from podwire.install.options import AGENT, NODE_USER, Options
from podwire.ipam.layout import stored_gvr
from podwire.model.gvr import BLOCKAFFINITIES, EVENTS, GVR, IPAMBLOCKS, IPAMHANDLES, NODES, PODS

Object = dict[str, Any]

POLICY = "podwire-agent-own-node"
CLAIM = "authentication.kubernetes.io/node-name"


@dataclass(frozen=True, slots=True)
class Confinement:
    """What must hold when an agent writes a kind, or the subresource `part` of it; `says` is the refusal's text."""

    kind: GVR
    expression: str
    says: str
    part: str = ""


def _who(where: str) -> str:
    """The node that holds an address of a block; '' where its record names none."""
    attribute = f"{where}.spec.attributes[holder]"
    return f"(has({attribute}.secondary) && 'node' in {attribute}.secondary ? {attribute}.secondary.node : '')"


def _others(where: str) -> str:
    """Who holds each address of a block: '' where it is free or the writer's own. In a block that is the writer's (or
    is just given up by it), an address whose record names no node is its own, too."""
    attribute = f"{where}.spec.attributes[holder]"
    own = f"{_who(where)} == variables.me || ({_who(where)} == '' && variables.own)"
    handle = f"(has({attribute}.handle_id) ? {attribute}.handle_id : '-')"
    return f"{where}.spec.allocations.map(holder, holder == null || {own} ? '' : {handle} + ' of ' + {_who(where)})"


def _same(where: str, *names: str) -> str:
    """Fields that are there or not, and not changed."""
    pairs = [(f"object.{where}.{name}", f"oldObject.{where}.{name}") for name in names]
    return " && ".join(f"has({new}) == has({old}) && (!has({new}) || {new} == {old})" for new, old in pairs)


def _conditions(where: str) -> str:
    """Those of a Node that are not the network's to say."""
    told = f"{where}.status.conditions"
    return f"(has({told}) ? {told}.filter(one, one.type != 'NetworkUnavailable') : [])"


VARIABLES = {
    "me": f"request.userInfo.username.startsWith('{NODE_USER}')"
    f" ? request.userInfo.username.substring({len(NODE_USER)})"
    f" : (has(request.userInfo.extra) && '{CLAIM}' in request.userInfo.extra"
    f" ? request.userInfo.extra['{CLAIM}'][0] : '')",
    "part": "has(request.subResource) ? request.subResource : ''",
    "mine": "'host:' + variables.me",
    "made": "request.operation == 'CREATE'",
    "removed": "request.operation == 'DELETE'",
    "name": "variables.removed ? oldObject.metadata.name : object.metadata.name",
    "notes": "has(object.metadata.annotations) ? object.metadata.annotations : {}",
    "oldNotes": "has(oldObject.metadata.annotations) ? oldObject.metadata.annotations : {}",
    "labels": "has(object.metadata.labels) ? object.metadata.labels : {}",
    "oldLabels": "has(oldObject.metadata.labels) ? oldObject.metadata.labels : {}",
    "affinity": "!variables.removed && has(object.spec.affinity) ? object.spec.affinity : ''",
    "oldAffinity": "!variables.made && has(oldObject.spec.affinity) ? oldObject.spec.affinity : ''",
    "own": "variables.affinity == variables.mine || variables.oldAffinity == variables.mine",
    "others": f"variables.removed ? [] : {_others('object')}",
    "oldOthers": f"variables.made ? [] : {_others('oldObject')}",
}
"""Names for parts of the question; each is looked at only where an expression uses it."""

CONFINEMENTS = (
    Confinement(NODES, "variables.name == variables.me", "an agent changes no other Node than its own"),
    Confinement(
        NODES,
        "object.spec == oldObject.spec && variables.labels == variables.oldLabels"
        " && variables.notes.all(key, key.startsWith('projectcalico.org/')"
        " || (key in variables.oldNotes && variables.oldNotes[key] == variables.notes[key]))"
        " && variables.oldNotes.all(key, key.startsWith('projectcalico.org/') || key in variables.notes)",
        "of its Node an agent changes nothing but annotations projectcalico.org/*",
    ),
    Confinement(NODES, "variables.name == variables.me", "an agent changes no other Node than its own", "status"),
    Confinement(
        NODES,
        f"{_conditions('object')} == {_conditions('oldObject')}"
        " && variables.labels == variables.oldLabels && variables.notes == variables.oldNotes"
        f" && {_same('status', 'addresses', 'capacity', 'allocatable', 'nodeInfo')}",
        "of the status of its Node an agent changes nothing but the condition NetworkUnavailable",
        "status",
    ),
    Confinement(
        PODS,
        "has(object.spec.nodeName) && object.spec.nodeName == variables.me && object.status == oldObject.status"
        " && variables.labels == variables.oldLabels"
        " && variables.notes.all(key, key.startsWith('cni.projectcalico.org/')"
        " || (key in variables.oldNotes && variables.oldNotes[key] == variables.notes[key]))"
        " && variables.oldNotes.all(key, key.startsWith('cni.projectcalico.org/') || key in variables.notes)",
        "of pods on its node an agent changes nothing but annotations cni.projectcalico.org/*",
        "status",
    ),
    Confinement(
        BLOCKAFFINITIES,
        "(variables.made || oldObject.spec.node == variables.me)"
        " && (variables.removed || object.spec.node == variables.me)",
        "a BlockAffinity is written by the agent of its node",
    ),
    Confinement(
        IPAMBLOCKS,
        "variables.affinity == variables.oldAffinity && !variables.made && !variables.removed"
        " || (variables.affinity in ['', variables.mine] && variables.oldAffinity in ['', variables.mine])",
        "an agent takes blocks for no other node, and from none",
    ),
    Confinement(
        IPAMBLOCKS,
        "variables.made || variables.removed"
        " ? variables.others.all(who, who == '') && variables.oldOthers.all(who, who == '')"
        " : variables.others == variables.oldOthers",
        "an agent neither gives nor takes addresses of other nodes",
    ),
    Confinement(
        IPAMHANDLES,
        "!variables.name.contains('-tunnel-addr-') || variables.name.endsWith('-tunnel-addr-' + variables.me)",
        "the handle of a tunnel address is written by the agent of its node",
    ),
    Confinement(
        EVENTS,
        "has(object.source) && has(object.source.host) && object.source.host == variables.me",
        "events of an agent name its node as their source",
    ),
)


def objects(options: Options, labels: dict[str, str]) -> list[Object]:
    """The policy and its binding."""
    api = "admissionregistration.k8s.io/v1"
    account = f"system:serviceaccount:{options.namespace}:{AGENT}"
    head = {"name": POLICY, "labels": labels}
    resources = dict.fromkeys((_stored(c.kind, options), c.part) for c in CONFINEMENTS)
    policy = {
        "apiVersion": api,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": head,
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "matchPolicy": "Equivalent",
                "resourceRules": [
                    {
                        "apiGroups": [kind.group],
                        "apiVersions": ["*"],
                        "operations": ["CREATE", "UPDATE", "DELETE"],
                        "resources": [f"{kind.plural}/{part}" if part else kind.plural],
                    }
                    for kind, part in resources
                ],
            },
            "matchConditions": [
                {
                    "name": "by-an-agent",
                    "expression": f"request.userInfo.username == '{account}'"
                    f" || request.userInfo.username.startsWith('{NODE_USER}')",
                }
            ],
            "variables": [{"name": name, "expression": text} for name, text in VARIABLES.items()],
            "validations": [
                {
                    "expression": "variables.me != ''",
                    "message": "the identity of a Podwire agent must name its node: a token bound to its pod, or a"
                    f" client certificate of {NODE_USER}NODE",
                    "reason": "Forbidden",
                },
                *(_validation(each, _stored(each.kind, options)) for each in CONFINEMENTS),
            ],
        },
    }
    binding = {
        "apiVersion": api,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": head,
        "spec": {"policyName": POLICY, "validationActions": ["Deny"]},
    }
    return [policy, binding]


def _stored(kind: GVR, options: Options) -> GVR:
    return stored_gvr(kind) if options.classic else kind


def _validation(confinement: Confinement, kind: GVR) -> Object:
    other = f"request.resource.resource != '{kind.plural}' || variables.part != '{confinement.part}'"
    return {
        "expression": f"{other} || ({confinement.expression})",
        "messageExpression": f"'{confinement.says}; this one is of node ' + variables.me",
        "reason": "Forbidden",
    }
