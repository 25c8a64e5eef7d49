"""What an ADD answers, as a value, and its JSON in every version of the contract, both ways.

Decoding takes the shape that is there (0.1's `ip4` and `ip6`, 0.3's `version` in each address, 1.1's further fields);
encoding leaves out what a version does not know. A delegated IPAM result has no interfaces, and its addresses point to
none. Source: containernetworking/cni SPEC.md of 0.2.0, 0.4.0 and 1.1.0, "Result".
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from podwire.cni.errors import DECODE_FAILURE, CniError, older

_MAX_NUMBER = 1 << 32
_DNS_LISTS = ("nameservers", "search", "options")


@dataclass(frozen=True, slots=True)
class Interface:
    """`sandbox` is CNI_NETNS as given for an interface in the pod, "" for one of the host; `mtu` 0 is unstated."""

    name: str
    mac: str = ""
    mtu: int = 0
    sandbox: str = ""
    socket_path: str = ""
    pci_id: str = ""


@dataclass(frozen=True, slots=True)
class Address:
    """`address` is a CIDR; `interface` an index into the result's interfaces, or None."""

    address: str
    gateway: str = ""
    interface: int | None = None


@dataclass(frozen=True, slots=True)
class Destination:
    """A route of the result. 0 is unstated, but for `table` and `scope`, where None is (scope 0 is global)."""

    dst: str
    gw: str = ""
    mtu: int = 0
    advmss: int = 0
    priority: int = 0
    table: int | None = None
    scope: int | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What an ADD made."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[Address, ...] = ()
    routes: tuple[Destination, ...] = ()
    dns: Mapping[str, Any] = field(default_factory=dict)


def decode(raw: Any, where: str = "prevResult") -> Result:
    """A result of any version. Raises CniError 6 naming the field."""
    whole = _object(raw, where)
    interfaces = tuple(_interface(one, f"{where}.interfaces[{i}]") for i, one in _rows(whole, "interfaces", where))
    ips = [_address(one, f"{where}.ips[{i}]", len(interfaces)) for i, one in _rows(whole, "ips", where)]
    routes = [_route(one, f"{where}.routes[{i}]") for i, one in _rows(whole, "routes", where)]
    for family in ("ip4", "ip6"):
        if whole.get(family) is not None:
            old = _object(whole[family], f"{where}.{family}")
            ips.append(_old_address(old, f"{where}.{family}"))
            rows = _rows(old, "routes", f"{where}.{family}")
            routes += [_route(one, f"{where}.{family}.routes[{i}]") for i, one in rows]
    return Result(interfaces, tuple(ips), tuple(routes), _dns(whole.get("dns"), f"{where}.dns"))


def _broken(where: str, what: str) -> CniError:
    return CniError(DECODE_FAILURE, f"cannot decode {where.partition('.')[0]}", f"{where} {what}")


