"""The CNI contract, pure: environment and stdin → `Request`, or a numbered `CniError`; `Result` → JSON of its version.

Whatever comes in, one of the two goes out: callers are programs of others, and the input is hostile until checked.
Source: containernetworking/cni SPEC.md 1.1.0 and CONVENTIONS.md; what runtimes really send is in the tests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec

from podwire.cni.errors import (
    BAD_CONFIG,
    BAD_ENVIRONMENT,
    BAD_NETNS,
    DECODE_FAILURE,
    DRIFT,
    INCOMPATIBLE_VERSION,
    INTERNAL,
    IO_FAILURE,
    LIMITED,
    TRY_AGAIN,
    UNAVAILABLE,
    UNKNOWN_CONTAINER,
    UNSTATED_VERSION,
    UNSUPPORTED_FIELD,
    VERSIONS,
    CniError,
    older,
)
from podwire.cni.result import Address, Destination, Interface, Result, decode, encode

__all__ = [
    "BAD_CONFIG",
    "BAD_ENVIRONMENT",
    "BAD_NETNS",
    "DECODE_FAILURE",
    "DRIFT",
    "INCOMPATIBLE_VERSION",
    "INTERNAL",
    "IO_FAILURE",
    "LIMITED",
    "TRY_AGAIN",
    "UNAVAILABLE",
    "UNKNOWN_CONTAINER",
    "UNSUPPORTED_FIELD",
    "VERSIONS",
    "Address",
    "CniError",
    "Destination",
    "Interface",
    "Request",
    "Result",
    "encode",
    "parse",
    "stated_version",
]

ANNOTATIONS = "io.kubernetes.cri.pod-annotations"
_IDENTIFIER = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_ATTACHED = ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH")
_REQUIRED: dict[str, tuple[str, ...]] = {
    "ADD": _ATTACHED,
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"),
    "CHECK": _ATTACHED,
    "GC": ("CNI_PATH",),
    "STATUS": ("CNI_PATH",),
    "VERSION": (),
}
_SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
_VALID_KEYS = ("cni.dev/valid-attachments", "cni.dev/attachments")
MAX_IDENTIFIER = 200
"""Bytes of a container ID or network name: records and the spool name files by them."""
_MAX_POD_NAME = 253
_MAX_PATH = 4096
_MAX_KEPT = 4096
"""Bytes of a network configuration that is remembered: pods of one network come with the same."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call. `args` is CNI_ARGS taken apart; `runtime` is runtimeConfig with lower-case keys throughout, but for
    the names of annotations."""

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
    """GC's valid attachments as (container ID, interface); None when the call carries no list: nothing is stale."""

    @property
    def namespace(self) -> str:
        return self.args.get("K8S_POD_NAMESPACE", "")

    @property
    def pod(self) -> str:
        return self.args.get("K8S_POD_NAME", "")

    @property
    def uid(self) -> str:
        return self.args.get("K8S_POD_UID", "")

    @property
    def annotations(self) -> Mapping[str, str]:
        """The pod's annotations, where the runtime sends them (containerd does)."""
        given = self.runtime.get(ANNOTATIONS)
        return {k: v for k, v in given.items() if isinstance(v, str)} if isinstance(given, dict) else {}


def parse(env: Mapping[str, str], stdin: bytes) -> Request:
    """The request. Raises CniError with the spec's code and every fault of the environment in one message."""
    command = env.get("CNI_COMMAND", "")
    if command not in _REQUIRED:
        raise CniError(BAD_ENVIRONMENT, "unknown CNI_COMMAND", f"{command[:64]!r} is none of {', '.join(_REQUIRED)}")
    _check_environment(command, env)
    config = _decode_config(stdin)
    version = _version(config)
    if command in _SINCE and older(version, _SINCE[command]):
        details = f"{command} exists since {_SINCE[command]}"
        raise CniError(INCOMPATIBLE_VERSION, f"config version {version!r} does not allow {command}", details)
    if command != "VERSION":
        _check_network(config)
    try:
        return Request(
            command=command,
            version=version,
            network=str(config.get("name", "")),
            container_id=env.get("CNI_CONTAINERID", ""),
            interface=env.get("CNI_IFNAME", ""),
            netns=env.get("CNI_NETNS", ""),
            role=env.get("PODWIRE_ROLE", "podwire"),
            args=_parse_args(env.get("CNI_ARGS", "")),
            runtime=_runtime(_mapping(config, "runtimeConfig")),
            config=config,
            previous=_previous(command, config),
            valid=_valid(config) if command == "GC" else None,
        )
    except RecursionError:
        raise CniError(DECODE_FAILURE, "cannot decode the network configuration", "it is nested too deeply") from None


def _previous(command: str, config: Mapping[str, Any]) -> Result | None:
    """prevResult, checked; nothing that ends an attachment reads it, nor may fail for it."""
    raw = None if command == "DEL" else config.get("prevResult")
    return None if raw is None else decode(raw)


def stated_version(stdin: bytes) -> str:
    """The configuration's cniVersion for an error reply, whatever else is wrong with it."""
    try:
        return _version(_decode_config(stdin))
    except CniError:
        return "1.0.0"


