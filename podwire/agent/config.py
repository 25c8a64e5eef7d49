"""The agent's settings: defaults, then agent.toml, then PODWIRE_* of the environment."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

CONFIG_FILE = Path("/etc/podwire/agent.toml")


ON, STRICT = "on", "strict"
_CHOICES = {
    "log_format": ("text", "json"),
    "policy_enforce": (ON, "off"),
    "policy_established": ("keep", STRICT),
}


class ConfigError(Exception):
    """A setting that cannot be used; the text names it and its source."""


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """Everything the agent is told. Paths are the node's; `mtu` is that of pods (bytes; 0: as the datapath
    in use allows); `leak_grace` is for how long an address must look unused before it is freed (seconds; 0: never while
    its node lives). `network` is routed or kubenet, `ipam` blocks or host-local: what the installed CNI configuration
    asks for. `cluster_duties` makes this agent a candidate for what one process does for all nodes (see `duties`; its
    Lease is in `lease_namespace`). `floating_ips` and `source_prefixes` let pods ask for such by annotation. Without a
    `kubeconfig` file the identity is the `service_account` of the pod that this process runs in; `api_server`
    (https://HOST:PORT) is then where the API is, if not at the kubernetes Service. `proc_sys` is where sysctls can be
    written: a container's own /proc/sys is read-only. With `set_aside` other plugins' CNI configurations make way.
    `policy_enforce` (on, off) says whether network policy is enforced, `policy_established` (keep, strict) what becomes
    of connections that a policy forbids when they stand already. `log_format` is text or json."""

    node_name: str
    kubeconfig: Path = Path("/etc/podwire/kubeconfig")
    node_ip: str = ""
    socket: Path = Path("/run/podwire/cni.sock")
    conf_dir: Path = Path("/etc/cni/net.d")
    bin_dir: Path = Path("/opt/cni/bin")
    state_dir: Path = Path("/var/lib/podwire")
    shim: Path = Path("/var/cache/podwire/bin/podwire-shim")
    install_cni: bool = True
    health_port: int = 9098
    mtu: int = 0
    vxlan_vni: int = 4096
    vxlan_port: int = 4789
    leak_grace: int = 900
    network: str = "routed"
    ipam: str = "blocks"
    floating_ips: bool = True
    source_prefixes: bool = False
    cluster_duties: bool = True
    lease_namespace: str = "kube-system"
    service_account: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount")
    api_server: str = ""
    proc_sys: Path = Path("/proc/sys")
    set_aside: bool = False
    log_format: str = "text"
    policy_enforce: str = "on"
    policy_established: str = "keep"

    @property
    def spool(self) -> Path:
        return self.state_dir / "cni-spool"

    @property
    def attachments(self) -> Path:
        return self.state_dir / "attachments"


def load(
    path: Path = CONFIG_FILE,
    environment: Mapping[str, str] | None = None,
    defaults: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> AgentConfig:
    """The configuration; `overrides` (from flags) win, `defaults` stand where nothing else is said. Raises ConfigError
    naming the setting."""
    environment = os.environ if environment is None else environment
    settings: dict[str, Any] = {}
    if path.exists():
        try:
            settings = tomllib.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: {error}") from None
    for name, inner in [(name, inner) for name, inner in settings.items() if isinstance(inner, dict)]:
        del settings[name]  # `policy.enforce = "off"`: a table
        settings |= {f"{name}_{part}": value for part, value in inner.items()}
    known = {field.name: field.type for field in fields(AgentConfig)}
    for name in settings:
        if name not in known:
            raise ConfigError(f"{path}: unknown setting {name!r}")
    for name in known:
        if (value := environment.get(f"PODWIRE_{name.upper()}")) is not None:
            settings[name] = value
    settings |= {name: value for name, value in overrides.items() if value is not None}
    if not settings.get("node_name"):
        raise ConfigError("node_name is not set (agent.toml, PODWIRE_NODE_NAME or --node-name)")
    settings = {**(defaults or {}), **settings}
    config = AgentConfig(**{name: _convert(name, str(known[name]), value) for name, value in settings.items()})
    for name, choices in _CHOICES.items():
        if (value := getattr(config, name)) not in choices:
            raise ConfigError(f"{name}: neither {' nor '.join(choices)}: {value!r}")
    return config


def _convert(name: str, kind: str, value: Any) -> Any:
    if kind == "Path":
        return Path(value)
    if kind == "int":
        try:
            return int(value)
        except (TypeError, ValueError):
            raise ConfigError(f"{name}: not a number: {value!r}") from None
    if kind == "bool":
        if isinstance(value, bool):
            return value
        if str(value).lower() not in ("true", "false", "1", "0"):
            raise ConfigError(f"{name}: neither true nor false: {value!r}")
        return str(value).lower() in ("true", "1")
    if not isinstance(value, str):
        raise ConfigError(f"{name}: not a text: {value!r}")
    return value
