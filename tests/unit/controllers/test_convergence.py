"""All controllers over the fake API: what users do, and where the cluster settles."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from typing import Any

from podwire.kube.client import ApiError
from podwire.model import gvr

_spec = importlib.util.spec_from_file_location("controllers_cluster", Path(__file__).with_name("conftest.py"))
assert _spec and _spec.loader
cluster_tools: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cluster_tools)
controllers, deployment, node, template = (
    cluster_tools.controllers,
    cluster_tools.deployment,
    cluster_tools.node,
    cluster_tools.template,
)
Running = Any


def sets(cluster: Running) -> dict[str, int]:
    """Wanted size of each ReplicaSet by its image."""
    return {
        rs["spec"]["template"]["spec"]["containers"][0]["image"]: rs["spec"]["replicas"]
        for rs in cluster.api.objects(gvr.REPLICASETS)
    }


def conditions(obj: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {one["type"]: (one["status"], one["reason"]) for one in obj["status"]["conditions"]}


async def deployed(cluster: Running, name: str = "web", replicas: int = 3, **more: Any) -> None:
    await cluster.api.create(gvr.DEPLOYMENTS, deployment(name, replicas, **more))
    await cluster.until(lambda: len(cluster.ready(app=name)) == replicas)
    await cluster.until(
        lambda: (cluster.get(gvr.DEPLOYMENTS, name).get("status") or {}).get("availableReplicas") == replicas
    )


async def test_a_deployment_becomes_pods_on_different_nodes(cluster: Running) -> None:
    async with controllers(cluster.api):
        await deployed(cluster, replicas=4)
        await cluster.still()
    nodes = sorted(pod["spec"]["nodeName"] for pod in cluster.pods(app="web"))
    assert nodes == ["lab-worker", "lab-worker", "lab-worker2", "lab-worker2"]
    found = cluster.get(gvr.DEPLOYMENTS, "web")
    assert conditions(found) == {
        "Available": ("True", "MinimumReplicasAvailable"),
        "Progressing": ("True", "NewReplicaSetAvailable"),
    }
    assert found["status"]["observedGeneration"] == found["metadata"]["generation"]
    assert found["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "1"
    events = {one["reason"]: one["message"] for one in cluster.api.objects(gvr.EVENTS)}
    assert events["ScalingReplicaSet"].endswith("from 0 to 4")
    assert events["Scheduled"].startswith("Successfully assigned default/web-")


async def test_scaling_up_and_down(cluster: Running) -> None:
    async with controllers(cluster.api):
        await deployed(cluster, replicas=2)
        for size in (7, 1, 0, 3):
            await cluster.api.patch(gvr.DEPLOYMENTS, "web", {"spec": {"replicas": size}}, "default")
            await cluster.until(lambda size=size: len(cluster.pods(app="web")) == size == len(cluster.ready(app="web")))
        await cluster.still()
    assert cluster.get(gvr.DEPLOYMENTS, "web")["status"]["replicas"] == 3


async def test_a_second_run_writes_nothing(cluster: Running) -> None:
    await cluster.api.create(gvr.SERVICES, service("web"))
    async with controllers(cluster.api):
        await cluster.api.create(gvr.DAEMONSETS, daemonset("agent"))
        await deployed(cluster)
        await cluster.api.create(gvr.PODS, pod("huge", cpu="64"))
        await cluster.until(lambda: len(cluster.ready(app="agent")) == 2)
        await cluster.still(0.3)
    before = dict(cluster.api.calls)
    async with controllers(cluster.api):
        await cluster.still(0.5)
    reads = ("get", "list", "watch")
    changed = {call: n for call, n in cluster.api.calls.items() if before.get(call, 0) != n and call[0] not in reads}
    assert changed == {}


async def test_a_rolling_update_keeps_its_promises(cluster: Running) -> None:
    seen: list[tuple[int, int]] = []
    update = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}}

    async def observe() -> None:
        async for _ in cluster.api.watch(gvr.PODS):
            alive = [one for one in cluster.pods(app="web") if "deletionTimestamp" not in one["metadata"]]
            seen.append((len(alive), len(cluster.ready(app="web"))))

    async with controllers(cluster.api):
        await deployed(cluster, replicas=6, strategy=update)
        await cluster.still()
        task = asyncio.create_task(observe())
        change = {"spec": {"template": template("web", "nginx:2")}}
        await cluster.api.patch(gvr.DEPLOYMENTS, "web", change, "default")
        await cluster.until(
            lambda: sets(cluster) == {"nginx:1": 0, "nginx:2": 6} and len(cluster.ready(app="web")) == 6
        )
        await cluster.still()
        task.cancel()
    assert max(alive for alive, _ in seen) <= 7
    assert min(ready for _, ready in seen) >= 5
    assert cluster.get(gvr.DEPLOYMENTS, "web")["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "2"


async def test_a_broken_update_stops_and_undo_brings_it_back(cluster: Running) -> None:
    cluster.kubelets.hold = lambda one: one["spec"]["containers"][0]["image"] == "nginx:broken"
    async with controllers(cluster.api):
        await deployed(cluster, replicas=4)
        await cluster.still()
        change = {"spec": {"template": template("web", "nginx:broken")}}
        await cluster.api.patch(gvr.DEPLOYMENTS, "web", change, "default")
        await cluster.until(lambda: sets(cluster) == {"nginx:1": 3, "nginx:broken": 2})
        await cluster.still()
        assert sets(cluster) == {"nginx:1": 3, "nginx:broken": 2}
        # What `kubectl rollout undo` sends: the old template.
        change = {"spec": {"template": template("web")}}
        await cluster.api.patch(gvr.DEPLOYMENTS, "web", change, "default")
        await cluster.until(lambda: sets(cluster) == {"nginx:1": 4, "nginx:broken": 0})
        await cluster.until(lambda: len(cluster.ready(app="web")) == 4 == len(cluster.pods(app="web")))
        await cluster.still()
    found = cluster.get(gvr.DEPLOYMENTS, "web")
    assert found["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "3"
    first = next(rs for rs in cluster.api.objects(gvr.REPLICASETS) if rs["spec"]["replicas"])
    assert first["metadata"]["annotations"]["deployment.kubernetes.io/revision-history"] == "1"


async def test_recreate_has_no_old_pod_beside_a_new_one(cluster: Running) -> None:
    mixed: list[set[str]] = []

    async def observe() -> None:
        async for _ in cluster.api.watch(gvr.PODS):
            mixed.append({one["spec"]["containers"][0]["image"] for one in cluster.pods(app="web")})

    async with controllers(cluster.api):
        await deployed(cluster, strategy={"type": "Recreate"})
        task = asyncio.create_task(observe())
        await cluster.api.patch(gvr.DEPLOYMENTS, "web", {"spec": {"template": template("web", "nginx:2")}}, "default")
        await cluster.until(
            lambda: sets(cluster) == {"nginx:1": 0, "nginx:2": 3} and len(cluster.ready(app="web")) == 3
        )
        task.cancel()
    assert all(len(images) < 2 for images in mixed)


async def test_history_is_cut_and_a_paused_deployment_waits(cluster: Running) -> None:
    async with controllers(cluster.api):
        await deployed(cluster, replicas=1, revisionHistoryLimit=1)
        for image in ("nginx:2", "nginx:3"):
            await cluster.api.patch(gvr.DEPLOYMENTS, "web", {"spec": {"template": template("web", image)}}, "default")
            await cluster.until(lambda image=image: sets(cluster).get(image) == 1 and len(cluster.pods(app="web")) == 1)
        await cluster.until(lambda: set(sets(cluster)) == {"nginx:2", "nginx:3"})
        change = {"spec": {"paused": True, "template": template("web", "nginx:4")}}
        await cluster.api.patch(gvr.DEPLOYMENTS, "web", change, "default")
        await cluster.still()
        assert conditions(cluster.get(gvr.DEPLOYMENTS, "web"))["Progressing"] == ("Unknown", "DeploymentPaused")
        assert "nginx:4" not in sets(cluster)
        await cluster.api.patch(gvr.DEPLOYMENTS, "web", {"spec": {"paused": False}}, "default")
        await cluster.until(lambda: sets(cluster).get("nginx:4") == 1)


async def test_deletion_cascades(cluster: Running) -> None:
    async with controllers(cluster.api):
        for propagation in ("Background", "Foreground"):
            await deployed(cluster)
            await cluster.api.delete(gvr.DEPLOYMENTS, "web", "default", propagation=propagation)
            await cluster.until(lambda: not cluster.pods() and not cluster.api.objects(gvr.REPLICASETS))
            await cluster.until(lambda: not cluster.api.objects(gvr.DEPLOYMENTS))


async def test_orphans_stay_and_are_adopted_again(cluster: Running) -> None:
    async with controllers(cluster.api):
        await deployed(cluster)
        names = {one["metadata"]["name"] for one in cluster.pods()}
        await cluster.api.delete(gvr.DEPLOYMENTS, "web", "default", propagation="Orphan")
        await cluster.until(lambda: not cluster.api.objects(gvr.DEPLOYMENTS))
        await cluster.until(lambda: not cluster.api.objects(gvr.REPLICASETS)[0]["metadata"].get("ownerReferences"))
        await deployed(cluster)
        await cluster.still()
    assert {one["metadata"]["name"] for one in cluster.pods()} == names
    assert len(cluster.api.objects(gvr.REPLICASETS)) == 1


async def test_what_has_an_absent_owner_goes(cluster: Running) -> None:
    lost = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "no", "uid": "gone"}
    unknown = {"apiVersion": "example.org/v1", "kind": "Thing", "name": "no", "uid": "unknown"}
    for name, ref in (("lost", lost), ("unknown", unknown)):
        metadata = {"name": name, "namespace": "default", "ownerReferences": [ref]}
        await cluster.api.create(gvr.CONFIGMAPS, {"metadata": metadata})
    async with controllers(cluster.api):
        await cluster.until(lambda: cluster.get(gvr.CONFIGMAPS, "lost") is None)
        await cluster.still()
    assert cluster.get(gvr.CONFIGMAPS, "unknown") is not None


async def test_a_released_pod_is_replaced(cluster: Running) -> None:
    async with controllers(cluster.api):
        await deployed(cluster, replicas=2)
        name = cluster.pods()[0]["metadata"]["name"]
        await cluster.api.patch(gvr.PODS, name, {"metadata": {"labels": {"app": "debug"}}}, "default")
        await cluster.until(lambda: len(cluster.ready(app="web")) == 2)
        await cluster.still()
    assert not cluster.get(gvr.PODS, name)["metadata"].get("ownerReferences")


def daemonset(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": template(name)},
    }


def service(name: str, **more: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "clusterIP": "10.96.0.9",
            "selector": {"app": name},
            "ports": [{"port": 80, "targetPort": "http"}],
            **more,
        },
    }


def pod(name: str, cpu: str = "", **spec: Any) -> dict[str, Any]:
    container: dict[str, Any] = {"name": "web", "image": "nginx"}
    if cpu:
        container["resources"] = {"requests": {"cpu": cpu}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {"containers": [container], **spec},
    }


async def test_a_daemon_on_every_node_and_its_update(cluster: Running) -> None:
    def images() -> set[str]:
        return {one["spec"]["containers"][0]["image"] for one in cluster.ready(app="agent")}

    async with controllers(cluster.api):
        wanted = daemonset("agent")
        wanted["spec"]["template"]["spec"]["tolerations"] = [{"operator": "Exists"}]
        await cluster.api.create(gvr.DAEMONSETS, wanted)
        await cluster.until(lambda: len(cluster.ready(app="agent")) == 3)
        await cluster.api.create(gvr.NODES, node("lab-worker3"))
        await cluster.until(lambda: len({one["spec"]["nodeName"] for one in cluster.ready(app="agent")}) == 4)
        wanted["spec"]["template"]["spec"]["containers"][0]["image"] = "nginx:2"
        await cluster.api.patch(gvr.DAEMONSETS, "agent", {"spec": wanted["spec"]}, "default")
        await cluster.until(lambda: images() == {"nginx:2"} and len(cluster.ready(app="agent")) == 4)
        await cluster.still()
        status = cluster.get(gvr.DAEMONSETS, "agent")["status"]
        assert status["updatedNumberScheduled"] == status["numberAvailable"] == status["desiredNumberScheduled"] == 4
        revisions = {one["revision"]: one["data"] for one in cluster.api.objects(gvr.CONTROLLERREVISIONS)}
        assert set(revisions) == {1, 2} and revisions[1]["spec"]["template"]["$patch"] == "replace"
        await cluster.api.delete(gvr.DAEMONSETS, "agent", "default", propagation="Background")
        await cluster.until(lambda: not cluster.pods() and not cluster.api.objects(gvr.CONTROLLERREVISIONS))


async def test_endpoints_follow_pods(cluster: Running) -> None:
    def ready_addresses() -> list[str]:
        found = cluster.api.objects(gvr.ENDPOINTSLICES)
        ready = [one for each in found for one in each["endpoints"] if one["conditions"]["ready"]]
        return sorted(one["addresses"][0] for one in ready)

    async with controllers(cluster.api):
        await cluster.api.create(gvr.SERVICES, service("web"))
        await cluster.until(lambda: len(cluster.api.objects(gvr.ENDPOINTSLICES)) == 1)
        await deployed(cluster)
        await cluster.until(lambda: len(ready_addresses()) == 3)
        found = cluster.api.objects(gvr.ENDPOINTSLICES)[0]
        assert found["ports"] == [{"name": "", "port": 80, "protocol": "TCP"}]
        assert found["metadata"]["labels"]["kubernetes.io/service-name"] == "web"
        subset = cluster.get(gvr.ENDPOINTS, "web")["subsets"][0]
        assert sorted(one["ip"] for one in subset["addresses"]) == ready_addresses()
        await cluster.api.delete(gvr.SERVICES, "web", "default")
        await cluster.until(
            lambda: not cluster.api.objects(gvr.ENDPOINTSLICES) and not cluster.api.objects(gvr.ENDPOINTS)
        )


async def test_namespaces_are_furnished_and_emptied(cluster: Running) -> None:
    async with controllers(cluster.api):
        await cluster.api.create(gvr.NAMESPACES, cluster_tools.namespace("shop"))
        await cluster.until(lambda: cluster.get(gvr.SERVICEACCOUNTS, "default", "shop"))
        await cluster.until(lambda: cluster.get(gvr.CONFIGMAPS, "kube-root-ca.crt", "shop"))
        assert cluster.get(gvr.CONFIGMAPS, "kube-root-ca.crt", "shop")["data"] == {"ca.crt": "PEM"}
        wanted = deployment("web")
        wanted["metadata"]["namespace"] = "shop"
        await cluster.api.create(gvr.DEPLOYMENTS, wanted)
        await cluster.until(lambda: len(cluster.ready(app="web")) == 3)
        await cluster.api.delete(gvr.NAMESPACES, "shop")
        await cluster.until(lambda: cluster.get(gvr.NAMESPACES, "shop") is None)
        await cluster.still()
    left = [kind.plural for kind in (gvr.PODS, gvr.REPLICASETS, gvr.DEPLOYMENTS) if cluster.api.objects(kind)]
    assert left == []
    assert {one["metadata"]["namespace"] for one in cluster.api.objects(gvr.CONFIGMAPS)} == {"default"}


async def test_node_cidrs_and_the_last_one(cluster: Running) -> None:
    async with controllers(cluster.api, pod_subnet="10.244.0.0/22", node_mask=24):
        await cluster.until(lambda: all(one["spec"].get("podCIDR") for one in cluster.api.objects(gvr.NODES)))
        found = {one["metadata"]["name"]: one["spec"]["podCIDRs"] for one in cluster.api.objects(gvr.NODES)}
        assert found == {
            "lab-control-plane": ["10.244.0.0/24"],
            "lab-worker": ["10.244.1.0/24"],
            "lab-worker2": ["10.244.2.0/24"],
        }
        await cluster.api.create(gvr.NODES, node("lab-worker3"))
        await cluster.api.create(gvr.NODES, node("lab-worker4"))
        await cluster.until(lambda: "CIDRNotAvailable" in {one["reason"] for one in cluster.api.objects(gvr.EVENTS)})
        await cluster.api.delete(gvr.NODES, "lab-worker")
        await cluster.until(lambda: cluster.get(gvr.NODES, "lab-worker4")["spec"].get("podCIDR") == "10.244.1.0/24")


async def test_a_pod_waits_for_room_and_for_taints(cluster: Running) -> None:
    async with controllers(cluster.api):
        await cluster.api.create(gvr.PODS, pod("huge", cpu="6"))
        await cluster.until(lambda: (cluster.get(gvr.PODS, "huge").get("status") or {}).get("conditions"))
        told = cluster.get(gvr.PODS, "huge")["status"]["conditions"][0]
        taint = "1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }"
        assert told["reason"] == "Unschedulable"
        assert told["message"].startswith(f"0/3 nodes are available: {taint}, 2 Insufficient cpu. preemption: ")
        await cluster.until(lambda: "FailedScheduling" in {one["reason"] for one in cluster.api.objects(gvr.EVENTS)})
        await cluster.api.create(gvr.NODES, node("lab-worker3", cpu="8"))
        await cluster.until(lambda: cluster.get(gvr.PODS, "huge")["spec"].get("nodeName") == "lab-worker3")
        await cluster.api.patch(gvr.NODES, "lab-worker3", {"spec": {"unschedulable": True}})
        await cluster.until(lambda: cluster.get(gvr.NODES, "lab-worker3")["spec"].get("taints"))
        await cluster.api.patch(gvr.NODES, "lab-worker3", {"spec": {"unschedulable": None}})
        await cluster.until(lambda: not cluster.get(gvr.NODES, "lab-worker3")["spec"].get("taints"))


async def test_a_silent_node_loses_its_pods(cluster: Running) -> None:
    stop = asyncio.Event()

    async def heartbeats() -> None:
        beat = 0
        while True:
            beat += 1
            silent = {"lab-worker2"} if stop.is_set() else set()
            for name in {"lab-control-plane", "lab-worker", "lab-worker2"} - silent:
                lease = {"metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": {"renewTime": str(beat)}}
                try:
                    await cluster.api.update(gvr.LEASES, lease)
                except ApiError:
                    await cluster.api.create(gvr.LEASES, lease)
            await asyncio.sleep(0.05)

    task = asyncio.create_task(heartbeats())
    async with controllers(cluster.api, node_grace=2.0, orphan_quarantine=0.1):
        await deployed(cluster, replicas=4)
        stop.set()
        await cluster.until(lambda: cluster_tools.is_ready(cluster.get(gvr.NODES, "lab-worker2")) is False)
        await cluster.until(lambda: {one["spec"].get("nodeName") for one in cluster.pods()} == {"lab-worker"})
        taints = {(one["key"], one["effect"]) for one in cluster.get(gvr.NODES, "lab-worker2")["spec"]["taints"]}
        key = "node.kubernetes.io/unreachable"
        assert taints == {(key, "NoSchedule"), (key, "NoExecute")}
        assert cluster_tools.is_ready(cluster.get(gvr.NODES, "lab-worker"))
        await cluster.api.delete(gvr.NODES, "lab-worker")
        await cluster.until(lambda: all(one["spec"].get("nodeName") != "lab-worker" for one in cluster.pods()))
    task.cancel()


async def test_refusals_do_not_end_the_loops(cluster: Running) -> None:
    for verb in ("create", "patch", "update", "delete", "list", "watch"):
        cluster.api.fail_next(ApiError(500, "InternalError", "boom"), verb=verb, times=4)
    async with controllers(cluster.api):
        await asyncio.sleep(0.1)
        for _ in range(50):
            try:
                await cluster.api.create(gvr.DEPLOYMENTS, deployment("web"))
                break
            except ApiError:
                await asyncio.sleep(0.01)
        cluster.api.break_watches()
        cluster.api.compact()
        await cluster.until(lambda: len(cluster.ready(app="web")) == 3)


async def test_a_malformed_object_stops_no_other(cluster: Running) -> None:
    bad = deployment("bad")
    bad["spec"]["selector"] = {"matchExpressions": [{"key": "a", "operator": "Odd"}]}
    bad["spec"]["strategy"] = {"rollingUpdate": {"maxSurge": "many"}}
    await cluster.api.create(gvr.DEPLOYMENTS, bad)
    await cluster.api.create(gvr.PODS, pod("odd", cpu="lots"))
    async with controllers(cluster.api):
        await deployed(cluster)


async def test_the_default_pool_waits_for_its_kind(cluster: Running) -> None:
    async with controllers(cluster.api, node_mask=27, pod_subnet="10.244.0.0/16"):
        await cluster.still()
        assert not cluster.api.objects(gvr.IPPOOLS)
        names = {"plural": "ippools", "kind": "IPPool"}
        crd = {
            "metadata": {"name": "ippools.projectcalico.org"},
            "spec": {
                "group": "projectcalico.org",
                "scope": "Cluster",
                "names": names,
                "versions": [{"name": "v3", "served": True, "storage": True}],
            },
            "status": {"conditions": [{"type": "Established", "status": "True"}]},
        }
        await cluster.api.create(gvr.CRDS, crd)
        await cluster.until(lambda: cluster.api.objects(gvr.IPPOOLS))
    pool = cluster.api.objects(gvr.IPPOOLS)[0]
    assert pool["metadata"]["name"] == "default-ipv4-ippool"
    assert pool["spec"]["blockSize"] == 27 and pool["spec"]["vxlanMode"] == "Always" and pool["spec"]["natOutgoing"]


async def test_undoing_a_daemon_brings_its_revision_to_the_front(cluster: Running) -> None:
    def images() -> set[str]:
        return {one["spec"]["containers"][0]["image"] for one in cluster.ready(app="agent")}

    async with controllers(cluster.api):
        await cluster.api.create(gvr.DAEMONSETS, daemonset("agent"))
        for image in ("nginx:1", "nginx:2", "nginx:1"):
            change = {"spec": {"template": template("agent", image)}}
            await cluster.api.patch(gvr.DAEMONSETS, "agent", change, "default")
            await cluster.until(lambda image=image: images() == {image} and len(cluster.ready(app="agent")) == 2)
        await cluster.still()
    revisions = {one["revision"]: one for one in cluster.api.objects(gvr.CONTROLLERREVISIONS)}
    assert set(revisions) == {2, 3}
    assert revisions[3]["data"]["spec"]["template"]["spec"]["containers"][0]["image"] == "nginx:1"


async def test_a_daemon_with_surge_is_never_away(cluster: Running) -> None:
    nodes_served: list[int] = []

    async def observe() -> None:
        async for _ in cluster.api.watch(gvr.PODS):
            nodes_served.append(len({one["spec"]["nodeName"] for one in cluster.ready(app="agent")}))

    wanted = daemonset("agent")
    wanted["spec"]["updateStrategy"] = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    async with controllers(cluster.api):
        await cluster.api.create(gvr.DAEMONSETS, wanted)
        await cluster.until(lambda: len(cluster.ready(app="agent")) == 2)
        await cluster.still()
        task = asyncio.create_task(observe())
        change = {"spec": {"template": template("agent", "nginx:2")}}
        await cluster.api.patch(gvr.DAEMONSETS, "agent", change, "default")
        await cluster.until(
            lambda: [one["spec"]["containers"][0]["image"] for one in cluster.ready(app="agent")] == ["nginx:2"] * 2
        )
        await cluster.until(lambda: len(cluster.pods(app="agent")) == 2)
        task.cancel()
    assert min(nodes_served) == 2


async def test_a_rollout_that_hangs_is_called_so(cluster: Running) -> None:
    cluster.kubelets.hold = lambda one: True
    async with controllers(cluster.api):
        await cluster.api.create(gvr.DEPLOYMENTS, deployment("web", 1, progressDeadlineSeconds=1))
        await cluster.until(
            lambda: (
                conditions(cluster.get(gvr.DEPLOYMENTS, "web")).get("Progressing")
                == ("False", "ProgressDeadlineExceeded")
                if "conditions" in (cluster.get(gvr.DEPLOYMENTS, "web").get("status") or {})
                else False
            )
        )
        await cluster.kubelets.release()
        await cluster.until(
            lambda: conditions(cluster.get(gvr.DEPLOYMENTS, "web"))["Progressing"] == ("True", "NewReplicaSetAvailable")
        )
