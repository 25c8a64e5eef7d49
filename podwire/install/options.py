"""What the one who installs may choose. Pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, fields, replace
from typing import Any

from podwire import __version__

NAMESPACE = "kube-system"
AGENT = "podwire-agent"
"""Name of the node daemon's DaemonSet, ServiceAccount, ConfigMap and roles."""
CONTROLLER = "podwire-controller"
"""Name of what does the duties that concern all nodes: its Deployment, ServiceAccount, roles and Lease."""
NODE_GROUP, NODE_USER = "podwire:agents", "podwire:agent:"
"""Who a host-service agent is: a client certificate of this group, its name with the node's behind it."""
IMAGE = f"podwire/podwire:{__version__}"
ENCAPSULATIONS = ("Always", "CrossSubnet", "Never")
PULL_POLICIES = ("IfNotPresent", "Always", "Never")
ON, OFF = "on", "off"

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_PINNED = re.compile(r"[\w][\w.\-/:]*(:[\w][\w.-]{0,127}|@sha256:[0-9a-f]{64})")


class OptionError(Exception):
    """A choice that cannot be installed; the text names it and the way out."""


@dataclass(frozen=True, slots=True)
class Options:
    """Every choice. `pod_cidr` is the default pool's, `block_size` its blocks' prefix length, `encapsulation` its
    VXLAN mode; `mtu` of pods in bytes, 0 as the underlay allows; `api_server` a URL for clusters without kube-proxy,
    where nobody answers at the kubernetes Service's address yet; `policy_enforce` off: policies stay text, and what the
    kernel has of them goes; `classic`: IPAM state lies in Calico's older layout.
    """

    namespace: str = NAMESPACE
    image: str = IMAGE
    pull_policy: str = "IfNotPresent"
    pod_cidr: str = "10.244.0.0/16"
    block_size: int = 26
    encapsulation: str = "Always"
    mtu: int = 0
    api_server: str = ""
    policy_enforce: str = ON
    classic: bool = False


NAMES = {field.name.replace("_", "-"): field.name for field in fields(Options)}


def chosen(texts: dict[str, str], before: Options | None = None) -> Options:
    """Options from `name=value` pairs, as `--set` has them. Raises OptionError."""
    found = before or Options()
    for name, text in texts.items():
        field = NAMES.get(name.replace("_", "-"))
        if field is None:
            raise OptionError(f"{name}: no such option; there are {', '.join(NAMES)}")
        found = replace(found, **{field: _value(name, getattr(found, field), text)})
    return found


def _value(name: str, like: Any, text: str) -> Any:
    if isinstance(like, bool):
        if text.lower() not in ("true", "false"):
            raise OptionError(f"{name}: {text!r} is neither true nor false")
        return text.lower() == "true"
    if isinstance(like, int):
        try:
            return int(text)
        except ValueError:
            raise OptionError(f"{name}: {text!r} is not a number") from None
    return text


def check(options: Options) -> None:
    """Raises OptionError for the first choice that no cluster would take."""
    if not _NAME.fullmatch(options.namespace):
        raise OptionError(f"namespace: {options.namespace!r} is no namespace's name (a-z, 0-9 and -)")
    if not _PINNED.fullmatch(options.image) or options.image.endswith(":latest"):
        raise OptionError(f"image: {options.image!r} is not pinned; give it a tag (not latest) or a digest")
    try:
        pool = ipaddress.IPv4Network(options.pod_cidr)
    except ValueError as error:
        raise OptionError(f"pod-cidr: {error}") from None
    if not max(20, pool.prefixlen) <= options.block_size <= 32:
        raise OptionError(f"block-size: {options.block_size} is not within 20 to 32 and the pod CIDR {pool}")
    if options.mtu and not 576 <= options.mtu <= 65535:
        raise OptionError(f"mtu: {options.mtu} is neither 0 nor within 576 to 65535")
    for name, value, known in (
        ("encapsulation", options.encapsulation, ENCAPSULATIONS),
        ("pull-policy", options.pull_policy, PULL_POLICIES),
        ("policy-enforce", options.policy_enforce, (ON, OFF)),
    ):
        if value not in known:
            raise OptionError(f"{name}: {value!r} is not one of {', '.join(known)}")
    if options.api_server and not re.fullmatch(r"https://[\w.\-\[\]:]+", options.api_server):
        raise OptionError(f"api-server: {options.api_server!r} is not https://HOST:PORT")
