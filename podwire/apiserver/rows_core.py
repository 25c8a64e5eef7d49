"""Table rows of the other kinds. Source: behaviour of Kubernetes' pkg/printers/internalversion."""

from __future__ import annotations

from typing import Any

from podwire.apiserver.durations import age
from podwire.apiserver.resources import AGE, NAME, Column
from podwire.apiserver.rows_apps import labels_text, selector_text

Object = dict[str, Any]

NAMESPACE_COLUMNS = (NAME, Column("Status", description="Active or Terminating."), AGE)
CONFIGMAP_COLUMNS = (NAME, Column("Data", description="How many keys it holds."), AGE)
SECRET_COLUMNS = (
    NAME,
    Column("Type", description="What it is for."),
    Column("Data", description="How many keys."),
    AGE,
)
SERVICEACCOUNT_COLUMNS = (NAME, AGE)
SERVICE_COLUMNS = (
    NAME,
    Column("Type", description="How the service is reached."),
    Column("Cluster-IP", description="Its address inside the cluster."),
    Column("External-IP", description="Its addresses outside."),
    Column("Port(s)", description="Its ports."),
    AGE,
    Column("Selector", priority=1, description="The pods behind it."),
)
ENDPOINTS_COLUMNS = (NAME, Column("Endpoints", description="Addresses and ports."), AGE)
SLICE_COLUMNS = (
    NAME,
    Column("AddressType", description="IPv4, IPv6 or FQDN."),
    Column("Ports", description="The ports of all its endpoints."),
    Column("Endpoints", description="The addresses."),
    AGE,
)
NETWORKPOLICY_COLUMNS = (NAME, Column("Pod-Selector", description="The pods it governs."), AGE)
LEASE_COLUMNS = (NAME, Column("Holder", description="Who holds it."), AGE)
EVENT_COLUMNS = (
    Column("Last Seen", description="When it was last seen."),
    Column("Type", description="Normal or Warning."),
    Column("Reason", description="Why, in one word."),
    Column("Object", description="What it is about."),
    Column("Subobject", priority=1, description="The part it is about."),
    Column("Source", priority=1, description="Who says so."),
    Column("Message", description="What happened."),
    Column("First Seen", priority=1, description="When it was first seen."),
    Column("Count", priority=1, description="How often."),
    Column("Name", priority=1, format="name", description="The event's own name."),
)
BINDING_COLUMNS = (
    NAME,
    Column("Role", description="The role it grants."),
    AGE,
    Column("Users", priority=1, description="Users it is granted to."),
    Column("Groups", priority=1, description="Groups it is granted to."),
    Column("ServiceAccounts", priority=1, description="Service accounts it is granted to."),
)
PRIORITY_COLUMNS = (
    NAME,
    Column("Value", type="integer", description="The priority."),
    Column("Global-Default", type="boolean", description="Whether pods without a class get it."),
    AGE,
    Column("PreemptionPolicy", description="Whether it may displace others."),
)
_MOST = 3


def _name(obj: Object) -> str:
    return str(obj["metadata"].get("name", ""))


def _age(obj: Object, now: float) -> str:
    return age(obj["metadata"].get("creationTimestamp"), now)


def namespace_row(obj: Object, now: float) -> list[Any]:
    return [_name(obj), (obj.get("status") or {}).get("phase", ""), _age(obj, now)]


def configmap_row(obj: Object, now: float) -> list[Any]:
    return [_name(obj), len(obj.get("data") or {}) + len(obj.get("binaryData") or {}), _age(obj, now)]


def secret_row(obj: Object, now: float) -> list[Any]:
    return [_name(obj), obj.get("type", ""), len(obj.get("data") or {}), _age(obj, now)]


def serviceaccount_row(obj: Object, now: float) -> list[Any]:
    return [_name(obj), _age(obj, now)]


