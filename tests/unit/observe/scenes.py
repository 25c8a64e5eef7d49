"""Small worlds as manifests, for the pages about policies."""

from __future__ import annotations

from podwire.observe.manifests import read
from podwire.observe.policyscene import Scene, over

SHOP = """
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: sales}}
---
apiVersion: v1
kind: Namespace
metadata: {name: kube-system}
---
apiVersion: v1
kind: Pod
metadata: {name: front, namespace: shop, labels: {app: front}}
spec: {nodeName: n1, containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
status: {podIPs: [{ip: 10.244.1.2}, {ip: "fd00::2"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: api, namespace: shop, labels: {app: api, tier: back}}
spec: {nodeName: n2, serviceAccountName: robot, containers: [{name: c, ports: [{name: http, containerPort: 9090}]}]}
status: {podIPs: [{ip: 10.244.2.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: guest, labels: {app: guest}}
spec: {nodeName: n1, containers: [{name: c}]}
status: {podIPs: [{ip: 10.244.1.3}]}
---
apiVersion: v1
kind: Pod
metadata: {name: done, namespace: shop, labels: {app: front}}
spec: {nodeName: n1, containers: [{name: c}]}
status: {phase: Succeeded, podIPs: [{ip: 10.244.1.9}]}
---
apiVersion: v1
kind: Pod
metadata: {name: exporter, namespace: shop, labels: {app: exporter}}
spec: {nodeName: n1, hostNetwork: true, containers: [{name: c}]}
status: {podIPs: [{ip: 172.18.0.2}]}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 172.18.0.2}, {type: Hostname, address: n1}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
status: {addresses: [{type: InternalIP, address: 172.18.0.3}]}
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec: {clusterIP: 10.96.0.7, selector: {app: api}, ports: [{name: web, port: 80, targetPort: http}]}
"""


def scene(*texts: str) -> Scene:
    """The shop, and what these texts add."""
    return Scene(over((), [one for at, text in enumerate([SHOP, *texts]) for one in read(text, f"{at}.yaml")]))


def policy(name: str, spec: str, *, kind: str = "NetworkPolicy", api: str = "", namespace: str = "shop") -> str:
    """A policy with a spec in flow style."""
    group = api or "networking.k8s.io/v1"
    space = f", namespace: {namespace}" if namespace else ""
    return f"apiVersion: {group}\nkind: {kind}\nmetadata: {{name: {name}{space}}}\nspec: {spec}\n"
