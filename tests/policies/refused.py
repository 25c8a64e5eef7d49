"""Policies that a server refuses: by whom the mistake is found, and at which field."""

from __future__ import annotations

from typing import Any, NamedTuple

import yaml

CALICO = "apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: {name}{namespace}}}\nspec: {spec}\n"
CLUSTER = "apiVersion: policy.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"


class Refused(NamedTuple):
    """`words` stand in the refusal. `by_rule`: the kind's definition itself says so, in its schema or in CEL; else only
    a server that reads policies does."""

    object: dict[str, Any]
    path: str
    words: str
    by_rule: bool = False


def calico(
    spec: str, path: str, words: str, *, kind: str = "NetworkPolicy", name: str = "p", rule: bool = False
) -> Refused:
    namespace = "" if kind.startswith(("Global", "StagedGlobal", "Tier")) else ", namespace: default"
    return Refused(
        yaml.safe_load(CALICO.format(kind=kind, name=name, namespace=namespace, spec=spec)), path, words, rule
    )


def everywhere(spec: str, path: str, words: str, *, name: str = "p", rule: bool = False) -> Refused:
    return calico(spec, path, words, kind="GlobalNetworkPolicy", name=name, rule=rule)


def cnp(rest: str, path: str, words: str, *, rule: bool = True) -> Refused:
    spec = f"{{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}, {rest}}}"
    text = CLUSTER.format(version="v1alpha2", kind="ClusterNetworkPolicy", name="p", spec=spec)
    return Refused(yaml.safe_load(text), path, words, rule)


def _ingress(rule: str) -> str:
    return f"{{ingress: [{{action: Allow, {rule}}}]}}"


def _egress(rule: str) -> str:
    return f"{{egress: [{{action: Allow, {rule}}}]}}"


