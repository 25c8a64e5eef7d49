"""The CNI contract, pure: environment and stdin → `Request`, or a numbered `CniError`; `Result` → JSON of its version.

Source: containernetworking/cni SPEC.md 1.1.0 and CONVENTIONS.md; what runtimes really send is in the tests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")

INCOMPATIBLE_VERSION = 1
UNSUPPORTED_FIELD = 2
UNKNOWN_CONTAINER = 3
BAD_ENVIRONMENT = 4
IO_FAILURE = 5
DECODE_FAILURE = 6
BAD_CONFIG = 7
BAD_NETNS = 8
TRY_AGAIN = 11
UNAVAILABLE = 50
INTERNAL = 999
DRIFT = 100
"""CHECK found something else in the kernel than the attachment says."""

_IDENTIFIER = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_REQUIRED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "VERSION": (),
}
_SINCE = {"CHECK": "0.4.0"}
_MAX_IDENTIFIER = 200


class CniError(Exception):
    """A refusal that the runtime shows: code (the spec's below 100), msg, details."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        super().__init__(f"{msg}: {details}" if details else msg)
        self.code = code
        self.msg = msg
        self.details = details

    def encode(self, version: str) -> bytes:
        answer: dict[str, Any] = {"cniVersion": version or "1.0.0", "code": self.code, "msg": self.msg}
        if self.details:
            answer["details"] = self.details
        return json.dumps(answer).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Request:
    """One call. `args` is CNI_ARGS taken apart; `runtime` is runtimeConfig with lower-case keys throughout."""

    command: str
    version: str
    network: str
    container_id: str
    interface: str
    netns: str
    role: str = "podwire"
    args: Mapping[str, str] = field(default_factory=dict)
    runtime: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    previous: Result | None = None
    valid: frozenset[tuple[str, str]] | None = None
    """GC's valid attachments as (container ID, interface); None when the call carries no list."""

    @property
    def namespace(self) -> str:
        return self.args.get("K8S_POD_NAMESPACE", "")

    @property
    def pod(self) -> str:
        return self.args.get("K8S_POD_NAME", "")

    @property
    def uid(self) -> str:
        return self.args.get("K8S_POD_UID", "")


@dataclass(frozen=True, slots=True)
class Interface:
    """`sandbox` is CNI_NETNS as given for an interface in the pod, "" for one of the host."""

    name: str
    mac: str = ""
    mtu: int = 0
    sandbox: str = ""


@dataclass(frozen=True, slots=True)
class Address:
    """`address` is a CIDR; `interface` an index into the result's interfaces, or None."""

    address: str
    gateway: str = ""
    interface: int | None = None


@dataclass(frozen=True, slots=True)
class Destination:
    """A route of the result."""

    dst: str
    gw: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What an ADD made."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[Address, ...] = ()
    routes: tuple[Destination, ...] = ()
    dns: Mapping[str, Any] = field(default_factory=dict)


def parse(env: Mapping[str, str], stdin: bytes) -> Request:
    """The request. Raises CniError with the spec's code and every fault of the environment in one message."""
    command = env.get("CNI_COMMAND", "")
    if command not in _REQUIRED:
        raise CniError(BAD_ENVIRONMENT, f"unknown CNI_COMMAND: {command!r}")
    missing = [name for name in _REQUIRED[command] if not env.get(name)]
    if missing:
        raise CniError(BAD_ENVIRONMENT, f"required env variables [{','.join(missing)}] missing")
    container_id, interface = env.get("CNI_CONTAINERID", ""), env.get("CNI_IFNAME", "")
    if command != "VERSION":
        _check_identifier("CNI_CONTAINERID", container_id, BAD_ENVIRONMENT)
        _check_interface(interface)
    config = _decode_config(stdin)
    version = _version(config)
    if command in _SINCE and VERSIONS.index(version) < VERSIONS.index(_SINCE[command]):
        raise CniError(INCOMPATIBLE_VERSION, f"config version {version!r} does not allow {command}")
    if command != "VERSION":
        if not isinstance(config.get("name"), str) or not config["name"]:
            raise CniError(BAD_CONFIG, "missing network name")
        _check_identifier("network name", config["name"], BAD_CONFIG)
    return Request(
        command=command,
        version=version,
        network=str(config.get("name", "")),
        container_id=container_id,
        interface=interface,
        netns=env.get("CNI_NETNS", ""),
        role=env.get("PODWIRE_ROLE", "podwire"),
        args=_parse_args(env.get("CNI_ARGS", "")),
        runtime=_lower(_mapping(config, "runtimeConfig")),
        config=config,
        previous=_decode_previous(config),
    )


def stated_version(stdin: bytes) -> str:
    """The configuration's cniVersion for an error reply, whatever else is wrong with it."""
    try:
        return _version(_decode_config(stdin))
    except CniError:
        return "1.0.0"


def _check_identifier(what: str, value: str, code: int) -> None:
    if len(value) > _MAX_IDENTIFIER or not _IDENTIFIER.fullmatch(value):
        raise CniError(code, f"invalid characters in {what}", value[:_MAX_IDENTIFIER])


def _check_interface(name: str) -> None:
    bad = len(name.encode()) > 15 or name in (".", "..") or any(c in "/:" or c.isspace() for c in name)
    if bad:
        raise CniError(BAD_ENVIRONMENT, "CNI_IFNAME is not an interface name", name[:64])


def _decode_config(stdin: bytes) -> dict[str, Any]:
    try:
        config = json.loads(stdin)
    except (ValueError, RecursionError) as error:
        raise CniError(DECODE_FAILURE, "cannot decode the network configuration", str(error)) from None
    if not isinstance(config, dict):
        raise CniError(DECODE_FAILURE, "cannot decode the network configuration", "it is not a JSON object")
    return config


def _version(config: Mapping[str, Any]) -> str:
    version = config.get("cniVersion") or "0.3.1"
    if version not in VERSIONS:
        supported = ", ".join(VERSIONS)
        raise CniError(
            INCOMPATIBLE_VERSION, "incompatible CNI versions", f"config is {version!r}, plugin supports {supported}"
        )
    return str(version)


def _parse_args(text: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for part in filter(None, text.split(";")):
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise CniError(BAD_ENVIRONMENT, "CNI_ARGS is not a list of KEY=VALUE", part[:64])
        pairs[key] = value
    return pairs


def _mapping(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise CniError(BAD_CONFIG, f"{key} is not an object")
    return value


def _lower(value: Any) -> Any:
    """Keys in lower case at every depth: containerd sends Go's field names, CRI-O JSON's."""
    if isinstance(value, dict):
        return {str(key).lower(): _lower(item) for key, item in value.items()}
    return [_lower(item) for item in value] if isinstance(value, list) else value


def _decode_previous(config: Mapping[str, Any]) -> Result | None:
    raw = config.get("prevResult")
    if raw is None:
        return None
    try:
        return Result(
            tuple(
                Interface(str(i["name"]), str(i.get("mac", "")), int(i.get("mtu", 0)), str(i.get("sandbox", "")))
                for i in raw.get("interfaces") or ()
            ),
            tuple(
                Address(str(a["address"]), str(a.get("gateway", "")), a.get("interface")) for a in raw.get("ips") or ()
            ),
            tuple(Destination(str(r["dst"]), str(r.get("gw", ""))) for r in raw.get("routes") or ()),
            dict(raw.get("dns") or {}),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CniError(DECODE_FAILURE, "cannot decode prevResult", repr(error)) from None


def encode(result: Result, version: str) -> bytes:
    """JSON of the result in the shape of `version`: without what it does not know, with what it needs."""
    old = VERSIONS.index(version) < VERSIONS.index("1.0.0")
    answer: dict[str, Any] = {"cniVersion": version}
    answer["interfaces"] = [_encode_interface(interface, version) for interface in result.interfaces]
    answer["ips"] = [_encode_address(address, old) for address in result.ips]
    if result.routes:
        answer["routes"] = [{"dst": r.dst, "gw": r.gw} if r.gw else {"dst": r.dst} for r in result.routes]
    answer["dns"] = dict(result.dns)
    return json.dumps(answer).encode() + b"\n"


def _encode_interface(interface: Interface, version: str) -> dict[str, Any]:
    row: dict[str, Any] = {"name": interface.name}
    if interface.mac:
        row["mac"] = interface.mac
    if interface.mtu and version == "1.1.0":
        row["mtu"] = interface.mtu
    if interface.sandbox:
        row["sandbox"] = interface.sandbox
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
