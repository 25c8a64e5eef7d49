"""What people run on a cluster, on genuine kubelets with Podwire's network: each kind of workload and what becomes of
it, with packets and with what is left of its addresses."""

from __future__ import annotations

import json
import os
import signal
import urllib.parse
from typing import Any

import pytest

from tests.kubernetes.genuine import NODES, container, ipam_check, until
from tests.lab.host import Lab
from tests.lab.kubectl import Kubectl

pytestmark = pytest.mark.timeout(300)
_, HERE, THERE = NODES
AGNHOST = "registry.k8s.io/e2e-test-images/agnhost:2.63.0"
WEB = 8080
Object = dict[str, Any]


def server(*words: str, **more: Any) -> Object:
    """A container that tells its host's name on TCP and UDP, and asks others for theirs (`dial`)."""
    return {
        "name": "server",
        "image": AGNHOST,
        "args": ["netexec", f"--http-port={WEB}", f"--udp-port={WEB}", *words],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": WEB}, "periodSeconds": 1},
        **more,
    }


def shell(name: str, script: str, **more: Any) -> Object:
    return {"name": name, "image": "busybox", "command": ["sh", "-c", script], **more}


def pod(name: str, *containers: Object, **spec: Any) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": list(containers or (server(),)), **spec},
    }


def deployment(name: str, replicas: int) -> Object:
    """One pod of it on each worker that takes pods, then two, and so on."""
    selector = {"matchLabels": {"app": name}}
    spread = {"topologyKey": "kubernetes.io/hostname", "maxSkew": 1, "nodeTaintsPolicy": "Honor"}
    spread |= {"whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector}
    template = pod(name, topologySpreadConstraints=[spread])
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": selector,
            "template": {key: template[key] for key in ("metadata", "spec")},
        },
    }


def ready(kubectl: Kubectl, *names: str) -> None:
    kubectl.run("wait", "--for=condition=Ready", *(f"pod/{name}" for name in names), "--timeout=100s", seconds=110)


def rolled_out(kubectl: Kubectl, name: str) -> None:
    kubectl.run("rollout", "status", f"deployment/{name}", "--timeout=100s", seconds=110)


def address(kubectl: Kubectl, name: str) -> str:
    return kubectl.run("get", "pod", name, "-o", "jsonpath={.status.podIP}")


def node_address(kubectl: Kubectl, node: str) -> str:
    return kubectl.run("get", "node", node, "-o", 'jsonpath={.status.addresses[?(@.type=="InternalIP")].address}')


def routed(real: Lab, node: str, wanted: str) -> bool:
    """Whether the node has a way to that pod on itself."""
    return f"{wanted} dev" in real("exec", node, "ip", "route").stdout


def dial(kubectl: Kubectl, client: str, host: str, port: int, protocol: str = "http") -> str:
    """The name of who answers `client` there, or what went wrong."""
    asked = {"host": host, "port": port, "protocol": protocol, "request": "hostname", "tries": 1}
    url = f"http://127.0.0.1:{WEB}/dial?{urllib.parse.urlencode(asked)}"
    answer = json.loads(kubectl.run("exec", client, "--", "curl", "-s", "--max-time", "20", url))
    return str((answer.get("responses") or answer.get("errors") or ["nothing"])[0])


def test_host_ports(real: Lab, kubectl: Kubectl) -> None:
    ports = [
        {"containerPort": WEB, "hostPort": port, "protocol": name} for port, name in ((18080, "TCP"), (18081, "UDP"))
    ]
    kubectl.apply(
        pod("web", server(ports=ports), nodeName=HERE), pod("near", nodeName=HERE), pod("far", nodeName=THERE)
    )
    ready(kubectl, "web", "near", "far")
    node = node_address(kubectl, HERE)
    for client in ("near", "far", "web"):
        assert dial(kubectl, client, node, 18080) == "web"
        assert dial(kubectl, client, node, 18081, "udp") == "web"
    for where, host in ((THERE, node), (HERE, node), (HERE, "127.0.0.1")):
        assert real("exec", where, "curl", "-s", "--max-time", "5", f"http://{host}:18080/hostname").stdout == "web"
    kubectl.apply(pod("second", server(ports=ports[:1]), nodeSelector={"kubernetes.io/hostname": HERE}))
    why = 'jsonpath={.status.conditions[?(@.type=="PodScheduled")].message}'
    until("it is not scheduled", lambda: "free ports" in kubectl.run("get", "pod", "second", "-o", why))
    kubectl.run("delete", "pod", "web")
    ready(kubectl, "second")
    assert dial(kubectl, "far", node, 18080) == "second"