def _object(raw: Any, where: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise _broken(where, "is not an object")
    return raw


def _rows(whole: Mapping[str, Any], key: str, where: str) -> enumerate[Any]:
    raw = whole.get(key)
    if raw is not None and not isinstance(raw, list):
        raise _broken(f"{where}.{key}", "is not a list")
    return enumerate(raw or ())


def _text(row: Mapping[str, Any], key: str, where: str, *, needed: bool = False) -> str:
    value = row.get(key)
    if value is None:
        value = ""
    if not isinstance(value, str) or (needed and not value):
        raise _broken(f"{where}.{key}", "is not a string" if value != "" else "is missing")
    return value


def _number(row: Mapping[str, Any], key: str, where: str) -> int | None:
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _MAX_NUMBER:
        raise _broken(f"{where}.{key}", "is no number in range")
    return value


def _interface(raw: Any, where: str) -> Interface:
    row = _object(raw, where)
    name = _text(row, "name", where, needed=True)
    texts = {key: _text(row, key, where) for key in ("mac", "sandbox", "socketPath", "pciID")}
    mtu = _number(row, "mtu", where) or 0
    return Interface(name, texts["mac"], mtu, texts["sandbox"], texts["socketPath"], texts["pciID"])


def _address(raw: Any, where: str, interfaces: int) -> Address:
    row = _object(raw, where)
    index = _number(row, "interface", where)
    if index is not None and index >= interfaces:
        raise _broken(f"{where}.interface", f"is {index}, but there are {interfaces} interfaces")
    return Address(_cidr(row, "address", where), _gateway(row, "gateway", where), index)


def _old_address(row: Mapping[str, Any], where: str) -> Address:
    return Address(_cidr(row, "ip", where), _gateway(row, "gateway", where))


def _route(raw: Any, where: str) -> Destination:
    row = _object(raw, where)
    dst, gw = _cidr(row, "dst", where), _gateway(row, "gw", where)
    mtu, advmss, priority = (_number(row, key, where) or 0 for key in ("mtu", "advmss", "priority"))
    return Destination(dst, gw, mtu, advmss, priority, _number(row, "table", where), _number(row, "scope", where))


def _cidr(row: Mapping[str, Any], key: str, where: str) -> str:
    text = _text(row, key, where, needed=True)
    try:
        ipaddress.ip_interface(text)
    except ValueError:
        raise _broken(f"{where}.{key}", f"is no address with prefix length: {text[:64]}") from None
    if "/" not in text:
        raise _broken(f"{where}.{key}", f"has no prefix length: {text[:64]}")
    return text


def _gateway(row: Mapping[str, Any], key: str, where: str) -> str:
    text = _text(row, key, where)
    try:
        if text:
            ipaddress.ip_address(text)
    except ValueError:
        raise _broken(f"{where}.{key}", f"is no address: {text[:64]}") from None
    return text


def _dns(raw: Any, where: str) -> dict[str, Any]:
    if raw is None:
        return {}
    row = _object(raw, where)
    found: dict[str, Any] = {}
    for key in _DNS_LISTS:
        words = [word for _, word in _rows(row, key, where)]
        if not all(isinstance(word, str) for word in words):
            raise _broken(f"{where}.{key}", "is not a list of strings")
        if words:
            found[key] = words
    domain = _text(row, "domain", where)
    return {**found, "domain": domain} if domain else found


def encode(result: Result, version: str) -> bytes:
    """JSON of the result in the shape of `version`: without what it does not know, with what it needs."""
    if older(version, "0.3.0"):
        return msgspec.json.encode(_encode_families(result, version)) + b"\n"
    answer: dict[str, Any] = {"cniVersion": version}
    if result.interfaces:
        answer["interfaces"] = [_encode_interface(interface, version) for interface in result.interfaces]
    answer["ips"] = [_encode_address(address, older(version, "1.0.0")) for address in result.ips]
    if result.routes:
        answer["routes"] = [_encode_route(route, version) for route in result.routes]
    answer["dns"] = dict(result.dns)
    return msgspec.json.encode(answer) + b"\n"


def _encode_families(result: Result, version: str) -> dict[str, Any]:
    """Before 0.3.0 there was one address of each family, and no interface."""
    answer: dict[str, Any] = {"cniVersion": version}
    for family, six in (("ip4", False), ("ip6", True)):
        address = next((one for one in result.ips if (":" in one.address) == six), None)
        if address is None:
            continue
        row: dict[str, Any] = {"ip": address.address}
        if address.gateway:
            row["gateway"] = address.gateway
        routes = [_encode_route(route, version) for route in result.routes if (":" in route.dst) == six]
        if routes:
            row["routes"] = routes
        answer[family] = row
    return {**answer, "dns": dict(result.dns)}


def _encode_interface(interface: Interface, version: str) -> dict[str, Any]:
    row: dict[str, Any] = {"name": interface.name}
    if interface.mac:
        row["mac"] = interface.mac
    if interface.sandbox:
        row["sandbox"] = interface.sandbox
    if not older(version, "1.1.0"):
        new = (("mtu", interface.mtu), ("socketPath", interface.socket_path), ("pciID", interface.pci_id))
        row.update({key: value for key, value in new if value})
    return row


def _encode_address(address: Address, old: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"address": address.address}
    if old:
        row["version"] = "6" if ":" in address.address else "4"
    if address.gateway:
        row["gateway"] = address.gateway
    if address.interface is not None:
        row["interface"] = address.interface
    return row


def _encode_route(route: Destination, version: str) -> dict[str, Any]:
    row: dict[str, Any] = {"dst": route.dst}
    if route.gw:
        row["gw"] = route.gw
    if not older(version, "1.1.0"):
        new = (("mtu", route.mtu), ("advmss", route.advmss), ("priority", route.priority))
        row.update({key: value for key, value in new if value})
        row.update({k: v for k, v in (("table", route.table), ("scope", route.scope)) if v is not None})
    return row
