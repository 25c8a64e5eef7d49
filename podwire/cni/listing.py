"""The configuration list that a runtime reads, as text. Pure.

A runtime takes the lexically first file of its directory. Of the versions, old runtimes take `cniVersion` literally and
newer ones the highest of `cniVersions` that they speak; 1.1.0 promises GC and STATUS. The list does not set
loadOnlyInlinedPlugins: what others drop into `<conf-dir>/k8s-pod-network/*.conf` runs behind Podwire, as they mean it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NETWORK = "k8s-pod-network"
PROGRAM = "podwire"
WIRINGS = ("routed", "bridge")
CAPABILITIES = ("portMappings", "bandwidth", "ips", "mac", "dns", "io.kubernetes.cri.pod-annotations")
BLOCKS = {"type": "podwire-ipam"}


class ListingError(Exception):
    """A list of another plugin that nothing can be appended to; the text says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The plugin's own entry: `mtu` of pods in bytes, who gives addresses, further keys of the wiring (`bridge` …)."""

    mtu: int
    wiring: str = "routed"
    ipam: Mapping[str, Any] = field(default_factory=lambda: dict(BLOCKS))
    further: Mapping[str, Any] = field(default_factory=dict)


def host_local(subnets: tuple[str, ...]) -> dict[str, Any]:
    """Addresses from this node's own subnets, with the way to everywhere that kubenet gives."""
    routes = [{"dst": "::/0" if ":" in subnet else "0.0.0.0/0"} for subnet in subnets]
    return {"type": "host-local", "ranges": [[{"subnet": subnet}] for subnet in subnets], "routes": routes}


def conflist(entry: Entry) -> str:
    """The list with Podwire alone in it."""
    plugin: dict[str, Any] = {"type": PROGRAM, "mtu": entry.mtu}
    if entry.wiring != "routed":
        plugin["wiring"] = entry.wiring
    plugin |= {**entry.further, "ipam": dict(entry.ipam), "capabilities": dict.fromkeys(CAPABILITIES, True)}
    whole = {
        "cniVersion": "1.0.0",
        "cniVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"],
        "name": NETWORK,
        "plugins": [plugin],
    }
    return json.dumps(whole, indent=2) + "\n"


def appended(text: bytes, where: str) -> str:
    """Another product's list with Podwire behind its plugins: they wire, Podwire admits. Its name and versions stay.

    A Podwire that is there already (the list was made from an older one) is not doubled. Raises ListingError.
    """
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ListingError(f"{where} is not JSON: {error}") from None
    if not isinstance(config, dict) or not config.get("name"):
        raise ListingError(f"{where} is no CNI configuration: it has no name")
    if "plugins" in config:
        whole = dict(config)
    else:
        plugin = {key: value for key, value in config.items() if key not in ("cniVersion", "name")}
        whole = {**{key: config[key] for key in ("cniVersion", "name") if key in config}, "plugins": [plugin]}
    plugins = whole["plugins"]
    if not isinstance(plugins, list) or not all(isinstance(one, dict) and one.get("type") for one in plugins):
        raise ListingError(f"{where} is no CNI configuration: its plugins have no type")
    others = [one for one in plugins if one["type"] != PROGRAM]
    if not others:
        raise ListingError(f"{where} has no plugin that Podwire could stand behind")
    whole["plugins"] = [*others, {"type": PROGRAM}]
    return json.dumps(whole, indent=2) + "\n"


def types(text: bytes) -> list[str]:
    """The plugins that a configuration or a list of them names, in order; none when it is neither."""
    try:
        whole = json.loads(text)
        plugins = whole.get("plugins", [whole])
        return [str(plugin["type"]) for plugin in plugins if isinstance(plugin, dict) and "type" in plugin]
    except (ValueError, AttributeError, TypeError, RecursionError):
        return []


def is_chained(text: bytes) -> bool:
    """Whether a list has Podwire behind another plugin."""
    try:
        types = [plugin["type"] for plugin in json.loads(text)["plugins"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    return PROGRAM in types[1:]