def test_a_pod_on_the_nodes_own_network(kubectl: Kubectl) -> None:
    bare = server("--http-port=18090", "--udp-port=18090")
    del bare["readinessProbe"]
    kubectl.apply(
        pod("bare", bare, nodeName=HERE, hostNetwork=True),
        pod("near", nodeName=HERE),
        pod("far", nodeName=THERE),
    )
    ready(kubectl, "bare", "near", "far")
    assert address(kubectl, "bare") == node_address(kubectl, HERE)
    for client in ("near", "far"):
        assert dial(kubectl, client, address(kubectl, "bare"), 18090) == HERE
        url = f"http://{address(kubectl, client)}:{WEB}/hostname"
        assert kubectl.run("exec", "bare", "--", "curl", "-s", "--max-time", "5", url) == client


def test_a_static_pod(real: Lab, kubectl: Kubectl) -> None:
    static = pod("static")
    static["metadata"]["namespace"] = kubectl.namespace
    place = "/etc/kubernetes/manifests/static.json"
    real("exec", HERE, "sh", "-c", f"cat > {place} <<'END'\n{json.dumps(static)}\nEND")
    mirror = f"static-{HERE}"
    try:
        until("kubelet tells of it", lambda: mirror in kubectl.run("get", "pods", "-o", "name"))
        kubectl.apply(pod("far", nodeName=THERE))
        ready(kubectl, mirror, "far")
        own = address(kubectl, mirror)
        assert dial(kubectl, "far", own, WEB) == mirror
        assert routed(real, HERE, own)
    finally:
        real("exec", HERE, "rm", place)
    until("it is gone", lambda: mirror not in kubectl.run("get", "pods", "-o", "name"))
    until("its address is free", lambda: not routed(real, HERE, own))


def test_probes(kubectl: Kubectl) -> None:
    """Kubelet asks from the node; a pod that no longer answers leaves its Service, then its container is replaced."""

    def probe(path: str, **more: Any) -> Object:
        return {"httpGet": {"path": path, "port": 80}, "periodSeconds": 1, "failureThreshold": 1, **more}

    pages = "/usr/share/nginx/html"
    begin = f"mkdir -p {pages}; echo > {pages}/started; echo > {pages}/alive; exec nginx -g 'daemon off;'"
    web = {
        "name": "web",
        "image": "nginx:1.27",
        "command": ["sh", "-c", begin],
        "startupProbe": probe("/started", failureThreshold=30),
        "readinessProbe": probe("/ready"),
        "livenessProbe": probe("/alive"),
    }
    kubectl.apply(pod("probed", web))
    kubectl.run("expose", "pod", "probed", "--port=80")
    status = "jsonpath={.status.containerStatuses[0]['started','ready','restartCount']}"
    behind = "jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].addresses[0]}"

    def members() -> str:
        label = "kubernetes.io/service-name=probed"
        return kubectl.run("get", "endpointslices", "-l", label, "-o", behind)

    def is_now(wanted: str) -> None:
        until(
            f"started, ready, restarts are {wanted}",
            lambda: kubectl.run("get", "pod", "probed", "-o", status) == wanted,
        )

    is_now("true false 0")
    assert members() == ""
    kubectl.run("exec", "probed", "--", "touch", f"{pages}/ready")
    is_now("true true 0")
    own = address(kubectl, "probed")
    until("the Service has it", lambda: members() == own)
    kubectl.run("exec", "probed", "--", "rm", f"{pages}/alive", f"{pages}/ready")
    is_now("true false 1")
    until("the Service has it no longer", lambda: members() == "")
    assert address(kubectl, "probed") == own


def test_containers_of_a_pod_share_its_network(kubectl: Kubectl) -> None:
    """Init containers, a sidecar that serves all of them, two more; each finds the pod's address, and the pod ends."""
    told = "ip -4 -o address show eth0 | awk '{print $4}'"
    kubectl.apply(
        pod(
            "many",
            shell("main", f"wget -qO- http://127.0.0.1:{WEB}/hostname; echo; {told}"),
            shell("other", f"{told}"),
            initContainers=[
                shell("first", told),
                server(
                    restartPolicy="Always",
                    startupProbe={"httpGet": {"path": "/healthz", "port": WEB}, "periodSeconds": 1},
                ),
                shell("second", f"wget -qO- http://127.0.0.1:{WEB}/hostname; echo; {told}"),
            ],
            restartPolicy="Never",
        )
    )
    until("it ended", lambda: kubectl.run("get", "pod", "many", "-o", "jsonpath={.status.phase}") == "Succeeded")
    (own,) = {kubectl.run("logs", "many", "-c", name).split()[-1] for name in ("first", "second", "main", "other")}
    assert own == f"{address(kubectl, 'many')}/32"
    for name in ("second", "main"):
        assert kubectl.run("logs", "many", "-c", name).split()[0] == "many"


