"""Pure: the environment of a container. Source: the behaviour of kubelet's makeEnvironmentVariables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from podwire.kubelet.downward import FieldError, NodeFacts, field_value, resource_value

_NAME = re.compile(r"^[ -<>-~]+$")
"""Printable ASCII but `=`, since Kubernetes 1.34 (RelaxedEnvironmentVariableValidation)."""


class EnvError(ValueError):
    """The environment cannot be made; the text is what kubelet shows as CreateContainerConfigError."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What variables may refer to. `config_maps` and `secrets` hold decoded text by name; None: no such object."""

    node: NodeFacts
    addresses: tuple[str, ...] = ()
    config_maps: Mapping[str, Mapping[str, str] | None] = field(default_factory=dict)
    secrets: Mapping[str, Mapping[str, str] | None] = field(default_factory=dict)
    services: Mapping[str, str] = field(default_factory=dict)


def expand(text: str, values: Mapping[str, str]) -> str:
    """Replace `$(NAME)`; unknown names stay as they stand, `$$` is one dollar."""
    out: list[str] = []
    position = 0
    while position < len(text):
        dollar = text.find("$", position)
        if dollar < 0 or dollar == len(text) - 1:
            break
        out.append(text[position:dollar])
        follower = text[dollar + 1]
        end = text.find(")", dollar) if follower == "(" else -1
        if follower == "$":
            out.append("$")
            position = dollar + 2
        elif end > 0:
            name = text[dollar + 2 : end]
            out.append(values.get(name, f"$({name})"))
            position = end + 1
        else:
            out.append("$" if follower == "(" else f"${follower}")
            position = dollar + (1 if follower == "(" else 2)
            if follower == "(":
                out.append("(")
                position += 1
    out.append(text[position:])
    return "".join(out)


