"""Pure: /etc/resolv.conf, /etc/hosts and the host name of a pod, as kubelet writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_SEARCH, MAX_SEARCH_CHARS, MAX_NAMESERVERS = 32, 2048, 3


@dataclass(frozen=True, slots=True)
class Resolver:
    """The content of a resolv.conf."""

    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def text(self) -> str:
        """The file, in the order in which runtimes write it."""
        lines = [f"search {' '.join(self.search)}"] if self.search else []
        lines += [f"nameserver {address}" for address in self.nameservers]
        lines += [f"options {' '.join(self.options)}"] if self.options else []
        return "\n".join(lines) + "\n" if lines else ""


def parse_resolver(text: str) -> Resolver:
    """Read a resolv.conf; the last search line counts, unknown lines are skipped."""
    servers: list[str] = []
    search: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if not words or line.strip()[0] in "#;":
            continue
        if words[0] == "nameserver" and len(words) > 1:
            servers.append(words[1])
        elif words[0] in ("search", "domain"):
            search = [word.rstrip(".") or "." for word in words[1:]]
        elif words[0] == "options":
            options = words[1:]
    return Resolver(tuple(servers), tuple(search), tuple(options))


def _unique(items: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(items))


def _merge_options(base: Sequence[str], change: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    merged = dict(option.partition(":")[::2] for option in base)
    merged.update({str(one["name"]): str(one.get("value") or "") for one in change if one.get("name")})
    return tuple(f"{name}:{value}" if value else name for name, value in merged.items())


def resolver(pod: Mapping[str, Any], node: Resolver, cluster_dns: str, cluster_domain: str) -> Resolver:
    """The pod's resolver by dnsPolicy, and dnsConfig on top. `node` is the node's own.

    ClusterFirst on the host network falls back to Default, as upstream.
    """
    spec = pod["spec"]
    policy = spec.get("dnsPolicy") or "ClusterFirst"
    namespace = pod["metadata"].get("namespace", "default")
    cluster = policy == "ClusterFirstWithHostNet" or (policy == "ClusterFirst" and not spec.get("hostNetwork"))
    if policy == "None":
        chosen = Resolver()
    elif cluster and cluster_dns:
        domains = (f"{namespace}.svc.{cluster_domain}", f"svc.{cluster_domain}", cluster_domain)
        chosen = Resolver((cluster_dns,), _unique((*domains, *node.search)), ("ndots:5",))
    else:
        chosen = node
    extra = spec.get("dnsConfig") or {}
    search = _unique((*chosen.search, *(extra.get("searches") or [])))[:MAX_SEARCH]
    while len(" ".join(search)) > MAX_SEARCH_CHARS:
        search = search[:-1]
    servers = _unique((*chosen.nameservers, *(extra.get("nameservers") or [])))[:MAX_NAMESERVERS]
    return Resolver(servers, search, _merge_options(chosen.options, extra.get("options") or []))


def hostname(pod: Mapping[str, Any]) -> str:
    """The pod's host name: spec.hostname or its name, at most 63 characters, not ending in a dash or dot."""
    spec = pod["spec"]
    if spec.get("hostnameOverride"):
        return str(spec["hostnameOverride"])
    name = str(spec.get("hostname") or pod["metadata"]["name"])
    return name[:63].rstrip("-.")


def hosts(pod: Mapping[str, Any], addresses: Sequence[str], cluster_domain: str, node_hosts: str) -> str:
    """/etc/hosts: kubelet's own for a pod network, the node's file for the host network; hostAliases in both."""
    spec = pod["spec"]
    if spec.get("hostNetwork"):
        text = "# Kubernetes-managed hosts file (host network).\n" + node_hosts
        text = text if text.endswith("\n") else text + "\n"
    else:
        lines = [
            "# Kubernetes-managed hosts file.",
            "127.0.0.1\tlocalhost",
            "::1\tlocalhost ip6-localhost ip6-loopback",
            "fe00::\tip6-localnet",
            "fe00::\tip6-mcastprefix",
            "fe00::1\tip6-allnodes",
            "fe00::2\tip6-allrouters",
        ]
        name, subdomain = hostname(pod), spec.get("subdomain")
        for address in addresses:
            if subdomain:
                namespace = pod["metadata"].get("namespace", "default")
                lines.append(f"{address}\t{name}.{subdomain}.{namespace}.svc.{cluster_domain}\t{name}")
            else:
                lines.append(f"{address}\t{name}")
        text = "\n".join(lines) + "\n"
    aliases = [one for one in spec.get("hostAliases") or [] if one.get("hostnames")]
    if aliases:
        text += "\n# Entries added by HostAliases.\n"
        text += "".join(f"{one['ip']}\t" + "\t".join(one["hostnames"]) + "\n" for one in aliases)
    return text
