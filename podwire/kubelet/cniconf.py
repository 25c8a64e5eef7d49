"""Reading CNI network configuration as libcni does: which file wins, which version is spoken, what each plugin is told.

Pure but for `load`. Source: containernetworking/cni libcni/conf.go, api.go and SPEC.md 1.1.0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

CNI_VERSION = "1.1.0"
NOT_INITIALIZED = "cni plugin not initialized"
_SUFFIXES = (".conf", ".conflist", ".json")


class CniError(Exception):
    """A network could not be set up, checked or torn down; the text is what a container runtime would print."""


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """One network: its plugins in order, each as in the file, and the version that all of them speak."""

    name: str
    version: str
    plugins: tuple[dict[str, Any], ...]
    text: bytes
    disable_check: bool = False
    disable_gc: bool = False

    def speaks(self, version: str) -> bool:
        """Whether the network's version is at least this one: CHECK came with 0.4.0, GC and STATUS with 1.1.0."""
        return version_key(self.version) >= version_key(version)


def version_key(text: str) -> tuple[int, ...]:
    """`0.4.0` as numbers; text that is no version sorts lowest."""
    try:
        return tuple(int(part) for part in text.split("."))
    except ValueError:
        return (0,)


def negotiate(config: Mapping[str, Any]) -> str:
    """The highest version of cniVersion and cniVersions that we speak; a lone cniVersion is taken literally.

    Raises CniError.
    """
    own = config.get("cniVersion") or "0.1.0"
    offered = config.get("cniVersions")
    if not isinstance(own, str):
        raise CniError(f"error parsing configuration list: invalid type for cniVersion: {own!r}")
    if offered is None:
        return str(own)
    if not isinstance(offered, list) or not all(isinstance(version, str) for version in offered):
        raise CniError(f"error parsing configuration list: invalid type for cniVersions: {offered!r}")
    fit = [version for version in [own, *offered] if (0,) < version_key(version) <= version_key(CNI_VERSION)]
    if not fit:
        raise CniError(f"no compatible CNI version: {', '.join([own, *offered])}")
    return str(max(fit, key=version_key))


def _truth(config: Mapping[str, Any], key: str) -> bool:
    """A boolean, or the word for it. Raises CniError."""
    value = config.get(key, False)
    if value not in (True, False, "true", "false"):
        raise CniError(f"error parsing configuration list: invalid value for {key}: {value!r}")
    return value in (True, "true")


