"""What pods are given: environment and volumes; on a real lab."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from kubectl import Kubectl, eventually, lab
from pods import Object, events, namespace, on_node, output, part, pod, ready, shell, shown

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    with lab(tmp_path_factory.mktemp("volumes"), "volumes") as kubectl:
        yield kubectl


@pytest.fixture
def kubectl(cluster: Kubectl, request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    with namespace(cluster, re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:50].strip("-")) as own:
        yield own


def once(name: str, script: str, *, container: Object | None = None, **spec: object) -> Object:
    return shell(name, script, container=container, restartPolicy="Never", **spec)


def mounted(path: str, name: str = "v", **more: object) -> Object:
    return {"name": name, "mountPath": path, **more}


def test_environment_from_everywhere(kubectl: Kubectl) -> None:
    kubectl.run("create", "configmap", "settings", "--from-literal=colour=blue", "--from-literal=0.x=no identifier")
    kubectl.run("create", "secret", "generic", "keys", "--from-literal=pass=word")
    kubectl.run("create", "service", "clusterip", "my-svc", "--tcp=80:8080")
    service = kubectl.object("service", "my-svc")["spec"]["clusterIP"]

    def field(name: str, path: str) -> Object:
        return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}

    def amount(name: str, resource: str, divisor: str = "") -> Object:
        reference = {"resource": resource, **({"divisor": divisor} if divisor else {})}
        return {"name": name, "valueFrom": {"resourceFieldRef": reference}}

    env = [
        {"name": "PLAIN", "value": "$(colour) $$(colour) $(none)"},
        field("POD", "metadata.name"),
        field("NS", "metadata.namespace"),
        field("IP", "status.podIP"),
        field("HOST", "status.hostIP"),
        field("NODE", "spec.nodeName"),
        field("SA", "spec.serviceAccountName"),
        field("LABEL", "metadata.labels['app']"),
        amount("CPU", "limits.cpu", "1m"),
        amount("MEMORY", "requests.memory", "1Mi"),
        {"name": "PASS", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "pass"}}},
        {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "colour"}}},
        {"name": "MAYBE", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "k", "optional": True}}},
    ]
    container = {
        "env": env,
        "envFrom": [{"configMapRef": {"name": "settings"}}, {"prefix": "S_", "secretRef": {"name": "keys"}}],
        "resources": {"limits": {"cpu": "250m", "memory": "64Mi"}},
    }
    kubectl.apply(once("all", "env", container=container))
    got = dict(line.partition("=")[::2] for line in output(kubectl, "all").splitlines())
    status = kubectl.object("pod", "all")["status"]
    expected = {
        "PLAIN": "blue $(colour) $(none)",
        "POD": "all",
        "NS": kubectl.namespace,
        "IP": status["podIP"],
        "HOST": status["hostIP"],
        "NODE": kubectl.object("pod", "all")["spec"]["nodeName"],
        "SA": "default",
        "LABEL": "all",
        "CPU": "250",
        "MEMORY": "64",
        "PASS": "word",
        "COLOUR": "blue",
        "colour": "blue",
        "S_pass": "word",
        "HOSTNAME": "all",
        "KUBERNETES_SERVICE_HOST": "10.96.0.1",
        "KUBERNETES_SERVICE_PORT": "443",
        "KUBERNETES_PORT_443_TCP_ADDR": "10.96.0.1",
        "MY_SVC_SERVICE_HOST": service,
        "MY_SVC_PORT_80_TCP": f"tcp://{service}:80",
    }
    assert {key: got.get(key) for key in expected} == expected
    assert "MAYBE" not in got and got["0.x"] == "no identifier"


def test_a_missing_config_map_is_named_and_waited_for(kubectl: Kubectl) -> None:
    env = [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "later", "key": "a"}}}]
    volume = {"volumes": [{"name": "v", "configMap": {"name": "later"}}]}
    kubectl.apply(
        once("env", "echo $A", container={"env": env}),
        once("volume", "cat /v/a; echo", container={"volumeMounts": [mounted("/v")]}, **volume),
    )
    eventually(lambda: shown(kubectl, "env") == "CreateContainerConfigError")
    eventually(lambda: 'Error: configmap "later" not found' in events(kubectl, "env", "Failed"))
    words = 'MountVolume.SetUp failed for volume "v" : configmap "later" not found'
    eventually(lambda: words in events(kubectl, "volume", "FailedMount"))
    assert shown(kubectl, "volume") == "ContainerCreating"
    kubectl.run("create", "configmap", "later", "--from-literal=a=now")
    assert (output(kubectl, "env"), output(kubectl, "volume")) == ("now\n", "now\n")


def test_an_updated_config_map_reaches_the_pod(kubectl: Kubectl) -> None:
    kubectl.run("create", "configmap", "page", "--from-literal=a=old", "--from-literal=b=gone")
    kubectl.run("create", "secret", "generic", "keys", "--from-literal=k=old")
    volumes = [
        {"name": "v", "configMap": {"name": "page"}},
        {"name": "s", "secret": {"secretName": "keys", "defaultMode": 0o400, "items": [{"key": "k", "path": "d/k"}]}},
        {"name": "d", "downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
    ]
    mounts = [mounted("/v"), mounted("/s", "s", readOnly=True), mounted("/d", "d"), mounted("/one", subPath="a")]
    kubectl.apply(pod("reader", container={"volumeMounts": mounts}, volumes=volumes))
    ready(kubectl, "reader")

    def read(*paths: str) -> str:
        return kubectl.run("exec", "reader", "--", "cat", *paths)

    assert read("/v/a", "/s/d/k", "/d/l", "/one") == 'oldoldapp="reader"old'
    assert kubectl.run("exec", "reader", "--", "stat", "-Lc", "%a", "/s/d/k", "/v/a") == "400\n644\n"
    refused = kubectl.full("exec", "reader", "--", "touch", "/s/new")
    assert "Read-only file system" in refused.stderr
    kubectl.run("label", "pod", "reader", "more=yes")
    eventually(lambda: read("/d/l") == 'app="reader"\nmore="yes"', 20)
    kubectl.run("patch", "configmap", "page", "-p", '{"data":{"a":"new","b":null}}')
    kubectl.run("patch", "secret", "keys", "-p", '{"stringData":{"k":"new"}}')
    eventually(lambda: read("/v/a", "/s/d/k") == "newnew", 20)
    assert kubectl.run("exec", "reader", "--", "ls", "/v") == "a\n"
    assert read("/one") == "old"  # a subPath shows what was there at the start


CALL = """
cd /var/run/secrets/kubernetes.io/serviceaccount
ls; cat namespace; echo
curl -sS --cacert ca.crt -H "Authorization: Bearer $(cat token)" -w '\\n%{http_code}\\n' \\
  https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT/api/v1/namespaces/$(cat namespace)/pods/caller