RULE, OUT = "spec.ingress[0]", "spec.egress[0]"
REFUSED: dict[str, Refused] = {
    # selectors
    "selector": calico("{selector: \"a = 'b'\"}", "spec.selector", "position 3"),
    "selector with a line break": calico('{selector: "has(a)\\n"}', "spec.selector", "no line break"),
    "service account selector": calico("{serviceAccountSelector: a}", "spec.serviceAccountSelector", "has(a)"),
    "namespace selector": everywhere("{namespaceSelector: '('}", "spec.namespaceSelector", "position 2"),
    "global() of a policy": calico("{selector: global()}", "spec", "global()", rule=True),
    "global() of namespaces": everywhere("{namespaceSelector: global()}", "spec", "global()", rule=True),
    "rule's selector": calico(_ingress("source: {selector: 'a =='}"), f"{RULE}.source.selector", "position 5"),
    "rule's notSelector": calico(_ingress("source: {notSelector: '!'}"), f"{RULE}.source.notSelector", "position 2"),
    "rule's accounts": calico(
        _ingress("source: {serviceAccounts: {selector: x}}"), f"{RULE}.source.serviceAccounts.selector", "has(x)"
    ),
    "global() beside": calico(
        _ingress("source: {namespaceSelector: \"global() && a == 'b'\"}"),
        f"{RULE}.source.namespaceSelector",
        "stand alone",
    ),
    "long selector": calico(f"{{selector: \"a == '{'x' * 1024}'\"}}", "spec.selector", "1024", rule=True),
    # order of things
    "missing tier": calico("{tier: nowhere}", "spec.tier", "there is no tier nowhere"),
    "name of three words": calico("{}", "metadata.name", "two DNS labels", name="a.b.c"),
    "global name of three words": everywhere("{}", "metadata.name", "two DNS labels", name="knp.default.x"),
    "tier with a dot": calico("{}", "metadata.name", "DNS label", kind="Tier", name="a.b"),
    "built-in tier": calico("{order: 1}", "", "order 1000", kind="Tier", name="kube-admin", rule=True),
    "types twice": calico("{types: [Ingress, Ingress]}", "spec.types[1]", "Ingress", rule=True),
    "type": calico("{types: [Sideways]}", "spec.types[0]", "Sideways", rule=True),
    "action": calico("{ingress: [{action: Reject}]}", f"{RULE}.action", "Reject", rule=True),
    "no action": calico("{ingress: [{}]}", f"{RULE}.action", "", rule=True),
    # protocols and ports
    "protocol": calico(_ingress("protocol: HTTP"), f"{RULE}.protocol", "no protocol"),
    "protocol 0": calico(_ingress("protocol: 0"), f"{RULE}.protocol", "no protocol"),
    "protocol 256": calico(_ingress("notProtocol: 256"), f"{RULE}.notProtocol", "no protocol"),
    "icmp without protocol": calico(_ingress("icmp: {type: 8}"), f"{RULE}", "ICMP", rule=True),
    "icmp code alone": calico(_ingress("protocol: ICMP, icmp: {code: 1}"), f"{RULE}.icmp", "type", rule=True),
    "icmp type 255": calico(_ingress("protocol: ICMP, icmp: {type: 255}"), f"{RULE}.icmp.type", "254", rule=True),
    "ICMP of IPv6": calico(_ingress("protocol: ICMP, ipVersion: 6"), f"{RULE}", "ipVersion", rule=True),
    "not ICMPv6 of IPv4": calico(_ingress("notProtocol: ICMPv6, ipVersion: 4"), f"{RULE}", "ipVersion", rule=True),
    "IP version": calico(_ingress("ipVersion: 5"), f"{RULE}.ipVersion", "5", rule=True),
    "port without protocol": calico(_ingress("destination: {ports: [80]}"), f"{RULE}.destination.ports", "TCP, UDP or"),
    "port 0": calico(_ingress("protocol: TCP, destination: {ports: [0]}"), f"{RULE}.destination.ports[0]", "no port"),
    "port 65536": calico(
        _ingress("protocol: TCP, source: {notPorts: [1, 65536]}"), f"{RULE}.source.notPorts[1]", "no port"
    ),
    "inverted range": calico(
        _ingress("protocol: TCP, destination: {ports: ['90:80']}"), f"{RULE}.destination.ports[0]", "before it begins"
    ),
    "port in words": calico(
        _ingress("protocol: TCP, destination: {ports: ['a b']}"), f"{RULE}.destination.ports[0]", "no port"
    ),
    # addresses
    "net with host bits": calico(_ingress("source: {nets: [10.0.0.5/24]}"), f"{RULE}.source.nets[0]", "did you mean"),
    "net without length": calico(_ingress("source: {nets: [10.0.0.5]}"), f"{RULE}.source.nets[0]", "no length"),
    "no net": calico(_ingress("source: {notNets: [10.0.0.0/33]}"), f"{RULE}.source.notNets[0]", "10.0.0.0/33"),
    "both families": calico(
        _ingress("source: {nets: [10.0.0.0/8, 'fd00::/8']}"), f"{RULE}.source.nets", "IPv4 and IPv6"
    ),
    "nobody at all": calico(_ingress("source: {notNets: [0.0.0.0/0]}"), f"{RULE}.source.notNets[0]", "nobody"),
    "set's net": calico("{nets: [10.0.0.0/99]}", "spec.nets", "CIDR", kind="NetworkSet", rule=True),
    # services and http
    "service without name": calico(_egress("destination: {services: {}}"), f"{OUT}.destination", "name", rule=True),
    "service beside a selector": calico(
        _egress("destination: {services: {name: a}, selector: all()}"), f"{OUT}.destination", "beside", rule=True
    ),
    "service beside ports": calico(
        _egress("protocol: TCP, destination: {services: {name: a}, ports: [80]}"), OUT, "beside", rule=True
    ),
    "service at the wrong end": calico(
        _ingress("destination: {services: {name: a}}"), f"{RULE}.destination.services", "source of ingress"
    ),
    "service of nowhere": everywhere(
        _egress("destination: {services: {name: a}}"), f"{OUT}.destination.services.namespace", "must be given"
    ),
    "http out": calico(_egress("http: {methods: [GET]}"), f"{OUT}.http", "ingress"),
    "http denied": calico("{ingress: [{action: Deny, http: {}}]}", RULE, "Allow", rule=True),
    "http over UDP": calico(_ingress("protocol: UDP, http: {}"), RULE, "TCP", rule=True),
    "http path": calico(_ingress("http: {paths: [{exact: a}]}"), f"{RULE}.http.paths[0]", "begin with /"),
    # host endpoints
    "preDNAT and doNotTrack": everywhere(
        "{preDNAT: true, doNotTrack: true, applyOnForward: true}", "spec", "doNotTrack", rule=True
    ),
    "preDNAT out": everywhere(
        "{preDNAT: true, applyOnForward: true, egress: [{action: Allow}]}", "spec", "egress", rule=True
    ),
    "doNotTrack alone": everywhere("{doNotTrack: true}", "spec", "applyOnForward", rule=True),
    # staged
    "staged action": calico("{stagedAction: Try}", "spec.stagedAction", "Try", kind="StagedNetworkPolicy", rule=True),
    "staged deletion with rules": calico(
        "{stagedAction: Delete, selector: all()}", "spec.selector", "must be empty", kind="StagedNetworkPolicy"
    ),
    "staged of Kubernetes": calico(
        "{podSelector: {}, ingress: [{from: [{}]}]}",
        f"{RULE}.from[0]",
        "must specify a peer",
        kind="StagedKubernetesNetworkPolicy",
    ),
    # of the whole cluster
    "no tier": Refused(
        yaml.safe_load(
            CLUSTER.format(
                version="v1alpha2",
                kind="ClusterNetworkPolicy",
                name="p",
                spec="{priority: 1, subject: {namespaces: {}}}",
            )
        ),
        "spec.tier",
        "",
        True,
    ),
    "two peers in one": cnp(
        "ingress: [{action: Deny, from: [{namespaces: {}, pods: {podSelector: {}}}]}]", f"{RULE}.from[0]", "", rule=True
    ),
    "no peers": cnp("ingress: [{action: Deny, from: []}]", f"{RULE}.from", "1"),
    "networks come in": cnp("ingress: [{action: Deny, from: [{networks: [10.0.0.0/8]}]}]", f"{RULE}.from[0]", ""),
    "allow": cnp("ingress: [{action: Allow, from: [{namespaces: {}}]}]", f"{RULE}.action", "Allow"),
    "range": cnp(
        "ingress: [{action: Deny, from: [{namespaces: {}}],"
        " protocols: [{tcp: {destinationPort: {range: {start: 9, end: 9}}}}]}]",
        f"{RULE}.protocols[0].tcp.destinationPort.range",
        "start",
    ),
    "networks by port name": cnp(
        "egress: [{action: Deny, to: [{networks: [10.0.0.0/8]}], protocols: [{destinationNamedPort: http}]}]",
        OUT,
        "named port",
    ),
    "no CIDR": cnp("egress: [{action: Deny, to: [{networks: [10.0.0.300/8]}]}]", f"{OUT}.to[0].networks[0]", "CIDR"),
    "selector of the subject": Refused(
        yaml.safe_load(
            CLUSTER.format(
                version="v1alpha1",
                kind="AdminNetworkPolicy",
                name="p",
                spec="{priority: 1, subject: {namespaces: {matchExpressions: [{key: a, operator: Is}]}}}",
            )
        ),
        "spec.subject.namespaces.matchExpressions[0].operator",
        "none of In",
    ),
    "another baseline": Refused(
        yaml.safe_load(
            CLUSTER.format(
                version="v1alpha1", kind="BaselineAdminNetworkPolicy", name="other", spec="{subject: {namespaces: {}}}"
            )
        ),
        "",
        "default",
        True,
    ),
}
