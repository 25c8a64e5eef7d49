"""Names of API resources: group, version, plural, and where their objects live in the URL space."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GVR:
    """One API resource: `group` is empty for core/v1; `plural` is the URL segment; `kind` the type's name."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """`v1` for the core group, else `group/version`, as in an object's apiVersion."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL path of the collection, an object or a subresource; no namespace means all namespaces."""
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part]
        return "/".join(parts)


NAMESPACES = GVR("", "v1", "namespaces", "Namespace", namespaced=False)
NODES = GVR("", "v1", "nodes", "Node", namespaced=False)
PODS = GVR("", "v1", "pods", "Pod")
SERVICES = GVR("", "v1", "services", "Service")
ENDPOINTS = GVR("", "v1", "endpoints", "Endpoints")
CONFIGMAPS = GVR("", "v1", "configmaps", "ConfigMap")
SECRETS = GVR("", "v1", "secrets", "Secret")
SERVICEACCOUNTS = GVR("", "v1", "serviceaccounts", "ServiceAccount")
EVENTS = GVR("", "v1", "events", "Event")
REPLICASETS = GVR("apps", "v1", "replicasets", "ReplicaSet")
DEPLOYMENTS = GVR("apps", "v1", "deployments", "Deployment")
DAEMONSETS = GVR("apps", "v1", "daemonsets", "DaemonSet")
CONTROLLERREVISIONS = GVR("apps", "v1", "controllerrevisions", "ControllerRevision")
ENDPOINTSLICES = GVR("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
LEASES = GVR("coordination.k8s.io", "v1", "leases", "Lease")
NETWORKPOLICIES = GVR("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
CRDS = GVR("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)
CLUSTERNETWORKPOLICIES = GVR(
    "policy.networking.k8s.io", "v1alpha2", "clusternetworkpolicies", "ClusterNetworkPolicy", namespaced=False
)
ADMINNETWORKPOLICIES = GVR(
    "policy.networking.k8s.io", "v1alpha1", "adminnetworkpolicies", "AdminNetworkPolicy", namespaced=False
)
BASELINEADMINNETWORKPOLICIES = GVR(
    "policy.networking.k8s.io",
    "v1alpha1",
    "baselineadminnetworkpolicies",
    "BaselineAdminNetworkPolicy",
    namespaced=False,
)
CALICONETWORKPOLICIES = GVR("projectcalico.org", "v3", "networkpolicies", "NetworkPolicy")
GLOBALNETWORKPOLICIES = GVR("projectcalico.org", "v3", "globalnetworkpolicies", "GlobalNetworkPolicy", namespaced=False)
STAGEDNETWORKPOLICIES = GVR("projectcalico.org", "v3", "stagednetworkpolicies", "StagedNetworkPolicy")
STAGEDGLOBALNETWORKPOLICIES = GVR(
    "projectcalico.org", "v3", "stagedglobalnetworkpolicies", "StagedGlobalNetworkPolicy", namespaced=False
)
STAGEDKUBERNETESNETWORKPOLICIES = GVR(
    "projectcalico.org", "v3", "stagedkubernetesnetworkpolicies", "StagedKubernetesNetworkPolicy"
)
TIERS = GVR("projectcalico.org", "v3", "tiers", "Tier", namespaced=False)
NETWORKSETS = GVR("projectcalico.org", "v3", "networksets", "NetworkSet")
GLOBALNETWORKSETS = GVR("projectcalico.org", "v3", "globalnetworksets", "GlobalNetworkSet", namespaced=False)
PROFILES = GVR("projectcalico.org", "v3", "profiles", "Profile", namespaced=False)
IPPOOLS = GVR("projectcalico.org", "v3", "ippools", "IPPool", namespaced=False)
IPAMBLOCKS = GVR("projectcalico.org", "v3", "ipamblocks", "IPAMBlock", namespaced=False)
BLOCKAFFINITIES = GVR("projectcalico.org", "v3", "blockaffinities", "BlockAffinity", namespaced=False)
IPAMHANDLES = GVR("projectcalico.org", "v3", "ipamhandles", "IPAMHandle", namespaced=False)
IPAMCONFIGS = GVR("projectcalico.org", "v3", "ipamconfigurations", "IPAMConfiguration", namespaced=False)
IPRESERVATIONS = GVR("projectcalico.org", "v3", "ipreservations", "IPReservation", namespaced=False)
WORKLOADENDPOINTS = GVR("projectcalico.org", "v3", "workloadendpoints", "WorkloadEndpoint")
INSTALLATIONS = GVR("operator.tigera.io", "v1", "installations", "Installation", namespaced=False)
