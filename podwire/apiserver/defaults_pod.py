"""Defaults of pods and pod templates. Source: pkg/apis/core/v1 defaults of Kubernetes."""

from __future__ import annotations

from typing import Any

from podwire.model.quantity import parse_quantity

Object = dict[str, Any]
_MODE = 0o644
_FILE_VOLUMES = ("configMap", "secret", "downwardAPI", "projected")
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")


def default_pod(pod: Object) -> None:
    """A Pod: the template's defaults and those that only real pods get."""
    spec = pod.setdefault("spec", {})
    for container in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]:
        _requests_from_limits(container)
        if spec.get("hostNetwork"):
            for port in container.get("ports") or []:
                if not port.get("hostPort") and "containerPort" in port:
                    port["hostPort"] = port["containerPort"]
    spec.setdefault("enableServiceLinks", True)
    default_template(spec)
    pod.setdefault("status", {})


def default_template(spec: Object) -> None:
    """The spec of a pod or of a workload's template."""
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("securityContext", {})
    spec.setdefault("schedulerName", "default-scheduler")
    if "serviceAccountName" in spec:
        spec.setdefault("serviceAccount", spec["serviceAccountName"])
    elif "serviceAccount" in spec:
        spec["serviceAccountName"] = spec["serviceAccount"]
    for container in spec.get("containers") or []:
        _container(container)
    for container in spec.get("initContainers") or []:
        _container(container)
    for container in spec.get("ephemeralContainers") or []:
        _container(container)
    for volume in spec.get("volumes") or []:
        _volume(volume)


def _requests_from_limits(container: Object) -> None:
    resources = container.get("resources") or {}
    limits = resources.get("limits")
    if limits:
        requests = resources.setdefault("requests", {})
        for name, amount in limits.items():
            requests.setdefault(name, amount)


def pull_policy(image: str) -> str:
    """Always for the tag `latest` and for no tag at all; IfNotPresent for other tags and for digests."""
    name, _, digest = image.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    return "IfNotPresent" if (digest and not tag) or (tag and tag != "latest") else "Always"


def _container(container: Object) -> None:
    container.setdefault("resources", {})
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    if not container.get("imagePullPolicy"):
        container["imagePullPolicy"] = pull_policy(container.get("image") or "")
    for port in container.get("ports") or []:
        port.setdefault("protocol", "TCP")
    for entry in container.get("env") or []:
        source = entry.get("valueFrom")
        if source:
            _value_source(source)
    for name in _PROBES:
        probe = container.get(name)
        if probe:
            _probe(probe)
    for handler in (container.get("lifecycle") or {}).values():
        if isinstance(handler, dict):
            _http(handler)


def _value_source(source: Object) -> None:
    if "fieldRef" in source:
        source["fieldRef"].setdefault("apiVersion", "v1")
    if "resourceFieldRef" in source:
        source["resourceFieldRef"].setdefault("divisor", "0")


def _probe(probe: Object) -> None:
    for key, number in (("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)):
        if not probe.get(key):
            probe[key] = number
    _http(probe)
    if "grpc" in probe:
        probe["grpc"]["service"] = probe["grpc"].get("service") or ""


def _http(handler: Object) -> None:
    get = handler.get("httpGet")
    if get:
        get.setdefault("path", "/")
        get.setdefault("scheme", "HTTP")


def _volume(volume: Object) -> None:
    if len(volume) <= 1:
        volume["emptyDir"] = {}
    for name in _FILE_VOLUMES:
        source = volume.get(name)
        if isinstance(source, dict):
            source.setdefault("defaultMode", _MODE)
            _downward_items(source.get("items"))
            for projection in source.get("sources") or []:
                _projection(projection)
    if isinstance(volume.get("hostPath"), dict):
        volume["hostPath"].setdefault("type", "")
    claim = (volume.get("ephemeral") or {}).get("volumeClaimTemplate")
    if claim:
        claim.setdefault("spec", {}).setdefault("volumeMode", "Filesystem")


def _projection(projection: Object) -> None:
    if "serviceAccountToken" in projection:
        projection["serviceAccountToken"].setdefault("expirationSeconds", 3600)
    if "downwardAPI" in projection:
        _downward_items(projection["downwardAPI"].get("items"))


def _downward_items(items: list[Object] | None) -> None:
    for item in items or []:
        _value_source(item)


def qos_class(spec: Object) -> str:
    """Guaranteed, Burstable or BestEffort, from the CPU and memory of a defaulted pod spec."""
    guaranteed, anything = True, False
    for container in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]:
        resources = container.get("resources") or {}
        limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
        for name in ("cpu", "memory"):
            limit, request = limits.get(name), requests.get(name, limits.get(name))
            wanted = [parse_quantity(amount) for amount in (limit, request) if amount is not None]
            anything = anything or any(wanted)
            if len(wanted) < 2 or not wanted[0] or wanted[0] != wanted[1]:
                guaranteed = False
    if not anything:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"