def _external(obj: Object) -> str:
    spec = obj.get("spec") or {}
    listed = list(spec.get("externalIPs") or [])
    match spec.get("type"):
        case "ExternalName":
            return spec.get("externalName") or "<none>"
        case "LoadBalancer":
            given = ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
            addresses = [each.get("ip") or each.get("hostname") or "" for each in given]
            return ",".join(addresses + listed) or "<pending>"
        case _:
            return ",".join(listed) or "<none>"


def _service_port(port: Object) -> str:
    node = f":{port['nodePort']}" if port.get("nodePort") else ""
    return f"{port.get('port')}{node}/{port.get('protocol', 'TCP')}"


def service_row(obj: Object, now: float) -> list[Any]:
    spec = obj.get("spec") or {}
    return [
        _name(obj),
        spec.get("type", ""),
        spec.get("clusterIP") or "<none>",
        _external(obj),
        ",".join(_service_port(port) for port in spec.get("ports") or []) or "<none>",
        _age(obj, now),
        labels_text(spec.get("selector")),
    ]


def _first(found: list[str], none: str) -> str:
    if not found:
        return none
    more = f" + {len(found) - _MOST} more..." if len(found) > _MOST else ""
    return ",".join(found[:_MOST]) + more


def endpoints_row(obj: Object, now: float) -> list[Any]:
    found: list[str] = []
    for subset in obj.get("subsets") or []:
        addresses = [each.get("ip", "") for each in subset.get("addresses") or []]
        ports = subset.get("ports") or []
        found += [f"{ip}:{port.get('port')}" for port in ports for ip in addresses] if ports else addresses
    return [_name(obj), _first(found, "<none>"), _age(obj, now)]


def slice_row(obj: Object, now: float) -> list[Any]:
    ports = []
    for port in obj.get("ports") or []:
        ports.append(str(port["port"]) if port.get("port") is not None else port.get("name") or "*")
    addresses = [address for each in obj.get("endpoints") or [] for address in each.get("addresses") or []]
    return [
        _name(obj),
        obj.get("addressType", ""),
        _first(ports, "<unset>"),
        _first(addresses, "<unset>"),
        _age(obj, now),
    ]


def networkpolicy_row(obj: Object, now: float) -> list[Any]:
    return [_name(obj), selector_text((obj.get("spec") or {}).get("podSelector")), _age(obj, now)]


def lease_row(obj: Object, now: float) -> list[Any]:
    return [_name(obj), (obj.get("spec") or {}).get("holderIdentity", ""), _age(obj, now)]


def event_row(obj: Object, now: float) -> list[Any]:
    series = obj.get("series") or {}
    first = obj.get("firstTimestamp") or obj.get("eventTime")
    last = series.get("lastObservedTime") or obj.get("lastTimestamp") or first
    about = obj.get("involvedObject") or {}
    source = obj.get("source") or {}
    told_by = [source.get("component") or obj.get("reportingComponent") or "", source.get("host", "")]
    kind = about.get("kind", "").lower()
    return [
        age(last, now),
        obj.get("type", ""),
        obj.get("reason", ""),
        f"{kind}/{about.get('name', '')}" if about.get("name") else kind,
        about.get("fieldPath", ""),
        ", ".join(word for word in told_by if word),
        (obj.get("message") or "").strip(),
        age(first, now),
        series.get("count") or obj.get("count") or 1,
        _name(obj),
    ]


def binding_row(obj: Object, now: float) -> list[Any]:
    role, subjects = obj.get("roleRef") or {}, obj.get("subjects") or []

    def named(kind: str) -> str:
        found = [each for each in subjects if each.get("kind") == kind]
        if kind == "ServiceAccount":
            return ", ".join(f"{each.get('namespace', '')}/{each.get('name', '')}" for each in found)
        return ", ".join(each.get("name", "") for each in found)

    return [
        _name(obj),
        f"{role.get('kind', '')}/{role.get('name', '')}",
        _age(obj, now),
        named("User"),
        named("Group"),
        named("ServiceAccount"),
    ]


def priority_row(obj: Object, now: float) -> list[Any]:
    policy = obj.get("preemptionPolicy", "")
    return [_name(obj), obj.get("value", 0), bool(obj.get("globalDefault")), _age(obj, now), policy]
