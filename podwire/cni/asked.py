"""What an attachment shall look like, from all who may have a say: the runtime's call, the pod's annotations, its
namespace's, the network's configuration, in falling order where they contradict. Pure.

Source: Calico's CNI plugin (annotation names, their syntax, `ipam.assign_ipv4` and so on); `sysctl` is the key of the
reference plugin `tuning`.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from podwire.cni import capabilities, plan
from podwire.cni.spec import BAD_CONFIG, CniError, Request
from podwire.ipam.wish import Wish

_PREFIX = "cni.projectcalico.org/"
IP_ADDRS = _PREFIX + "ipAddrs"
HW_ADDR = _PREFIX + "hwAddr"
FLOATING_IPS = _PREFIX + "floatingIPs"
IP_FAMILIES = _PREFIX + "ipFamilies"
SOURCES = _PREFIX + "allowedSourcePrefixes"
POOLS = {4: _PREFIX + "ipv4pools", 6: _PREFIX + "ipv6pools"}

_FAMILY = {"ipv4": 4, "ipv6": 6}
_SYSCTL_PART = re.compile(r"[A-Za-z0-9_.\-@]+")


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What the API says of the pod and of its namespace."""

    annotations: Mapping[str, str] = field(default_factory=dict)
    namespace_annotations: Mapping[str, str] = field(default_factory=dict)
    namespace_labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asked:
    """`families` in the order of the result; `exact` at most one address a family; `pools` are names or
    CIDRs; `mtu` 0 and `mac` "" leave the choice to the agent; `sysctls` are (path below /proc/sys, value)."""

    families: tuple[int, ...] = (4,)
    exact: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    mac: str = ""
    mtu: int = 0
    sysctls: tuple[tuple[str, str], ...] = ()
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    floating: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Features:
    """What pods may ask for; `feature_control` of the network's configuration goes before."""

    floating_ips: bool = True
    source_prefixes: bool = False


def asked(request: Request, facts: PodFacts | None = None, features: Features | None = None) -> Asked:
    """Raises CniError 7 naming the annotation and the object that has it, or the configuration's key."""
    facts, features = facts or PodFacts(), features or Features()
    pod = _Annotations(f"pod {request.namespace}/{request.pod}", facts.annotations)
    namespace = _Annotations(f"namespace {request.namespace}", facts.namespace_annotations)
    ipam = _section(request.config, "ipam")
    exact = pod.addresses(IP_ADDRS)
    if not exact:
        exact = _one_a_family("runtimeConfig.ips", capabilities.addresses(request))
    control = _section(request.config, "feature_control")
    families = tuple(_family(text) for text in exact) or _families(pod, namespace, ipam)
    return Asked(
        families=families,
        exact=exact,
        pools=tuple(pool for one in families for pool in _pools(one, pod, namespace, ipam)),
        mac=pod.mac() or capabilities.mac(request),
        mtu=_mtu(request.config),
        sysctls=_sysctls(request),
        namespace_labels=dict(facts.namespace_labels),
        floating=_floating(pod, _flag(control, "floating_ips", features.floating_ips, "feature_control")),
        sources=_sources(pod, _flag(control, "source_prefixes", features.source_prefixes, "feature_control")),
    )


def _floating(pod: _Annotations, allowed: bool) -> tuple[str, ...]:
    """Addresses that shall lead to the pod. Raises CniError 7."""
    texts = pod.strings(FLOATING_IPS)
    if not texts:
        return ()
    if not allowed:
        text = "asking for floating addresses, which are switched off here: remove it, or see floating_ips"
        raise pod.fault(FLOATING_IPS, text, "")
    found: dict[str, None] = {}
    for text in texts:
        try:
            one = ipaddress.ip_address(text)
        except ValueError:
            raise pod.fault(FLOATING_IPS, "no list of IP addresses", text) from None
        if one.is_loopback or one.is_unspecified or one.is_multicast or one.is_link_local:
            raise pod.fault(FLOATING_IPS, "no list of addresses that can be routed to a pod", text)
        found[str(one)] = None
    return tuple(found)


def _sources(pod: _Annotations, allowed: bool) -> tuple[str, ...]:
    """Prefixes that the pod may speak from. Raises CniError 7."""
    texts = pod.strings(SOURCES)
    if not texts:
        return ()
    if not allowed:
        text = "asking to speak from other addresses, which is switched off here: remove it, or see source_prefixes"
        raise pod.fault(SOURCES, text, "")
    try:
        four = [ipaddress.IPv4Network(text) for text in texts if ":" not in text]
        six = [ipaddress.IPv6Network(text) for text in texts if ":" in text]
    except ValueError as error:
        raise pod.fault(SOURCES, f"no list of prefixes: {error}", "") from None
    # what overlaps cannot stand in one set
    return tuple(map(str, [*ipaddress.collapse_addresses(four), *ipaddress.collapse_addresses(six)]))


def wish(request: Request, node: str, wanted: Asked) -> Wish:
    """What IPAM is asked for; the facts are kept with the addresses."""
    facts = {"node": node, "namespace": request.namespace, "pod": request.pod}
    return Wish(
        plan.handle(request),
        {name: value for name, value in facts.items() if value},
        families=wanted.families,
        pools=wanted.pools,
        exact=wanted.exact,
        namespace_labels=wanted.namespace_labels,
    )