def test_jobs_give_their_addresses_back(real: Lab, kubectl: Kubectl) -> None:
    kubectl.apply(pod("far", nodeName=THERE))
    ready(kubectl, "far")
    ask = f"wget -qO- http://{address(kubectl, 'far')}:{WEB}/hostname"
    template = {"spec": {"restartPolicy": "Never", "containers": [shell("ask", ask)]}}
    job = {"parallelism": 3, "completions": 5, "template": template}
    kubectl.apply(
        {
            "apiVersion": "batch/v1",
            "kind": "CronJob",
            "metadata": {"name": "nightly"},
            "spec": {"schedule": "0 3 * * *", "jobTemplate": {"spec": job}},
        }
    )
    kubectl.run("create", "job", "now", "--from=cronjob/nightly")
    kubectl.run("wait", "--for=condition=Complete", "job/now", "--timeout=100s", seconds=110)
    pods = kubectl.object("pods", "-l", "batch.kubernetes.io/job-name=now")["items"]
    assert len(pods) == 5
    for item in pods:
        name, node, own = item["metadata"]["name"], item["spec"]["nodeName"], item["status"]["podIP"]
        assert kubectl.run("logs", name) == "far"
        until(f"{own} of {name} is free", lambda node=node, own=own: not routed(real, node, own))  # type: ignore[misc]


