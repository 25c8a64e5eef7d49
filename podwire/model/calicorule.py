"""Rules of Calico's policies as rules. Source: projectcalico.org/v3 Rule and EntityRule, and upstream's validation.

A rule that cannot be read fails closed: Allow and Log then match nothing, anything else denies everything.
"""

from __future__ import annotations

import re

import msgspec

from podwire.model.address import Cidr
from podwire.model.expression import ExpressionError, parse_term, selector_of
from podwire.model.policy import (
    ICMP,
    ICMPV6,
    PORTED,
    SCTP,
    TCP,
    UDP,
    UDPLITE,
    Action,
    Direction,
    Entity,
    Icmp,
    NamedPort,
    Peers,
    PortRange,
    Rule,
)
from podwire.model.portlists import Port, port_range, prefix, tidied
from podwire.model.terms import (
    GLOBAL,
    NAMESPACE,
    OF_ACCOUNT,
    OF_NAMESPACE,
    SERVICE_ACCOUNT,
    Compare,
    Has,
    OneOf,
    Term,
    joined,
    names_global,
    renamed,
)
from podwire.model.written import Notes, PolicyError

PROTOCOLS = {"tcp": TCP, "udp": UDP, "icmp": ICMP, "icmpv6": ICMPV6, "sctp": SCTP, "udplite": UDPLITE}
LONGEST = 1_024
_NETS, _PORTS = 256, 50
_PORT_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,128}")
_NOT_BESIDE_SERVICES = ("selector", "notSelector", "namespaceSelector", "nets", "notNets", "serviceAccounts")
_ACTIONS = {action.value: action for action in Action}


class ServiceAccounts(msgspec.Struct, frozen=True):
    names: list[str] = []
    selector: str = ""


class Service(msgspec.Struct, frozen=True):
    name: str = ""
    namespace: str = ""


class EntityRule(msgspec.Struct, frozen=True):
    nets: list[str] = []
    notNets: list[str] = []
    selector: str = ""
    notSelector: str = ""
    namespaceSelector: str = ""
    ports: list[int | str] = []
    notPorts: list[int | str] = []
    serviceAccounts: ServiceAccounts | None = None
    services: Service | None = None


class IcmpMatch(msgspec.Struct, frozen=True):
    type: int | None = None
    code: int | None = None


class HTTPPath(msgspec.Struct, frozen=True):
    exact: str = ""
    prefix: str = ""


class HTTPMatch(msgspec.Struct, frozen=True):
    methods: list[str] = []
    paths: list[HTTPPath] = []


class RuleMetadata(msgspec.Struct, frozen=True):
    annotations: dict[str, str] = {}


class CalicoRule(msgspec.Struct, frozen=True):
    action: str = ""
    ipVersion: int | None = None
    protocol: int | str | None = None
    notProtocol: int | str | None = None
    icmp: IcmpMatch | None = None
    notICMP: IcmpMatch | None = None
    source: EntityRule = EntityRule()
    destination: EntityRule = EntityRule()
    http: HTTPMatch | None = None
    metadata: RuleMetadata | None = None


