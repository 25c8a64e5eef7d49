"""Random small worlds as API objects: pods of three namespaces, policies of every kind."""

from __future__ import annotations

import random
from typing import Any

from podwire.observe.manifests import Manifest
from podwire.observe.policyscene import Scene

Object = dict[str, Any]
SPACES = ("a", "b")
NETS = ("10.0.0.0/24", "10.0.0.2/32", "0.0.0.0/0", "192.0.2.0/25", "192.0.2.8/30", "203.0.113.0/24")
NETS += ("fd00::/64", "::/0")
INNER = {"10.0.0.0/24": ["10.0.0.2/32"], "192.0.2.0/25": ["192.0.2.8/30"], "0.0.0.0/0": ["10.0.0.2/32", "192.0.2.8/30"]}
PORTS = (1, 53, 80, 81, 8080, 65535)
NAMES = ("http", "dns")
OUTSIDE = ("192.0.2.1", "192.0.2.9", "192.0.2.200", "203.0.113.7", "8.8.4.4", "10.0.0.77", "2001:db8::7", "fd00::77")


def base(rng: random.Random) -> list[Object]:
    """Everything but policies."""
    found: list[Object] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"team": rng.choice("rg")}}}
        for name in SPACES
    ]
    for number in range(rng.randint(2, 5)):
        ports = [
            {"name": name, "protocol": rng.choice(("TCP", "UDP")), "containerPort": rng.choice(PORTS)}
            for name in NAMES
            if rng.random() < 0.6
        ]
        addresses = [{"ip": f"10.0.0.{number + 1}"}]
        if rng.random() < 0.4:
            addresses.append({"ip": f"fd00::{number + 1}"})
        found.append(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": f"p{number}",
                    "namespace": rng.choice(SPACES),
                    "labels": {"app": rng.choice("xyz")},
                },
                "spec": {"nodeName": rng.choice(("n1", "n2")), "containers": [{"name": "c", "ports": ports}]},
                "status": {"phase": "Running", "podIPs": addresses},
            }
        )
    for number, name in enumerate(("n1", "n2")):
        status = {"addresses": [{"type": "InternalIP", "address": f"172.18.0.{number + 2}"}]}
        found.append({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": status})
    return found


def policies(rng: random.Random, count: int) -> list[Object]:
    makers = (_network_policy, _network_policy, _calico_policy, _cluster_policy)
    return [rng.choice(makers)(rng, f"p{number}") for number in range(count)]


def changed(rng: random.Random, old: list[Object]) -> list[Object]:
    """Some of them gone, some new."""
    kept = [one for one in old if rng.random() < 0.7]
    return kept + [
        {**one, "metadata": {**one["metadata"], "name": f"n{number}"}}
        for number, one in enumerate(policies(rng, rng.randint(0, 2)))
    ]


def scene(objects: list[Object]) -> Scene:
    return Scene(tuple(Manifest(one) for one in objects))


def _selector(rng: random.Random) -> Object:
    return rng.choice(
        (
            {},
            {"matchLabels": {"app": rng.choice("xyz")}},
            {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": [rng.choice("xyz")]}]},
        )
    )


def _space(rng: random.Random) -> Object:
    return rng.choice(({}, {"matchLabels": {"team": rng.choice("rg")}}))


def _network_policy(rng: random.Random, name: str) -> Object:
    def peer() -> Object:
        if rng.random() < 0.4:
            net = rng.choice(NETS)
            inner = INNER.get(net) if rng.random() < 0.5 else None
            return {"ipBlock": {"cidr": net, **({"except": [rng.choice(inner)]} if inner else {})}}
        found: Object = {}
        if rng.random() < 0.7:
            found["podSelector"] = _selector(rng)
        if rng.random() < 0.5 or not found:
            found["namespaceSelector"] = _space(rng)
        return found

    def port() -> Object:
        number = rng.choice((*PORTS, *NAMES, None))
        found: Object = {"protocol": rng.choice(("TCP", "UDP", "SCTP"))}
        if number is not None:
            found["port"] = number
            if isinstance(number, int) and rng.random() < 0.3:
                found["endPort"] = min(65535, number + rng.choice((1, 100)))
        return found

    def rule(field: str) -> Object:
        found: Object = {}
        if rng.random() < 0.8:
            found[field] = [peer() for _ in range(rng.randint(1, 2))]
        if rng.random() < 0.6:
            found["ports"] = [port() for _ in range(rng.randint(1, 2))]
        return found

    types = rng.choice((["Ingress"], ["Egress"], ["Ingress", "Egress"]))
    spec = {
        "podSelector": _selector(rng),
        "policyTypes": types,
        "ingress": [rule("from") for _ in range(rng.randint(0, 2))] if "Ingress" in types else [],
        "egress": [rule("to") for _ in range(rng.randint(0, 2))] if "Egress" in types else [],
    }
    meta = {"name": name, "namespace": rng.choice(SPACES)}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta, "spec": spec}


def _calico_policy(rng: random.Random, name: str) -> Object:
    def entity(*, destination: bool) -> Object:
        found: Object = {}
        if rng.random() < 0.5:
            found["selector"] = rng.choice(("app == 'x'", "app != 'y'", "has(app)"))
        elif rng.random() < 0.5:
            found["nets"] = [rng.choice([net for net in NETS if ":" not in net])]
        if rng.random() < 0.2:
            found["notNets"] = [rng.choice(("10.0.0.2/32", "192.0.2.8/30"))]
        if destination and rng.random() < 0.4:
            found["ports"] = [rng.choice((80, "53:81", "http"))]
        if not destination and rng.random() < 0.1:
            found["ports"] = [rng.choice((1234, "1000:2000"))]
        return found

    def rule() -> Object:
        found: Object = {
            "action": rng.choice(("Allow", "Allow", "Deny", "Pass", "Log")),
            "source": entity(destination=False),
            "destination": entity(destination=True),
        }
        ported = found["source"].get("ports") or found["destination"].get("ports")
        if ported or rng.random() < 0.4:
            found["protocol"] = rng.choice(("TCP", "UDP") if ported else ("TCP", "UDP", "ICMP", "SCTP"))
        if found.get("protocol") == "ICMP" and rng.random() < 0.5:
            found["icmp"] = {"type": 8}
        return found

    types = rng.choice((["Ingress"], ["Egress"], ["Ingress", "Egress"]))
    spec: Object = {
        "order": rng.choice((1, 5, 2000)),
        "selector": rng.choice(("all()", "app == 'x'", "app in {'y', 'z'}")),
        "types": types,
    }
    for word in types:
        spec[word.lower()] = [rule() for _ in range(rng.randint(0, 3))]
    head = {"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": name}}
    return {**head, "spec": spec}


def _cluster_policy(rng: random.Random, name: str) -> Object:
    def peer(*, egress: bool) -> Object:
        if egress and rng.random() < 0.4:
            return {"networks": [rng.choice(NETS)]}
        if rng.random() < 0.5:
            return {"namespaces": _space(rng)}
        return {"pods": {"namespaceSelector": _space(rng), "podSelector": _selector(rng)}}

    def rule(field: str) -> Object:
        found: Object = {
            "action": rng.choice(("Accept", "Deny", "Pass")),
            field: [peer(egress=field == "to") for _ in range(rng.randint(1, 2))],
        }
        if rng.random() < 0.5:
            number = rng.choice(PORTS[:-1])
            port = rng.choice(({"number": number}, {"range": {"start": number, "end": number + 20}}))
            found["protocols"] = [{rng.choice(("tcp", "udp")): {"destinationPort": port}}]
        return found

    spec = {
        "tier": rng.choice(("Admin", "Baseline")),
        "priority": rng.randint(0, 3),
        "subject": {"namespaces": _space(rng)},
        "ingress": [rule("from") for _ in range(rng.randint(0, 2))],
        "egress": [rule("to") for _ in range(rng.randint(0, 2))],
    }
    head = {"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy"}
    return {**head, "metadata": {"name": name}, "spec": spec}