def test_eviction_and_drain(real: Lab, kubectl: Kubectl) -> None:
    """A budget is kept; a drained node has no pod and no pod's address left, and takes pods again afterwards."""

    def budget(least: int) -> Object:
        spec = {"minAvailable": least, "selector": {"matchLabels": {"app": "web"}}}
        return {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"}, "spec": spec}

    def evict(name: str) -> str:
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": kubectl.namespace},
        }
        path = f"/api/v1/namespaces/{kubectl.namespace}/pods/{name}/eviction"
        done = kubectl.full("create", "--raw", path, "-f", "-", stdin=json.dumps(body))
        return done.stdout + done.stderr

    def where() -> dict[str, str]:
        """Node of each pod that is not about to end."""
        items = kubectl.object("pods", "-l", "app=web")["items"]
        return {
            one["metadata"]["name"]: one["spec"].get("nodeName", "")
            for one in items
            if not one["metadata"].get("deletionTimestamp")
        }

    kubectl.apply(deployment("web", 2), budget(2))
    rolled_out(kubectl, "web")
    assert set(where().values()) == {HERE, THERE}
    victim = next(name for name, node in where().items() if node == THERE)
    until("the budget is known", lambda: kubectl.object("pdb", "web")["status"].get("currentHealthy") == 2)
    assert "TooManyRequests" in evict(victim) or "disruption budget" in evict(victim)
    kubectl.apply(budget(1))
    until("one may go", lambda: kubectl.object("pdb", "web")["status"].get("disruptionsAllowed") == 1)
    own = address(kubectl, victim)
    assert "Success" in evict(victim)
    until("its address is free", lambda: not routed(real, THERE, own) and victim not in where())
    rolled_out(kubectl, "web")
    try:
        real.kubectl("drain", THERE, "--force", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=55s")
        rolled_out(kubectl, "web")
        assert set(where().values()) == {HERE}
        links = 'ip -o link show | grep -c " cali" || true'
        until("no pod's wire is left", lambda: real("exec", THERE, "sh", "-c", links).stdout.strip() == "0")
        kubectl.apply(pod("later", nodeSelector={"kubernetes.io/hostname": THERE}))
        why = 'jsonpath={.status.conditions[?(@.type=="PodScheduled")].reason}'
        until("it finds no place", lambda: kubectl.run("get", "pod", "later", "-o", why) == "Unschedulable")
    finally:
        real.kubectl("uncordon", THERE)
    ready(kubectl, "later")
    assert dial(kubectl, "later", address(kubectl, next(iter(where()))), WEB) in where()
    real.kubectl("-n", "kube-system", "wait", "--for=condition=Available", "deployment/coredns", "--timeout=50s")


def test_a_pod_that_ends_slowly_keeps_its_address(real: Lab, kubectl: Kubectl) -> None:
    slow = server("--delay-shutdown=3600")
    kubectl.apply(pod("slow", slow, nodeName=HERE, terminationGracePeriodSeconds=3600), pod("far", nodeName=THERE))
    ready(kubectl, "slow", "far")
    own = address(kubectl, "slow")
    kubectl.run("delete", "pod", "slow", "--wait=false")
    told = "involvedObject.name=slow,reason=Killing"
    until("it was told", lambda: "slow" in kubectl.run("get", "events", "--field-selector", told, "-o", "name"))
    kubectl.apply(*(pod(f"new-{number}", nodeName=HERE) for number in range(3)))
    ready(kubectl, *(f"new-{number}" for number in range(3)))
    assert own not in {address(kubectl, f"new-{number}") for number in range(3)}
    assert dial(kubectl, "far", own, WEB) == "slow"
    assert "nothing found" in ipam_check(real)
    kubectl.full("exec", "far", "--", "curl", "-s", "--max-time", "5", f"http://{own}:{WEB}/exit?code=0")
    until("it is gone", lambda: "slow" not in kubectl.run("get", "pods", "-o", "name"))
    until("its address is free", lambda: not routed(real, HERE, own))


def test_a_node_reboots(real: Lab, kubectl: Kubectl) -> None:
    """Sandboxes are made anew, and no address stays behind of those that went down with it."""
    kubectl.apply(pod("stays", nodeName=THERE), pod("near", nodeName=HERE), deployment("web", 2))
    ready(kubectl, "stays", "near")
    rolled_out(kubectl, "web")
    before = container(kubectl, "stays")
    os.kill(real.processes("real")[f"podwire node {THERE}"], signal.SIGKILL)
    until("its container runs again", lambda: container(kubectl, "stays") not in ("", before))
    ready(kubectl, "stays")
    rolled_out(kubectl, "web")
    own = address(kubectl, "stays")
    until("it is reached", lambda: dial(kubectl, "near", own, WEB) == "stays")
    assert dial(kubectl, "stays", address(kubectl, "near"), WEB) == "near"
    until("no address is left over", lambda: "nothing found" in ipam_check(real))


@pytest.mark.parametrize("stay", ["short", pytest.param("long", marks=pytest.mark.soak)])
def test_a_node_is_deleted_and_comes_back_under_its_name(real: Lab, kubectl: Kubectl, stay: str) -> None:
    """Its agent never stopped; the new Node object says nothing of the network until the agent has told it. Pods stay
    where the node is back before they are collected, with their addresses."""

    def shown() -> Object:
        node: Object = kubectl.object("node", THERE)["metadata"]
        return node

    kubectl.apply(pod("old", nodeName=THERE), pod("near", nodeName=HERE))
    ready(kubectl, "old", "near")
    own, before = address(kubectl, "old"), shown()
    notes = {key: value for key, value in before["annotations"].items() if "projectcalico.org" in key}
    assert notes
    real.kubectl("delete", "node", THERE)
    if stay == "long":
        until("its pods went with it", lambda: "old" not in kubectl.run("get", "pods", "-o", "name"))
    (kubelet,) = [
        pid
        for title, pid in real.processes("real").items()
        if title.startswith("/opt/kubernetes/bin/kubelet ") and f"--hostname-override={THERE}" in title
    ]
    os.kill(kubelet, signal.SIGTERM)  # only at its start does it register
    until("the node is back", lambda: kubectl.full("get", "node", THERE).returncode == 0)
    real.kubectl("wait", "--for=condition=Ready", f"node/{THERE}", "--timeout=50s")
    assert shown()["uid"] != before["uid"]
    until("peers find it as before", lambda: notes.items() <= shown()["annotations"].items())
    kubectl.apply(pod("new", nodeName=THERE))
    ready(kubectl, "new")
    until("it is reached", lambda: dial(kubectl, "near", address(kubectl, "new"), WEB) == "new")
    assert dial(kubectl, "new", address(kubectl, "near"), WEB) == "near"
    if stay == "short":
        assert address(kubectl, "old") == own
        until("the old pod is reached", lambda: dial(kubectl, "near", own, WEB) == "old")
    else:
        until("the old pod's address is free", lambda: address(kubectl, "new") == own or not routed(real, THERE, own))
    until("no address is left over", lambda: "nothing found" in ipam_check(real))
