"""Table rows of workloads: deployments, replica sets, daemon sets, controller revisions.

Source: behaviour of Kubernetes' pkg/printers/internalversion.
"""

from __future__ import annotations

from typing import Any

from podwire.apiserver.durations import age
from podwire.apiserver.resources import AGE, NAME, Column

Object = dict[str, Any]

_WIDE = (
    Column("Containers", priority=1, description="Names of the template's containers."),
    Column("Images", priority=1, description="Images of the template's containers."),
    Column("Selector", priority=1, description="The pods that belong to it."),
)
DEPLOYMENT_COLUMNS = (
    NAME,
    Column("Ready", description="Ready pods, of those wanted."),
    Column("Up-to-date", description="Pods that have the newest template."),
    Column("Available", description="Pods that are available."),
    AGE,
    *_WIDE,
)
REPLICASET_COLUMNS = (
    NAME,
    Column("Desired", type="integer", description="Pods wanted."),
    Column("Current", type="integer", description="Pods that exist."),
    Column("Ready", type="integer", description="Pods that are ready."),
    AGE,
    *_WIDE,
)
DAEMONSET_COLUMNS = (
    NAME,
    Column("Desired", type="integer", description="Nodes that should run it."),
    Column("Current", type="integer", description="Nodes that run it."),
    Column("Ready", type="integer", description="Nodes where it is ready."),
    Column("Up-to-date", type="integer", description="Nodes that run the newest template."),
    Column("Available", type="integer", description="Nodes where it is available."),
    Column("Node Selector", description="Which nodes should run it."),
    AGE,
    *_WIDE,
)
REVISION_COLUMNS = (
    NAME,
    Column("Controller", description="Who owns the revision."),
    Column("Revision", type="integer", description="The revision's number."),
    AGE,
)


def labels_text(labels: dict[str, str] | None) -> str:
    """`a=b,c=d`, or <none>."""
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items())) or "<none>"


def selector_text(selector: Object | None) -> str:
    """A LabelSelector as text, as `metav1.FormatLabelSelector` writes it."""
    if selector is None:
        return "<none>"
    terms = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for expression in selector.get("matchExpressions") or []:
        key, values = expression.get("key", ""), ",".join(sorted(expression.get("values") or []))
        match expression.get("operator"):
            case "In":
                terms.append(f"{key} in ({values})")
            case "NotIn":
                terms.append(f"{key} notin ({values})")
            case "Exists":
                terms.append(key)
            case _:
                terms.append(f"!{key}")
    return ",".join(terms) or "<none>"


def _template(spec: Object) -> list[str]:
    containers = ((spec.get("template") or {}).get("spec") or {}).get("containers") or []
    return [
        ",".join(each.get("name", "") for each in containers),
        ",".join(each.get("image", "") for each in containers),
        selector_text(spec.get("selector")),
    ]


def deployment_row(obj: Object, now: float) -> list[Any]:
    spec, status, metadata = obj.get("spec") or {}, obj.get("status") or {}, obj["metadata"]
    return [
        metadata.get("name", ""),
        f"{status.get('readyReplicas', 0)}/{spec.get('replicas', 0)}",
        status.get("updatedReplicas", 0),
        status.get("availableReplicas", 0),
        age(metadata.get("creationTimestamp"), now),
        *_template(spec),
    ]


def replicaset_row(obj: Object, now: float) -> list[Any]:
    spec, status, metadata = obj.get("spec") or {}, obj.get("status") or {}, obj["metadata"]
    return [
        metadata.get("name", ""),
        spec.get("replicas", 0),
        status.get("replicas", 0),
        status.get("readyReplicas", 0),
        age(metadata.get("creationTimestamp"), now),
        *_template(spec),
    ]


def daemonset_row(obj: Object, now: float) -> list[Any]:
    spec, status, metadata = obj.get("spec") or {}, obj.get("status") or {}, obj["metadata"]
    nodes = ((spec.get("template") or {}).get("spec") or {}).get("nodeSelector")
    return [
        metadata.get("name", ""),
        status.get("desiredNumberScheduled", 0),
        status.get("currentNumberScheduled", 0),
        status.get("numberReady", 0),
        status.get("updatedNumberScheduled", 0),
        status.get("numberAvailable", 0),
        labels_text(nodes),
        age(metadata.get("creationTimestamp"), now),
        *_template(spec),
    ]


def revision_row(obj: Object, now: float) -> list[Any]:
    metadata = obj["metadata"]
    owner = next((each for each in metadata.get("ownerReferences") or [] if each.get("controller")), None)
    named = "<none>"
    if owner:
        group = owner.get("apiVersion", "").rpartition("/")[0]
        named = f"{owner.get('kind', '').lower()}{'.' + group if group else ''}/{owner.get('name', '')}"
    return [metadata.get("name", ""), named, obj.get("revision", 0), age(metadata.get("creationTimestamp"), now)]