def parse(text: bytes, extra: Path | None = None) -> NetworkConfig:
    """Decode a conflist, or a single plugin's conf. Raises CniError with the reason.

    `extra` is the configuration directory: plugins of `<extra>/<name>/*.conf` follow the inlined ones unless
    loadOnlyInlinedPlugins says no.
    """
    try:
        config = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise CniError(f"error parsing configuration list: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("name"), str) or not config["name"]:
        raise CniError("error parsing configuration list: no name")
    version = negotiate(config)
    if "plugins" not in config and "type" in config:
        plugins: Any = [config]
    else:
        plugins = config.get("plugins", [])
        alone = _truth(config, "loadOnlyInlinedPlugins")
        if not isinstance(plugins, list):
            raise CniError("error parsing configuration list: invalid type for plugins")
        if "plugins" in config and not plugins:
            raise CniError("error parsing configuration list: no plugins in list")
        if alone and not plugins:
            raise CniError("error parsing configuration list: `loadOnlyInlinedPlugins` is true, and no `plugins` key")
        if extra is not None and not alone:
            plugins = [*plugins, *_dropped_in(extra / config["name"])]
    if not plugins:
        raise CniError("error parsing configuration list: no plugin configs found")
    for plugin in plugins:
        if not isinstance(plugin, dict) or not isinstance(plugin.get("type"), str) or not plugin["type"]:
            raise CniError("error parsing configuration list: missing 'type'")
        if not isinstance(plugin.get("capabilities") or {}, dict):
            raise CniError("error parsing configuration list: invalid type for capabilities")
    flags = (_truth(config, "disableCheck"), _truth(config, "disableGC"))
    return NetworkConfig(config["name"], version, tuple(plugins), text, *flags)


def _dropped_in(directory: Path) -> list[Any]:
    """Plugins that other products add to a network, one file each. Raises CniError."""
    found = []
    for file in sorted(directory.glob("*.conf")):
        try:
            found.append(msgspec.json.decode(file.read_bytes()))
        except (OSError, msgspec.DecodeError, RecursionError) as error:
            raise CniError(f"error loading plugin config file {file}: {error}") from error
    return found


def load(directory: Path) -> NetworkConfig:
    """The lexically first valid configuration of the directory. Raises CniError when there is none."""
    try:
        files = sorted(path for path in directory.iterdir() if path.suffix in _SUFFIXES)
    except OSError:
        files = []
    problem = f"no network config found in {directory}: {NOT_INITIALIZED}"
    for path in files:
        try:
            return parse(path.read_bytes(), directory)
        except (CniError, OSError) as error:
            problem = f"failed to load CNI config list file {path}: {error}: {NOT_INITIALIZED}"
    raise CniError(problem)


def plugin_input(
    network: NetworkConfig,
    plugin: Mapping[str, Any],
    previous: Mapping[str, Any] | None,
    capabilities: Mapping[str, Any],
    valid: Iterable[tuple[str, str]] | None = None,
) -> bytes:
    """What one plugin of the chain reads on stdin. `valid` are GC's attachments: (container id, interface) each."""
    config = dict(plugin)
    config["name"] = network.name
    config["cniVersion"] = network.version
    config.pop("runtimeConfig", None)
    wanted = plugin.get("capabilities") or {}
    chosen = {key: capabilities[key] for key, yes in wanted.items() if yes and capabilities.get(key)}
    if chosen:
        config["runtimeConfig"] = chosen
    if previous is not None:
        config["prevResult"] = previous
    if valid is not None:
        rows = [{"containerID": container_id, "ifname": interface} for container_id, interface in sorted(valid)]
        config["cni.dev/valid-attachments"] = config["cni.dev/attachments"] = rows  # the latter: libcni's first name
    return msgspec.json.encode(config)


def plugin_error(code: int, stdout: bytes, stderr: bytes) -> str:
    """The words of libcni for a plugin that failed."""
    if not stdout.strip():
        if not stderr.strip():
            return f"netplugin failed with no error message: exit status {code}"
        return f'netplugin failed: "{stderr.decode(errors="replace")}"'
    try:
        error = msgspec.json.decode(stdout)
    except msgspec.DecodeError as problem:
        text = stdout.decode(errors="replace")
        return f'netplugin failed but error parsing its diagnostic message "{text}": {problem}'
    if not isinstance(error, dict):
        return f'netplugin failed but error parsing its diagnostic message "{stdout.decode(errors="replace")}"'
    details = f"; {error['details']}" if error.get("details") else ""
    return f"{error.get('msg', '')}{details}"


def pod_addresses(result: Mapping[str, Any], interface: str = "eth0") -> list[str]:
    """The addresses (without prefix length) that a result gives the pod's interface, IPv4 first as containerd prefers.

    Raises CniError when there is none, or an entry points to an interface that is not listed.
    """
    interfaces = result.get("interfaces") or []
    found = []
    for entry in result.get("ips") or []:
        index = entry.get("interface")
        if index is not None:
            if not isinstance(index, int) or not 0 <= index < len(interfaces):
                raise CniError(f"invalid IP configuration (interface number {index} is > number of interfaces)")
            if interfaces[index].get("name") != interface or not interfaces[index].get("sandbox"):
                continue
        found.append(str(entry.get("address", "")).partition("/")[0])
    for family in ("ip4", "ip6"):  # results of 0.1.0 and 0.2.0
        if isinstance(result.get(family), dict):
            found.append(str(result[family].get("ip", "")).partition("/")[0])
    if not found:
        raise CniError(f'failed to find network info for sandbox: no IP address on interface "{interface}"')
    return sorted(found, key=lambda address: ":" in address)