@dataclass(frozen=True, slots=True)
class _Annotations:
    """Those of one object; `what` names it."""

    what: str
    values: Mapping[str, str]

    def strings(self, name: str) -> tuple[str, ...]:
        """A JSON list of strings; () when the annotation is not there."""
        raw = self.values.get(name)
        if raw is None:
            return ()
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
            raise self.fault(name, 'no JSON list of strings, such as ["10.244.1.7"]', raw)
        return tuple(value)

    def addresses(self, name: str) -> tuple[str, ...]:
        texts = self.strings(name)
        return _one_a_family(f"annotation {name} of {self.what}", texts) if texts else ()

    def mac(self) -> str:
        text = self.values.get(HW_ADDR, "").strip().lower().replace("-", ":")
        if text:
            capabilities.check_mac(f"annotation {HW_ADDR} of {self.what}", text)
        return text

    def fault(self, name: str, text: str, raw: str) -> CniError:
        return CniError(BAD_CONFIG, f"annotation {name} of {self.what} is {text}", raw[:64])


def _one_a_family(where: str, texts: Sequence[str]) -> tuple[str, ...]:
    found: dict[int, str] = {}
    for text in texts:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            raise CniError(BAD_CONFIG, f"{where}: no IP address", text[:64]) from None
        if address.version in found:
            raise CniError(BAD_CONFIG, f"{where}: more than one IPv{address.version} address", text[:64])
        found[address.version] = str(address)
    return tuple(found.values())


def _family(text: str) -> int:
    return 6 if ":" in text else 4


def _families(pod: _Annotations, namespace: _Annotations, ipam: Mapping[str, Any]) -> tuple[int, ...]:
    for level in (pod, namespace):
        names = level.strings(IP_FAMILIES)
        if not names:
            continue
        wrong = [name for name in names if name.lower() not in _FAMILY]
        if wrong or len(set(map(str.lower, names))) != len(names):
            raise level.fault(IP_FAMILIES, 'no list of "IPv4" and "IPv6", each at most once', json.dumps(names))
        return tuple(_FAMILY[name.lower()] for name in names)
    wanted = {4: _flag(ipam, "assign_ipv4", True), 6: _flag(ipam, "assign_ipv6", False)}
    if not any(wanted.values()):
        raise CniError(BAD_CONFIG, "ipam: assign_ipv4 and assign_ipv6 are both false")
    return tuple(family for family, yes in wanted.items() if yes)


def _pools(family: int, pod: _Annotations, namespace: _Annotations, ipam: Mapping[str, Any]) -> tuple[str, ...]:
    for level in (pod, namespace):
        if found := level.strings(POOLS[family]):
            return found
    key = f"ipv{family}_pools"
    stated = ipam.get(key) or ()
    if not stated:
        return ()
    if not isinstance(stated, list | tuple) or not all(isinstance(item, str) for item in stated):
        raise CniError(BAD_CONFIG, f"ipam.{key} is not a list of pools")
    return tuple(stated)


def _flag(section: Mapping[str, Any], key: str, default: bool, where: str = "ipam") -> bool:
    """Calico writes these as strings."""
    value = section.get(key, default)
    if isinstance(value, bool):
        return value
    text = str(value).lower()
    if text not in ("true", "false"):
        raise CniError(BAD_CONFIG, f"{where}.{key} is neither true nor false", text[:64])
    return text == "true"


def _section(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key)
    if value is not None and not isinstance(value, Mapping):
        raise CniError(BAD_CONFIG, f"{key} is not an object")
    return value or {}


def _mtu(config: Mapping[str, Any]) -> int:
    value = config.get("mtu") or 0
    # the lower limits are IPv4's and the kernel's for Ethernet devices
    if isinstance(value, bool) or not isinstance(value, int) or (value and not 68 <= value <= 65535):
        raise CniError(BAD_CONFIG, "mtu is no number of bytes between 68 and 65535", repr(value)[:64])
    return value


def _sysctls(request: Request) -> tuple[tuple[str, str], ...]:
    stated = _section(request.config, "sysctl")
    if not stated:
        return ()
    return tuple(
        (_sysctl_path(str(name), request.interface), _sysctl_value(str(name), v)) for name, v in stated.items()
    )


def _sysctl_path(name: str, interface: str) -> str:
    """`net.ipv4.conf.IFNAME.x`, or the same with slashes (for interfaces with a dot)."""
    parts = name.split("/") if "/" in name else name.split(".")
    parts = [interface if part == "IFNAME" else part for part in parts]
    sane = all(_SYSCTL_PART.fullmatch(part) and part not in (".", "..") for part in parts)
    if parts[0] != "net" or len(parts) < 2 or not sane:
        raise CniError(BAD_CONFIG, "sysctl: only names below net. can be set for a pod", name[:64])
    return "/".join(parts)


def _sysctl_value(name: str, value: Any) -> str:
    if not isinstance(value, str | int) or any(c in str(value) for c in "\0\n"):
        raise CniError(BAD_CONFIG, f"sysctl {name[:64]}: the value is neither text nor number")
    return str(int(value)) if isinstance(value, bool) else str(value)
