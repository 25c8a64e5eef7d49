"""Discovery: which groups, versions and resources there are, in the aggregated and the old form; version; OpenAPI.

Source: k8s.io/api apidiscovery/v2 and meta/v1 APIResourceList.
"""

from __future__ import annotations

import platform
from typing import Any

from podwire.apiserver.negotiation import media_types
from podwire.apiserver.resources import Registry, Resource

Object = dict[str, Any]


def aggregated_type(accept: str) -> str:
    """The content type of the aggregated form if the client asks for it before plain JSON, else ""."""
    for name, parameters in media_types(accept):
        if name not in ("application/json", "*/*"):
            continue
        if parameters.get("as") == "APIGroupDiscoveryList" and parameters.get("g") == "apidiscovery.k8s.io":
            version = parameters.get("v", "")
            if version in ("v2", "v2beta1"):
                return f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
        elif not parameters.get("as"):
            return ""
    return ""


def group_list(registry: Registry, *, core: bool, version: str) -> Object:
    """APIGroupDiscoveryList of the core group, or of all others."""
    items = []
    for group, versions in registry.groups().items():
        if (group == "") == core:
            items.append(
                {
                    "metadata": {"name": group, "creationTimestamp": None} if group else {"creationTimestamp": None},
                    "versions": [
                        {
                            "version": each,
                            "resources": [_aggregated(resource) for resource in registry.of(group, each)],
                            "freshness": "Current",
                        }
                        for each in versions
                    ],
                }
            )
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{version}",
        "metadata": {},
        "items": items,
    }


def _aggregated(resource: Resource) -> Object:
    gvr = resource.gvr
    found: Object = {
        "resource": gvr.plural,
        "responseKind": {"group": gvr.group, "version": gvr.version, "kind": gvr.kind},
        "scope": "Namespaced" if gvr.namespaced else "Cluster",
        "singularResource": resource.singular_name,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        found["shortNames"] = list(resource.short_names)
    if resource.categories:
        found["categories"] = list(resource.categories)
    below = [
        {
            "subresource": each.name,
            "responseKind": {"group": each.group, "version": each.version, "kind": each.kind},
            "verbs": list(each.verbs),
        }
        for each in resource.all_subresources()
    ]
    if below:
        found["subresources"] = below
    return found


def core_versions() -> Object:
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def group(name: str, versions: list[str], *, whole: bool) -> Object:
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    found: Object = {"name": name, "versions": listed, "preferredVersion": listed[0]}
    return {"kind": "APIGroup", "apiVersion": "v1", **found} if whole else found


def groups(registry: Registry) -> Object:
    listed = [group(name, versions, whole=False) for name, versions in registry.groups().items() if name]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}


def resource_list(registry: Registry, name: str, version: str) -> Object:
    """APIResourceList of one group version."""
    listed: list[Object] = []
    for resource in registry.of(name, version):
        gvr = resource.gvr
        row: Object = {
            "name": gvr.plural,
            "singularName": resource.singular_name,
            "namespaced": gvr.namespaced,
            "kind": gvr.kind,
            "verbs": list(resource.verbs),
        }
        if resource.short_names:
            row["shortNames"] = list(resource.short_names)
        if resource.categories:
            row["categories"] = list(resource.categories)
        listed.append(row)
        for below in resource.all_subresources():
            sub: Object = {
                "name": f"{gvr.plural}/{below.name}",
                "singularName": "",
                "namespaced": gvr.namespaced,
                "kind": below.kind,
                "verbs": list(below.verbs),
            }
            if (below.group, below.version) != (gvr.group, gvr.version):
                sub["group"], sub["version"] = below.group, below.version
            listed.append(sub)
    api_version = f"{name}/{version}" if name else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": listed}


def version_info(version: str) -> Object:
    """GET /version."""
    major, minor = version.removeprefix("v").split(".")[:2]
    return {
        "major": major,
        "minor": minor,
        "gitVersion": version,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "CPython",
        "platform": f"linux/{ {'x86_64': 'amd64', 'aarch64': 'arm64'}.get(platform.machine(), platform.machine()) }",
    }
