"""Worlds through the decoders and the compiler, and what the tables then say of a flow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from podwire.calc.oracle import Flow, Judgement, Side
from podwire.calc.policy import PolicyCalc
from podwire.calc.verdicts import Decision, Governed, PolicyState, RuleRef, class_of, judge
from podwire.model.address import parse_ip
from podwire.model.endpointslice import EndpointSlice
from podwire.model.member import Namespace, ServiceAccount
from podwire.model.node import Node
from podwire.model.pod import Pod
from podwire.model.policy import TIERS, Policy
from podwire.model.policykinds import BY_API, written
from tests.unit.policy.objects import Object
from tests.unit.policy.worlds import Key, World

OPEN = Decision(True, RuleRef(None, ""))
CLOSED = Decision(False, RuleRef(None, "not known yet"))
BUILT_IN = {tier.name for tier in TIERS}


@dataclass
class Compiled:
    """A node's calculation, fed with objects. `everywhere`: all pods are this node's, else those of `node`."""

    node: str = "n1"
    everywhere: bool = False
    calc: PolicyCalc = field(default_factory=PolicyCalc)

    @staticmethod
    def of(world: World, *, everywhere: bool = False, calc: type[PolicyCalc] = PolicyCalc) -> Compiled:
        made = Compiled(everywhere=everywhere, calc=calc())
        for key, obj in world.by_key.items():
            made.put(key, obj)
        made.calc.flush()
        return made

    @property
    def state(self) -> PolicyState:
        return self.calc.state

    def put(self, key: Key, obj: Object | None) -> None:
        """The newest object of a key, or None; in force after the next flush."""
        calc, (api, kind, space, name) = self.calc, key
        match kind:
            case "Namespace":
                calc.on_namespace(name, obj and msgspec.convert(obj, Namespace))
            case "ServiceAccount":
                calc.on_service_account((space, name), obj and msgspec.convert(obj, ServiceAccount))
            case "Node":
                calc.on_node(name, obj and msgspec.convert(obj, Node))
            case "EndpointSlice":
                calc.on_slice((space, name), obj and msgspec.convert(obj, EndpointSlice))
            case "Pod":
                calc.on_pod((space, name), obj and msgspec.convert(obj, Pod))
                here = obj is not None and (self.everywhere or obj["spec"]["nodeName"] == self.node)
                local = here and obj is not None and not obj["spec"].get("hostNetwork")
                calc.on_local((space, name), True if local else None)
            case _:
                self._put_policy(api, kind, space, name, obj)

    def _put_policy(self, api: str, kind: str, space: str, name: str, obj: Object | None) -> None:
        reader = BY_API[api, kind]
        value: Any = obj and reader.convert(written(obj))
        if kind == "Tier":
            if name not in BUILT_IN:
                self.calc.on_tier(name, value)
        elif kind.endswith("Set"):
            self.calc.on_network_set((kind, space, name), value)
        else:
            assert value is None or (isinstance(value, Policy) and value.key == reader.key(space, name))
            self.calc.on_policy(reader.key(space, name), value)

    def decide(self, flow: Flow, pod: tuple[str, str], direction: str, *, staged: bool = False) -> Decision:
        """What a local pod's table says."""
        governed = self.state.pods.get(pod)
        if governed is None:
            return CLOSED
        if staged:
            governed = self.state.staged.get(pod, governed)
        number = _number(governed, direction)
        if number is None:
            return OPEN
        other = (flow.source if direction == "ingress" else flow.destination).plain()
        peer = class_of(self.state, other.address, *parse_ip(other.address))
        port = flow.icmp_type << 8 | flow.icmp_code if flow.protocol in (1, 58) else flow.port
        return judge(self.state.tables, number, peer, flow.protocol, port, flow.source_port)


def _number(governed: Governed, direction: str) -> int | None:
    return governed.ingress if direction == "ingress" else governed.egress


def differences(compiled: Compiled, flow: Flow, verdict: Judgement, *, staged: bool = False) -> list[str]:
    """Where the tables say otherwise than the oracle, in words. What a node does before it asks a table (its own
    traffic, a pod to itself) is the oracle's alone."""
    found = []
    for direction, side, end in (
        ("egress", verdict.egress, flow.source),
        ("ingress", verdict.ingress, flow.destination),
    ):
        governed = end.pod is not None and (end.pod in compiled.state.pods)
        if not governed or end.pod is None or side.reason in ("a pod reaches itself", "from the pod's own node"):
            continue
        said = compiled.decide(flow, end.pod, direction, staged=staged)
        if said.allow != side.allowed:
            found.append(
                f"{direction}: tables {_word(said.allow)} by {said.rule}, oracle {_word(side.allowed)} by {side}"
            )
        elif str(said.rule) not in _names(side):
            found.append(f"{direction}: tables name {said.rule}, oracle {side}")
        logged = [f"{step.policy} {step.rule}" for step in side.trail if step.action == "Log"]
        if [str(each) for each in said.logs] != logged:
            found.append(f"{direction}: tables log {[str(each) for each in said.logs]}, oracle {logged}")
    return found


def _names(side: Side) -> set[str]:
    return {str(side), *(f"{policy} {rule}" if policy else f"end of tier {rule}" for policy, rule in side.also)}


def _word(allow: bool) -> str:
    return "allow" if allow else "deny"
