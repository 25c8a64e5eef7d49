"""The kinds that the loops over *all* objects (garbage, namespace content) know, beside those of CRDs."""

from __future__ import annotations

from podwire.controllers.objects import Object, condition_is, spec
from podwire.model import gvr
from podwire.model.gvr import GVR

_RBAC = "rbac.authorization.k8s.io"

# Kinds without which the controllers do not run.
BUILT_IN: tuple[GVR, ...] = (
    gvr.NAMESPACES,
    gvr.NODES,
    gvr.PODS,
    gvr.SERVICES,
    gvr.ENDPOINTS,
    gvr.CONFIGMAPS,
    gvr.SECRETS,
    gvr.SERVICEACCOUNTS,
    gvr.REPLICASETS,
    gvr.DEPLOYMENTS,
    gvr.DAEMONSETS,
    gvr.CONTROLLERREVISIONS,
    gvr.ENDPOINTSLICES,
    gvr.LEASES,
    gvr.NETWORKPOLICIES,
    gvr.CRDS,
)

# Kinds that an API server may or may not have.
MAYBE: tuple[GVR, ...] = (
    GVR(_RBAC, "v1", "roles", "Role"),
    GVR(_RBAC, "v1", "rolebindings", "RoleBinding"),
    GVR(_RBAC, "v1", "clusterroles", "ClusterRole", namespaced=False),
    GVR(_RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False),
    GVR("apps", "v1", "statefulsets", "StatefulSet"),
    GVR("batch", "v1", "jobs", "Job"),
    GVR("batch", "v1", "cronjobs", "CronJob"),
    GVR("networking.k8s.io", "v1", "ingresses", "Ingress"),
    GVR("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget"),
    GVR("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler"),
    GVR("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim"),
    GVR("", "v1", "persistentvolumes", "PersistentVolume", namespaced=False),
    GVR("", "v1", "replicationcontrollers", "ReplicationController"),
    GVR("", "v1", "podtemplates", "PodTemplate"),
    GVR("", "v1", "resourcequotas", "ResourceQuota"),
    GVR("", "v1", "limitranges", "LimitRange"),
)


def of_crd(crd: Object) -> GVR | None:
    """The kind that an established CRD serves: its storage version, or else the first served one."""
    names, versions = spec(crd).get("names") or {}, spec(crd).get("versions") or []
    served = [one for one in versions if one.get("served")]
    if not condition_is(crd, "Established") or not served or not names.get("plural"):
        return None
    best = next((one for one in served if one.get("storage")), served[0])
    namespaced = spec(crd).get("scope") != "Cluster"
    return GVR(spec(crd).get("group", ""), best.get("name", ""), names["plural"], names.get("kind", ""), namespaced)
