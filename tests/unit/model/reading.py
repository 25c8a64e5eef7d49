"""Policies from YAML, as the tests of each kind read them."""

from __future__ import annotations

from typing import Any

import yaml

from podwire.model.policy import Policy, Rule
from podwire.model.policykinds import BY_API, written
from podwire.model.written import Problem


def inspect(text: str | dict[str, Any]) -> tuple[Any, tuple[Problem, ...]]:
    obj = yaml.safe_load(text) if isinstance(text, str) else text
    return BY_API[obj["apiVersion"], obj["kind"]].inspect(written(obj))


def read(text: str | dict[str, Any]) -> Policy:
    """A policy without problems."""
    found, problems = inspect(text)
    assert not problems, problems
    assert isinstance(found, Policy)
    return found


def told(rule: Rule) -> str:
    """A rule in few words: what it says and nothing of what it leaves open."""
    words = [rule.action.value]
    if rule.impossible:
        words.append("nothing")
    if rule.version:
        words.append(f"v{rule.version}")
    if rule.protocol is not None:
        words.append(f"protocol {rule.protocol}")
    if rule.not_protocol is not None:
        words.append(f"not protocol {rule.not_protocol}")
    for name, icmp in (("icmp", rule.icmp), ("not icmp", rule.not_icmp)):
        if icmp:
            words.append(f"{name} {icmp.type}" + ("" if icmp.code is None else f"/{icmp.code}"))
    for name, entity in (("from", rule.source), ("to", rule.destination)):
        said = []
        for sign, peers in (("", entity.peers), ("not ", entity.not_peers)):
            if peers:
                said.append(f"{sign}{'nodes ' if peers.over == 'nodes' else ''}{peers.selector}")
        for sign, nets in (("", entity.nets), ("not ", entity.not_nets)):
            said += [f"{sign}{net}" for net in nets]
        for sign, ports in (("", entity.ports), ("not ", entity.not_ports)):
            for port in ports:
                number = getattr(port, "name", None) or f"{port.first}-{port.last}"  # type: ignore[union-attr]
                said.append(f"{sign}:{number}")
        said += [f"service {namespace}/{service}" for namespace, service in entity.services]
        if said:
            words.append(f"{name} {', '.join(said)}")
    return " ".join(words)