curl -sS --cacert ca.crt -H 'Authorization: Bearer nonsense' -o /dev/null -w '%{http_code}\\n' https://10.96.0.1/api/v1/pods
"""


def test_the_api_accepts_the_pod_by_its_token(kubectl: Kubectl) -> None:
    kubectl.run("create", "clusterrolebinding", kubectl.namespace, "--clusterrole=cluster-admin",
                f"--serviceaccount={kubectl.namespace}:default")  # fmt: skip
    kubectl.apply(pod("caller", "sh", "-c", CALL, image="curlimages/curl:8.10.1", restartPolicy="Never"))
    said = output(kubectl, "caller")
    assert said.startswith(f"ca.crt\nnamespace\ntoken\n{kubectl.namespace}\n")
    assert '"name":"caller"' in said.replace(" ", "")
    assert said.splitlines()[-2:] == ["200", "401"]


def test_no_token_where_it_is_not_wanted(kubectl: Kubectl) -> None:
    script = "ls /var/run/secrets 2>/dev/null; echo end"
    kubectl.apply(once("without", script, automountServiceAccountToken=False))
    assert output(kubectl, "without") == "end\n"
    assert not kubectl.object("pod", "without")["spec"].get("volumes")


def test_a_projected_volume(kubectl: Kubectl) -> None:
    kubectl.run("create", "configmap", "c", "--from-literal=a=1")
    sources = [
        {"configMap": {"name": "c", "items": [{"key": "a", "path": "dir/a", "mode": 0o600}]}},
        {"serviceAccountToken": {"path": "token", "audience": "vault", "expirationSeconds": 600}},
        {
            "downwardAPI": {
                "items": [{"path": "cpu", "resourceFieldRef": {"containerName": "p", "resource": "limits.cpu"}}]
            }
        },
        {"secret": {"name": "none", "optional": True}},
    ]
    container = {"volumeMounts": [mounted("/v")], "resources": {"limits": {"cpu": "2"}}}
    script = (
        "cat /v/dir/a /v/cpu; stat -Lc ' %a' /v/dir/a; cut -d. -f2 /v/token | tr _- /+ | base64 -d 2>/dev/null || true"
    )
    kubectl.apply(once("p", script, container=container, volumes=[{"name": "v", "projected": {"sources": sources}}]))
    first, _, claims = output(kubectl, "p").partition("\n")
    assert first == "12 600"
    assert '"aud":["vault"]' in claims.replace(" ", "")


def test_empty_directories(kubectl: Kubectl) -> None:
    volumes = [
        {"name": "disk", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
    ]
    both = {"volumeMounts": [mounted("/disk", "disk"), mounted("/memory", "memory")]}
    script = "echo kept >/disk/f; echo kept >/memory/f; exec sleep 3600"
    peer = part("peer", "sleep 3600", **both)
    one = shell("one", script, container=both, volumes=volumes)
    one["spec"]["containers"].append(peer)
    kubectl.apply(one)
    ready(kubectl, "one")
    eventually(lambda: kubectl.run("exec", "one", "-c", "peer", "--", "cat", "/disk/f", "/memory/f") == "kept\nkept\n")
    df = kubectl.run("exec", "one", "-c", "peer", "--", "df", "-m", "/memory").splitlines()[-1].split()
    assert (df[0], df[1]) == ("tmpfs", "8")
    assert kubectl.run("exec", "one", "-c", "peer", "--", "stat", "-c", "%a", "/disk") == "777\n"
    node, uid = (kubectl.object("pod", "one")[part][key] for part, key in (("spec", "nodeName"), ("metadata", "uid")))
    assert uid in on_node(kubectl, node, "cat /proc/mounts")
    kubectl.run("delete", "pod", "one")
    left = "cat /proc/mounts; ls /var/lib/kubelet/pods /var/log/pods"
    eventually(lambda: uid not in on_node(kubectl, node, left))


def test_host_paths(kubectl: Kubectl) -> None:
    def host(path: str, kind: str) -> list[Object]:
        return [{"name": "v", "hostPath": {"path": path, "type": kind}}]

    mount = {"volumeMounts": [mounted("/v")]}
    where = {"nodeName": "volumes-worker"}
    made = f"/srv/{kubectl.namespace}"
    kubectl.apply(
        once("writes", "echo hello >/v/file", container=mount, volumes=host(made, "DirectoryOrCreate"), **where),
        once("looks", "ls /v", container=mount, volumes=host("/etc/cni/net.d", "Directory"), **where),
        once("fails", "ls /v", container=mount, volumes=host("/no/where", "Directory"), **where),
    )
    assert "05-podwire.conflist" in output(kubectl, "looks")
    output(kubectl, "writes")
    assert on_node(kubectl, "volumes-worker", f"cat {made}/file") == "hello\n"
    eventually(lambda: "hostPath type check failed: /no/where is not a directory" in events(kubectl, "fails"))


def test_sub_paths(kubectl: Kubectl) -> None:
    container = {
        "env": [{"name": "WHO", "value": "me"}],
        "volumeMounts": [mounted("/a", subPath="x/a"), mounted("/b", subPathExpr="b/$(WHO)"), mounted("/all")],
    }
    kubectl.apply(once("s", "touch /a/1 /b/2; cd /all; find . | sort", container=container, volumes=[{"name": "v"}]))
    assert output(kubectl, "s").split() == [".", "./b", "./b/me", "./b/me/2", "./x", "./x/a", "./x/a/1"]


def test_a_file_system_group(kubectl: Kubectl) -> None:
    kubectl.run("create", "configmap", "c", "--from-literal=a=1")
    volumes = [{"name": "e", "emptyDir": {}}, {"name": "c", "configMap": {"name": "c", "defaultMode": 0o400}}]
    container = {"volumeMounts": [mounted("/e", "e"), mounted("/c", "c")]}
    security = {"runAsUser": 1000, "runAsGroup": 3000, "fsGroup": 2000}
    script = "id -u; id -g; id -G; touch /e/f; stat -c %g /e/f; cat /c/a; stat -Lc ' %g %a' /c/a"
    kubectl.apply(once("g", script, container=container, volumes=volumes, securityContext=security))
    assert output(kubectl, "g") == "1000\n3000\n3000 2000\n2000\n1 2000 440\n"


@pytest.mark.embedded_only("kubelet knows these kinds of volumes, and tries to mount them")
def test_a_volume_kind_that_is_not_there(kubectl: Kubectl) -> None:
    volumes = [{"name": "v", "nfs": {"server": "192.0.2.1", "path": "/x"}}]
    kubectl.apply(pod("nfs", container={"volumeMounts": [mounted("/v")]}, volumes=volumes))
    eventually(lambda: "nfs volumes are not supported" in events(kubectl, "nfs", "FailedMount"))