class RuleReader:
    """Rules of one direction of a policy; `namespace` is '' for policies of the whole cluster."""

    def __init__(self, direction: Direction, namespace: str, notes: Notes) -> None:
        self._direction, self._namespace, self._notes = direction, namespace, notes

    def rules(self, written: list[CalicoRule]) -> tuple[Rule, ...]:
        return tuple(self._rule(f"{self._direction}[{place}]", rule) for place, rule in enumerate(written))

    def _rule(self, label: str, rule: CalicoRule) -> Rule:
        try:
            return self._read(f"spec.{label}", label, rule)
        except PolicyError as error:
            self._notes.wrong(error)
        if rule.action in (Action.ALLOW, Action.LOG):
            return Rule(Action(rule.action), impossible=True, label=label)
        return Rule(Action.DENY, label=label)

    def _read(self, path: str, label: str, rule: CalicoRule) -> Rule:
        self._notes.refuse_strange(path)
        if rule.action not in _ACTIONS:
            raise PolicyError(f"{path}.action", f"{rule.action[:80]!r} is none of {', '.join(_ACTIONS)}")
        if rule.ipVersion not in (None, 4, 6):
            raise PolicyError(f"{path}.ipVersion", f"{rule.ipVersion} is neither 4 nor 6")
        protocol = _protocol(f"{path}.protocol", rule.protocol)
        not_protocol = _protocol(f"{path}.notProtocol", rule.notProtocol)
        icmp = _icmp(f"{path}.icmp", rule.icmp, protocol)
        not_icmp = _icmp(f"{path}.notICMP", rule.notICMP, protocol)
        _icmp_version(path, rule, protocol, not_protocol)
        source = self._entity(f"{path}.source", rule.source, protocol)
        destination = self._entity(f"{path}.destination", rule.destination, protocol)
        version, none = _version(rule.ipVersion, source, destination)
        if rule.http is not None:
            self._http(f"{path}.http", rule, protocol)
        return Rule(
            _ACTIONS[rule.action],
            source,
            destination,
            protocol,
            not_protocol,
            icmp,
            not_icmp,
            version,
            none or rule.http is not None,
            label,
        )

    def _http(self, path: str, rule: CalicoRule, protocol: int | None) -> None:
        if rule.action != Action.ALLOW or self._direction is not Direction.INGRESS:
            raise PolicyError(path, "may stand in ingress rules with the action Allow only")
        if protocol not in (None, TCP):
            raise PolicyError(path, "needs the protocol TCP, or none")
        for place, each in enumerate(rule.http.paths if rule.http else ()):
            if bool(each.exact) == bool(each.prefix):
                raise PolicyError(f"{path}.paths[{place}]", "must have exact or prefix, and not both")
            if not re.fullmatch(r"/[^?# ]*", each.exact or each.prefix):
                raise PolicyError(f"{path}.paths[{place}]", "must begin with / and have no ?, # or blank")
        self._notes.unmet(path, "requests are not looked into here: this rule matches nothing")

    def _entity(self, path: str, entity: EntityRule, protocol: int | None) -> Entity:
        self._limits(path, entity)
        if entity.services is not None:
            return self._services(path, entity, entity.services)
        return Entity(
            self._peers(path, entity),
            Peers(selector_of(term(entity.notSelector, f"{path}.notSelector")).text) if entity.notSelector else None,
            self._either(f"{path}.nets", _nets(f"{path}.nets", entity.nets)),
            self._either(f"{path}.notNets", self._somebody(f"{path}.notNets", entity.notNets)),
            ports(f"{path}.ports", entity.ports, protocol),
            ports(f"{path}.notPorts", entity.notPorts, protocol),
        )

    def _limits(self, path: str, entity: EntityRule) -> None:
        """Counts that upstream refuses and that do no harm."""
        for name, most in (("nets", _NETS), ("notNets", _NETS), ("ports", _PORTS), ("notPorts", _PORTS)):
            if len(getattr(entity, name)) > most:
                self._notes.wrong(PolicyError(f"{path}.{name}", f"may not have more than {most} items"))

    def _either(self, path: str, nets: tuple[Cidr, ...]) -> tuple[Cidr, ...]:
        """Upstream wants one family in a list; both do no harm."""
        if len({net.width for net in nets}) > 1:
            self._notes.wrong(PolicyError(path, "may not have both IPv4 and IPv6: make it two rules"))
        return nets

    def _somebody(self, path: str, texts: list[str]) -> tuple[Cidr, ...]:
        found = _nets(path, texts)
        for place, net in enumerate(found):
            if not net.length:
                self._notes.wrong(PolicyError(f"{path}[{place}]", f"{net} leaves nobody: the rule would match nothing"))
        return found

    def _peers(self, path: str, entity: EntityRule) -> Peers | None:
        """By selector, namespaces and service accounts together."""
        parts: list[Term] = []
        accounts = entity.serviceAccounts
        if entity.namespaceSelector:
            where = f"{path}.namespaceSelector"
            found = term(entity.namespaceSelector, where, world=True)
            if names_global(found) and found != GLOBAL:
                raise PolicyError(where, "global() must stand alone")
            parts.append(renamed(found, OF_NAMESPACE, Has(NAMESPACE)))
        elif self._namespace and (entity.selector or entity.notSelector or accounts is not None):
            parts.append(Compare(NAMESPACE, "==", self._namespace))
        if entity.selector:
            parts.append(term(entity.selector, f"{path}.selector"))
        if accounts is not None:
            if accounts.names:
                parts.append(OneOf.of(SERVICE_ACCOUNT, accounts.names))
            if accounts.selector:
                found = term(accounts.selector, f"{path}.serviceAccounts.selector")
                parts.append(renamed(found, OF_ACCOUNT, Has(SERVICE_ACCOUNT)))
            for place, name in enumerate(accounts.names):
                if not _PORT_NAME.fullmatch(name.replace("/", " ")[:128]):
                    raise PolicyError(f"{path}.serviceAccounts.names[{place}]", f"{name[:80]!r} is no name")
        return Peers(selector_of(joined(parts)).text) if parts else None

    def _services(self, path: str, entity: EntityRule, service: Service) -> Entity:
        where = f"{path}.services"
        end = "source" if self._direction is Direction.INGRESS else "destination"
        if not path.endswith(end):
            raise PolicyError(where, f"may stand in the {end} of {self._direction} rules only")
        for name in (*_NOT_BESIDE_SERVICES, *(("ports", "notPorts") if end == "destination" else ())):
            if getattr(entity, name):
                raise PolicyError(where, f"may not stand beside {name}")
        if not service.name:
            raise PolicyError(f"{where}.name", "must be given")
        if not service.namespace and not self._namespace:
            raise PolicyError(f"{where}.namespace", "must be given in a policy of the whole cluster")
        return Entity(
            ports=ports(f"{path}.ports", entity.ports, None, any_protocol=True),
            not_ports=ports(f"{path}.notPorts", entity.notPorts, None, any_protocol=True),
            services=((service.namespace or self._namespace, service.name),),
        )