def references(container: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """Names of the ConfigMaps and of the Secrets that the container's environment needs."""
    maps, secrets = set(), set()
    for source in container.get("envFrom") or []:
        if "configMapRef" in source:
            maps.add(source["configMapRef"].get("name", ""))
        if "secretRef" in source:
            secrets.add(source["secretRef"].get("name", ""))
    for variable in container.get("env") or []:
        origin = variable.get("valueFrom") or {}
        if "configMapKeyRef" in origin:
            maps.add(origin["configMapKeyRef"].get("name", ""))
        if "secretKeyRef" in origin:
            secrets.add(origin["secretKeyRef"].get("name", ""))
    return maps, secrets


def _from_object(kind: str, held: Mapping[str, Mapping[str, str] | None], source: Mapping[str, Any]) -> dict[str, str]:
    name = source.get("name", "")
    values = held.get(name)
    if values is None:
        if source.get("optional"):
            return {}
        raise EnvError(f'{kind} "{name}" not found')
    return dict(values)


def _key(
    kind: str, held: Mapping[str, Mapping[str, str] | None], source: Mapping[str, Any], namespace: str
) -> str | None:
    name, key = source.get("name", ""), source.get("key", "")
    values = held.get(name)
    if values is None:
        if source.get("optional"):
            return None
        raise EnvError(f'{kind} "{name}" not found')
    if key not in values:
        if source.get("optional"):
            return None
        noun = {"configmap": "ConfigMap", "secret": "Secret"}[kind]
        raise EnvError(f"couldn't find key {key} in {noun} {namespace}/{name}")
    return values[key]


def _value(
    pod: Mapping[str, Any],
    container: Mapping[str, Any],
    variable: Mapping[str, Any],
    known: Sources,
    so_far: dict[str, str],
) -> str | None:
    origin = variable.get("valueFrom")
    if not origin:
        return expand(str(variable.get("value") or ""), so_far)
    namespace = pod["metadata"].get("namespace", "")
    try:
        if "fieldRef" in origin:
            return field_value(pod, origin["fieldRef"].get("fieldPath", ""), known.node, known.addresses)
        if "resourceFieldRef" in origin:
            reference = origin["resourceFieldRef"]
            owner = container
            if reference.get("containerName"):
                every = [*pod["spec"].get("containers", []), *pod["spec"].get("initContainers", [])]
                owner = next((one for one in every if one["name"] == reference["containerName"]), container)
            return resource_value(owner, reference.get("resource", ""), reference.get("divisor"), known.node)
    except FieldError as error:
        raise EnvError(str(error)) from error
    if "configMapKeyRef" in origin:
        return _key("configmap", known.config_maps, origin["configMapKeyRef"], namespace)
    if "secretKeyRef" in origin:
        return _key("secret", known.secrets, origin["secretKeyRef"], namespace)
    raise EnvError(f"environment variable {variable.get('name')!r} has a valueFrom without a known source")


def build(
    pod: Mapping[str, Any], container: Mapping[str, Any], image_env: Iterable[str], hostname: str, known: Sources
) -> dict[str, str]:
    """The whole environment, later sources over earlier: image, HOSTNAME, services, envFrom, env. Raises EnvError."""
    base = dict(item.partition("=")[::2] for item in image_env)
    own: dict[str, str] = {}
    for source in container.get("envFrom") or []:
        prefix = source.get("prefix") or ""
        if "configMapRef" in source:
            values = _from_object("configmap", known.config_maps, source["configMapRef"])
        elif "secretRef" in source:
            values = _from_object("secret", known.secrets, source["secretRef"])
        else:
            continue
        own.update({prefix + key: value for key, value in values.items() if _NAME.match(prefix + key)})
    services = dict(known.services)
    for variable in container.get("env") or []:
        value = _value(pod, container, variable, known, {**services, **own})
        if value is not None:
            own[variable["name"]] = value
    return {**base, "HOSTNAME": hostname, **services, **own}


def service_variables(
    services: Iterable[Mapping[str, Any]], namespace: str, links: bool, fallback: tuple[str, int]
) -> dict[str, str]:
    """Docker-link style variables of services with a cluster address: those of the pod's namespace (when `links`), and
    always default/kubernetes, which `fallback` stands in for while it is unknown."""
    found: dict[str, str] = {}
    master = False
    for service in sorted(services, key=lambda one: str(one["metadata"]["name"])):
        metadata, spec = service["metadata"], service.get("spec") or {}
        address, ports = spec.get("clusterIP"), spec.get("ports") or []
        is_master = metadata["name"] == "kubernetes" and metadata.get("namespace") == "default"
        if not address or address == "None" or not ports:
            continue
        if is_master or (links and metadata.get("namespace") == namespace):
            master = master or is_master
            if metadata["name"] != "kubernetes" or is_master:
                found.update(_link(metadata["name"], address, ports))
    if not master:
        host, port = fallback
        found.update(_link("kubernetes", host, [{"name": "https", "port": port, "protocol": "TCP"}]))
    return found


def _link(name: str, address: str, ports: list[Mapping[str, Any]]) -> dict[str, str]:
    prefix = name.upper().replace("-", "_")
    host = f"[{address}]" if ":" in address else address
    found = {f"{prefix}_SERVICE_HOST": address, f"{prefix}_SERVICE_PORT": str(ports[0]["port"])}
    for port in ports:
        if port.get("name"):
            found[f"{prefix}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}"] = str(port["port"])
    for index, port in enumerate(ports):
        protocol = str(port.get("protocol") or "TCP")
        url = f"{protocol.lower()}://{host}:{port['port']}"
        if index == 0:
            found[f"{prefix}_PORT"] = url
        stem = f"{prefix}_PORT_{port['port']}_{protocol.upper()}"
        found.update({stem: url, f"{stem}_PROTO": protocol.lower()})
        found.update({f"{stem}_PORT": str(port["port"]), f"{stem}_ADDR": address})
    return found