def _check_environment(command: str, env: Mapping[str, str]) -> None:
    missing = [name for name in _REQUIRED[command] if not env.get(name)]
    if missing:
        raise CniError(BAD_ENVIRONMENT, f"required env variables [{','.join(missing)}] missing")
    if "CNI_IFNAME" in _REQUIRED[command]:
        _check_identifier("CNI_CONTAINERID", env["CNI_CONTAINERID"], BAD_ENVIRONMENT)
        check_interface("CNI_IFNAME", env["CNI_IFNAME"], BAD_ENVIRONMENT)
        if len(env.get("CNI_NETNS", "")) > _MAX_PATH or "\0" in env.get("CNI_NETNS", ""):
            raise CniError(BAD_ENVIRONMENT, "CNI_NETNS is no path", env["CNI_NETNS"][:64])


def _check_network(config: Mapping[str, Any]) -> None:
    name = config.get("name")
    if name is None or name == "":
        raise CniError(BAD_CONFIG, "missing network name", 'the configuration has no "name"')
    if not isinstance(name, str):
        raise CniError(BAD_CONFIG, "the network name is not a string", repr(name)[:64])
    _check_identifier("network name", name, BAD_CONFIG)


def _check_identifier(what: str, value: str, code: int) -> None:
    if len(value) > MAX_IDENTIFIER:
        raise CniError(code, f"{what} is too long", f"{len(value)} characters, the limit is {MAX_IDENTIFIER}")
    if not _IDENTIFIER.fullmatch(value):
        raise CniError(code, f"invalid characters in {what}", value)


def check_interface(what: str, name: str, code: int) -> None:
    """Raises CniError of `code` for what Linux takes for no interface name."""
    size = len(name.encode(errors="surrogatepass"))
    if not 0 < size <= 15 or name in (".", "..") or any(c in "/:\0" or c.isspace() for c in name):
        raise CniError(code, f"{what} is not an interface name", name[:64])


def _decode_config(stdin: bytes) -> Mapping[str, Any]:
    """Not to be changed: others may be given the same."""
    return _decode_again(stdin) if len(stdin) <= _MAX_KEPT else _decode(stdin)


def _decode(stdin: bytes) -> Mapping[str, Any]:
    """Of a key that comes twice the last counts, as Go's decoder has it, and so as the plugins beside us see it."""
    try:
        config = msgspec.json.decode(stdin)
    except RecursionError:
        raise CniError(DECODE_FAILURE, "cannot decode the network configuration", "it is nested too deeply") from None
    except (ValueError, OverflowError) as error:
        raise CniError(DECODE_FAILURE, "cannot decode the network configuration", str(error)) from None
    if not isinstance(config, dict):
        raise CniError(DECODE_FAILURE, "cannot decode the network configuration", "it is not a JSON object")
    return config


_decode_again = lru_cache(16)(_decode)


def _version(config: Mapping[str, Any]) -> str:
    version = config.get("cniVersion")
    if version is None or version == "":
        return UNSTATED_VERSION
    if version not in VERSIONS:
        details = f"config is {repr(version)[:64]}, plugin supports {', '.join(VERSIONS)}"
        raise CniError(INCOMPATIBLE_VERSION, "incompatible CNI versions", details)
    return str(version)


def _parse_args(text: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for part in filter(None, text.split(";")):
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise CniError(BAD_ENVIRONMENT, "CNI_ARGS is not a list of KEY=VALUE", part[:64])
        pairs[key] = value
    for key in ("K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_UID"):
        value = pairs.get(key, "")
        # not only Kubernetes' names: podman sends a container's, with capitals and underscores
        if len(value) > _MAX_POD_NAME or not value.isprintable() or "/" in value:
            raise CniError(BAD_ENVIRONMENT, f"{key} in CNI_ARGS is no name", value[:64])
    return pairs


def _mapping(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = {} if config.get(key) is None else config[key]
    if not isinstance(value, dict):
        raise CniError(BAD_CONFIG, f"{key} is not an object")
    return value


def _runtime(given: dict[str, Any]) -> dict[str, Any]:
    """Keys in lower case at every depth: containerd sends Go's field names, CRI-O JSON's. Annotations stay as named."""
    return {key.lower(): item if key.lower() == ANNOTATIONS else _lower(item) for key, item in given.items()}


def _lower(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key).lower(): _lower(item) for key, item in value.items()}
    return [_lower(item) for item in value] if isinstance(value, list) else value


def _valid(config: Mapping[str, Any]) -> frozenset[tuple[str, str]] | None:
    """An entry that cannot be read refuses the whole: nothing is collected by half a list."""
    key = next((key for key in _VALID_KEYS if config.get(key) is not None), None)
    if key is None:
        return None
    entries = config[key]
    if not isinstance(entries, list):
        raise CniError(BAD_CONFIG, f"{key} is not a list")
    return frozenset(_attachment(entry, f"{key}[{i}]") for i, entry in enumerate(entries))


def _attachment(entry: Any, where: str) -> tuple[str, str]:
    if not isinstance(entry, dict):
        raise CniError(BAD_CONFIG, f"{where} is not an object", repr(entry)[:64])
    found = {str(key).lower(): value for key, value in entry.items()}
    container_id, interface = found.get("containerid"), found.get("ifname")
    if not isinstance(container_id, str) or not isinstance(interface, str):
        raise CniError(BAD_CONFIG, f"{where} needs containerID and ifname, both strings", repr(entry)[:256])
    _check_identifier(f"{where}.containerID", container_id, BAD_CONFIG)
    check_interface(f"{where}.ifname", interface, BAD_CONFIG)
    return container_id, interface