def term(text: str, path: str, *, world: bool = False) -> Term:
    """The tree of a selector; global() only if it speaks of the whole `world`. Raises PolicyError."""
    try:
        found = parse_term(text)
    except ExpressionError as error:
        raise PolicyError(path, str(error)) from None
    if not world and names_global(found):
        raise PolicyError(path, "global() may stand in the namespaceSelector of a rule only")
    return found


def _protocol(path: str, written: int | str | None) -> int | None:
    if written is None:
        return None
    if isinstance(written, str):
        number = PROTOCOLS.get(written.lower()) or (int(written) if written.isascii() and written.isdigit() else 0)
        if not 1 <= number <= 255:
            names = "TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite"
            raise PolicyError(path, f"{written[:80]!r} is no protocol: write one of {names}, or its number (1 to 255)")
        return number
    if not 1 <= written <= 255:
        raise PolicyError(path, f"{written} is no protocol: numbers go from 1 to 255")
    return written


def _icmp(path: str, match: IcmpMatch | None, protocol: int | None) -> Icmp | None:
    if match is None:
        return None
    if protocol not in (ICMP, ICMPV6):
        raise PolicyError(path, "needs the protocol ICMP or ICMPv6")
    if match.type is None:
        if match.code is not None:
            raise PolicyError(f"{path}.code", "needs a type")
        return None
    if not 0 <= match.type <= 254:
        raise PolicyError(f"{path}.type", f"{match.type}: types go from 0 to 254")
    if match.code is not None and not 0 <= match.code <= 255:
        raise PolicyError(f"{path}.code", f"{match.code}: codes go from 0 to 255")
    return Icmp(match.type, match.code)


def _icmp_version(path: str, rule: CalicoRule, *protocols: int | None) -> None:
    for name, protocol in zip(("protocol", "notProtocol"), protocols, strict=True):
        if (protocol, rule.ipVersion) in ((ICMP, 6), (ICMPV6, 4)):
            wanted = "ICMPv6" if protocol == ICMP else "ICMP"
            raise PolicyError(f"{path}.{name}", f"ipVersion {rule.ipVersion} goes with {wanted}")


def _nets(path: str, texts: list[str]) -> tuple[Cidr, ...]:
    found = [prefix(text, f"{path}[{place}]", host_bits=False) for place, text in enumerate(texts)]
    return tuple(dict.fromkeys(found))


def _version(asked: int | None, *entities: Entity) -> tuple[int | None, bool]:
    """The IP version that a rule is for (None: both), and whether there is none: a list of prefixes leaves only the
    versions that it names, be it positive or negative."""
    left = {asked} if asked else {4, 6}
    for entity in entities:
        for nets in (entity.nets, entity.not_nets):
            if nets:
                left &= {4 if net.width == 32 else 6 for net in nets}
    return (next(iter(left)) if len(left) == 1 else None), not left


def ports(path: str, written: list[int | str], protocol: int | None, *, any_protocol: bool = False) -> tuple[Port, ...]:
    """Numbers, "first:last" and names. Raises PolicyError."""
    found = [_port(f"{path}[{place}]", each) for place, each in enumerate(written)]
    if not any_protocol:
        if any(isinstance(port, PortRange) for port in found) and protocol not in PORTED:
            raise PolicyError(path, "numbers need the protocol TCP, UDP or SCTP")
        if found and protocol is not None and protocol not in PORTED:
            raise PolicyError(path, "ports need the protocol TCP, UDP or SCTP")
    return tidied(found)


def _port(path: str, written: int | str) -> Port:
    if isinstance(written, int):
        return port_range(written, written, path)
    first, colon, last = written.partition(":")
    if first.isascii() and first.isdigit() and (not colon or (last.isascii() and last.isdigit())):
        return port_range(int(first[:9]), int((last or first)[:9]), path)
    if not _PORT_NAME.fullmatch(written):
        raise PolicyError(path, f"{written[:80]!r} is no port: write a number, 'first:last' or a port's name")
    return NamedPort(written)
