"""Every verb that a user of kubectl knows, with an unmodified kubectl, on real pods of a real lab."""

from __future__ import annotations

import os
import re
import socket
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from kubectl import Kubectl, eventually, lab
from pods import namespace

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    with lab(tmp_path_factory.mktemp("kubectl"), "verbs") as kubectl:
        yield kubectl


@pytest.fixture
def kubectl(cluster: Kubectl, request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    """A namespace of the test's own."""
    with namespace(cluster, re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:50].strip("-")) as own:
        yield own


def pod(name: str, *, image: str = "nginx:1.27", **spec: Any) -> dict[str, Any]:
    container = {"name": name, "image": image, **spec.pop("container", {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1, **spec},
    }


SLEEPER = {"image": "busybox", "container": {"command": ["sleep", "3600"]}}


def ready(kubectl: Kubectl, name: str) -> None:
    kubectl.run("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=40s")


def web(kubectl: Kubectl, replicas: int = 2) -> None:
    kubectl.run("create", "deployment", "web", "--image=nginx:1.27", f"--replicas={replicas}")
    kubectl.run("rollout", "status", "deployment/web", "--timeout=40s")


def test_get_in_every_form(kubectl: Kubectl) -> None:
    kubectl.apply(pod("one"), pod("two", **SLEEPER))
    ready(kubectl, "one")
    ready(kubectl, "two")
    lines = kubectl.run("get", "pods").splitlines()
    assert lines[0].split() == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert re.match(r"one +1/1 +Running +0 ", lines[1])
    wide = kubectl.run("get", "pods", "-o", "wide").splitlines()
    assert wide[0].split("  ")[-1].strip() == "READINESS GATES"
    assert re.search(r" 10\.244\.\d+\.\d+ +verbs-worker2? ", wide[1])
    assert "kind: Pod" in kubectl.run("get", "pod", "one", "-o", "yaml")
    assert kubectl.object("pod", "one")["metadata"]["name"] == "one"
    assert kubectl.run("get", "pods", "-o", "jsonpath={.items[*].metadata.name}") == "one two"
    assert kubectl.run("get", "pods", "-l", "app=two", "-o", "name") == "pod/two\n"
    assert "pod/one" in kubectl.run("get", "pods", "--field-selector=metadata.name=one", "-o", "name")
    assert "pod/two" not in kubectl.run("get", "pods", "--field-selector=metadata.name=one", "-o", "name")
    assert kubectl.namespace in kubectl.run("get", "pods", "-A")
    assert "custom" in kubectl.run("get", "pods", "-o", "custom-columns=custom:.metadata.name")
    missing = kubectl.full("get", "pod", "none")
    assert (missing.returncode, missing.stderr.strip()) == (1, 'Error from server (NotFound): pods "none" not found')


def test_get_watch(kubectl: Kubectl) -> None:
    kubectl.apply(pod("before", **SLEEPER))
    with kubectl.start("get", "pods", "-w") as child:
        assert child.stdout is not None
        while not child.stdout.readline().startswith("before"):
            assert child.poll() is None
        kubectl.apply(pod("one", **SLEEPER))
        seen = ""
        while not re.search("^one .* Running ", seen, re.MULTILINE):
            seen += child.stdout.readline()
    assert re.search("^one .* (Pending|ContainerCreating) ", seen, re.MULTILINE), seen


def test_describe_tells_image_events_and_address(kubectl: Kubectl) -> None:
    kubectl.apply(pod("one"))
    ready(kubectl, "one")
    text = kubectl.run("describe", "pod", "one")
    for words in ("Successfully assigned", "Started", "stand-in", "nginx:1.27", "IP:", "QoS Class:"):
        assert words in text
    assert "PodCIDR:" in kubectl.run("describe", "node", "verbs-worker")


def test_create_apply_diff_replace_edit_and_delete(kubectl: Kubectl, tmp_path: Path) -> None:
    assert "configmap/c created" in kubectl.run("create", "configmap", "c", "--from-literal=k=v")
    manifest = tmp_path / "c.yaml"
    manifest.write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: d}\ndata: {k: v}\n")
    assert "created" in kubectl.run("apply", "-f", str(manifest))
    assert "unchanged" in kubectl.run("apply", "-f", str(manifest))
    assert kubectl.full("diff", "-f", str(manifest)).returncode == 0
    manifest.write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: d}\ndata: {k: w}\n")
    difference = kubectl.full("diff", "-f", str(manifest))
    assert difference.returncode == 1 and "+  k: w" in difference.stdout
    assert "configured" in kubectl.run("apply", "-f", str(manifest))
    manifest.write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: d}\ndata: {k: x}\n")
    assert "replaced" in kubectl.run("replace", "-f", str(manifest))
    assert "serverside-applied" in kubectl.run("apply", "--server-side", "--force-conflicts", "-f", str(manifest))
    kubectl.env = {**kubectl.env, "EDITOR": "sed -i s/x/z/"}
    assert "edited" in kubectl.run("edit", "configmap", "d")
    assert kubectl.object("configmap", "d")["data"] == {"k": "z"}
    assert 'configmap "d" deleted' in kubectl.run("delete", "configmap", "d")


def test_patch_label_annotate_and_explain(kubectl: Kubectl) -> None:
    kubectl.run("create", "configmap", "c", "--from-literal=k=v")
    kubectl.run("patch", "configmap", "c", "--type=merge", "-p", '{"data":{"m":"1"}}')
    kubectl.run("patch", "configmap", "c", "--type=json", "-p", '[{"op":"add","path":"/data/j","value":"2"}]')
    kubectl.run("patch", "configmap", "c", "-p", '{"data":{"s":"3"}}')
    kubectl.run("label", "configmap", "c", "colour=blue")
    kubectl.run("annotate", "configmap", "c", "note=here")
    got = kubectl.object("configmap", "c")
    assert got["data"] == {"k": "v", "m": "1", "j": "2", "s": "3"}
    assert (got["metadata"]["labels"], got["metadata"]["annotations"]) == ({"colour": "blue"}, {"note": "here"})
    refused = kubectl.full("label", "configmap", "c", "colour=red")
    assert refused.returncode == 1 and "--overwrite" in refused.stderr
    assert "containers" in kubectl.run("explain", "pod.spec")
    resources = kubectl.run("api-resources")
    for row in (r"pods +po +v1 +true +Pod", r"deployments +deploy +apps/v1 +true", r"networkpolicies +netpol"):
        assert re.search(row, resources)


def test_strategic_merge_keeps_the_other_container(kubectl: Kubectl) -> None:
    web(kubectl, 1)
    patch = '{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"busybox","command":["sleep","60"]}]}}}}'
    kubectl.run("patch", "deployment", "web", "-p", patch)
    names = [c["name"] for c in kubectl.object("deployment", "web")["spec"]["template"]["spec"]["containers"]]
    assert sorted(names) == ["nginx", "side"]


def test_scale_set_resources_expose_and_rollout(kubectl: Kubectl) -> None:
    web(kubectl)
    kubectl.run("scale", "deployment", "web", "--replicas=3")
    kubectl.run("rollout", "status", "deployment/web", "--timeout=40s")
    assert kubectl.object("deployment", "web")["status"]["readyReplicas"] == 3
    kubectl.run("set", "resources", "deployment", "web", "--requests=cpu=50m,memory=32Mi")
    kubectl.run("rollout", "status", "deployment/web", "--timeout=60s")
    kubectl.run("set", "image", "deployment/web", "nginx=nginx:1.28")
    kubectl.run("rollout", "status", "deployment/web", "--timeout=60s")
    assert len(kubectl.run("rollout", "history", "deployment/web").strip().splitlines()) == 5
    kubectl.run("rollout", "undo", "deployment/web")
    kubectl.run("rollout", "status", "deployment/web", "--timeout=60s")
    assert kubectl.run("get", "deploy", "web", "-o", "jsonpath={..image}") == "nginx:1.27"
    kubectl.run("rollout", "restart", "deployment/web")
    kubectl.run("rollout", "status", "deployment/web", "--timeout=60s")
    kubectl.run("expose", "deployment", "web", "--port=80")
    assert re.match(r"10\.\d+\.\d+\.\d+$", kubectl.run("get", "svc", "web", "-o", "jsonpath={.spec.clusterIP}"))
    eventually(lambda: len(kubectl.object("endpointslices")["items"][0]["endpoints"]) == 3)
    kubectl.run("delete", "deployment", "web")
    eventually(lambda: not kubectl.object("pods")["items"] and not kubectl.object("rs")["items"])


def test_run_and_run_interactively(kubectl: Kubectl) -> None:
    kubectl.run("run", "client", "--image=curlimages/curl", "--restart=Never", "--", "sleep", "3600")
    ready(kubectl, "client")
    shown = kubectl.on_terminal(
        *("run", "test", "--rm", "-it", "--image=busybox", "--restart=Never", "--", "/bin/sh"),
        typed=[("# ", "echo $((40+2)) && hostname\r"), ("42", "exit\r")],
    )
    assert "42" in shown and 'pod "test" deleted' in shown
    assert kubectl.full("get", "pod", "test").returncode == 1


@pytest.mark.parametrize("websockets", ["true", "false"])
def test_exec_attach_port_forward_and_cp(kubectl: Kubectl, websockets: str, tmp_path: Path) -> None:
    """Over WebSocket and over SPDY: both are in use by clients."""
    kubectl.env = {
        **kubectl.env,
        "KUBECTL_REMOTE_COMMAND_WEBSOCKETS": websockets,
        "KUBECTL_PORT_FORWARD_WEBSOCKETS": websockets,
    }
    echo = pod("echo", image="busybox", container={"command": ["cat"], "stdin": True, "stdinOnce": True})
    echo["spec"]["restartPolicy"] = "Never"
    kubectl.apply(pod("one"), echo)
    ready(kubectl, "one")
    ready(kubectl, "echo")
    assert kubectl.run("exec", "one", "--", "hostname") == "one\n"
    failed = kubectl.full("exec", "one", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (failed.returncode, failed.stdout) == (7, "out\n") and failed.stderr.startswith("err\n")
    assert kubectl.run("exec", "-i", "one", "--", "tr", "a-z", "A-Z", stdin="shout\n") == "SHOUT\n"
    shown = kubectl.on_terminal(
        "exec", "-it", "one", "--", "sh", typed=[("# ", "tty && stty size\r"), ("/dev", "exit 3\r")]
    )
    assert "/dev/pts/" in shown
    assert "typed" in kubectl.run("attach", "-i", "echo", stdin="typed\n", seconds=20)
    eventually(lambda: kubectl.object("pod", "echo")["status"]["phase"] == "Succeeded")
    block = os.urandom(3_000_000)
    (tmp_path / "block").write_bytes(block)
    kubectl.run("cp", str(tmp_path / "block"), "one:/tmp/block")
    kubectl.run("cp", "one:/tmp/block", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == block
    with kubectl.start("port-forward", "pod/one", ":80") as child:
        assert child.stdout is not None
        port = int(re.search(r"127\.0\.0\.1:(\d+)", child.stdout.readline()).group(1))  # type: ignore[union-attr]
        for _ in range(3):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
                assert b"nginx" in answer.read()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()


def test_logs(kubectl: Kubectl) -> None:
    script = "echo first; echo second; sleep 1; for i in 1 2 3; do echo late $i; sleep 0.3; done; sleep 3600"
    kubectl.apply(pod("talk", image="busybox", container={"command": ["sh", "-c", script]}))
    ready(kubectl, "talk")
    eventually(lambda: kubectl.run("logs", "talk").startswith("first\nsecond\n"))
    with kubectl.start("logs", "-f", "talk") as child:
        assert child.stdout is not None
        lines = [child.stdout.readline().strip() for _ in range(5)]
    assert lines == ["first", "second", "late 1", "late 2", "late 3"]
    assert kubectl.run("logs", "talk", "--tail=1") == "late 3\n"
    assert re.match(r"\d{4}-\d\d-\d\dT\S+Z first", kubectl.run("logs", "talk", "--timestamps"))
    assert kubectl.full("logs", "none").returncode == 1


def test_taint_cordon_and_drain(kubectl: Kubectl) -> None:
    node = "verbs-worker2"
    web(kubectl, 4)
    try:
        kubectl.run("cordon", node)
        assert "SchedulingDisabled" in kubectl.run("get", "node", node)
        kubectl.run("drain", node, "--ignore-daemonsets", "--force", "--delete-emptydir-data", "--timeout=60s")
        assert kubectl.run("get", "pods", "--field-selector", f"spec.nodeName={node}", "-o", "name") == ""
        kubectl.run("rollout", "status", "deployment/web", "--timeout=60s")
    finally:
        kubectl.run("uncordon", node)
    kubectl.run("taint", "node", node, "keep=out:NoSchedule")
    try:
        refused = {**pod("kept-out", **SLEEPER)}
        refused["spec"]["nodeSelector"] = {"kubernetes.io/hostname": node}
        kubectl.apply(refused)
        eventually(lambda: "untolerated taint" in kubectl.run("describe", "pod", "kept-out"))
    finally:
        kubectl.run("taint", "node", node, "keep-")
    ready(kubectl, "kept-out")


@pytest.mark.embedded_only("the words are the embedded kubelet's")
def test_an_unknown_image_says_how_to_load_one(kubectl: Kubectl) -> None:
    kubectl.apply(pod("odd", image="example.org/never/heard:1"))
    eventually(lambda: re.search("ErrImagePull|ImagePullBackOff", kubectl.run("get", "pod", "odd")))
    eventually(lambda: "podwire lab load" in kubectl.run("describe", "pod", "odd"))


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: []}\n", "spec.containers: Required value"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: X_Y}\nspec: {containers: [{name: a, image: b}]}\n", "RFC 1123"),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containrs: [{name: a}]}\n",
            'unknown field "spec.containrs"',
        ),
        ("apiVersion: v1\nkind: Nothing\nmetadata: {name: x}\n", 'no matches for kind "Nothing"'),
        ("apiVersion: v1\nkind: [\n", "error parsing"),
    ],
)
def test_a_bad_manifest_names_the_field(kubectl: Kubectl, manifest: str, words: str) -> None:
    done = kubectl.full("create", "-f", "-", stdin=manifest)
    assert done.returncode == 1
    assert words in done.stderr


POLICIES = Path(__file__).parents[1] / "policies" / "accepted.yaml"


def test_policies_of_every_kind(kubectl: Kubectl) -> None:
    """What the documentation of the three APIs shows is taken as it is; each kind goes by its short name."""
    text = POLICIES.read_text().replace("namespace: default", f"namespace: {kubectl.namespace}")
    tier = next(one for one in text.split("---\n") if "kind: Tier" in one)
    kubectl.run("apply", "-f", "-", stdin=tier)
    said = kubectl.run("apply", "--dry-run=server", "-f", "-", stdin=text).splitlines()
    assert len(said) == text.count("---\n") + 1 and all("(server dry run)" in line for line in said)
    kubectl.run("delete", "-f", "-", stdin=tier)
    rows = kubectl.run("get", "tiers").splitlines()
    assert rows[0].split() == ["NAME", "ORDER", "DEFAULTACTION", "AGE"]
    assert [row.split()[:3] for row in rows[1:]] == [
        ["default", "1000000", "Deny"],
        ["kube-admin", "1000", "Pass"],
        ["kube-baseline", "10000000", "Pass"],
    ]
    for name in ("netpol", "np", "gnp", "cnp", "anp", "banp", "netsets", "gnetsets", "snp", "sgnp", "sknp", "pro"):
        assert kubectl.full("get", name).returncode == 0, name
    assert "networking.k8s.io" in kubectl.run("explain", "netpol") and "projectcalico.org" in kubectl.run(
        "explain", "np"
    )


@pytest.mark.embedded_only("a genuine server asks the kinds' definitions alone")
def test_mistakes_in_policies_are_refused_with_the_field(kubectl: Kubectl) -> None:
    head = "apiVersion: projectcalico.org/v3\nkind: {}\nmetadata: {{name: p}}\nspec: {}\n"
    wrong = kubectl.full("apply", "-f", "-", stdin=head.format("NetworkPolicy", "{selector: \"a = 'b'\"}"))
    assert wrong.returncode == 1 and "spec.selector" in wrong.stderr and "position 3" in wrong.stderr, wrong.stderr
    wrong = kubectl.full("apply", "-f", "-", stdin=head.format("NetworkPolicy", "{tier: gold}"))
    assert wrong.returncode == 1 and "spec.tier: there is no tier gold" in wrong.stderr, wrong.stderr
    wrong = kubectl.full("delete", "tier", "kube-admin")
    assert wrong.returncode == 1 and "this tier is always there" in wrong.stderr, wrong.stderr
    spec = "{doNotTrack: true, applyOnForward: true, selector: 'none == \"\"'}"
    done = kubectl.full("apply", "-f", "-", stdin=head.format("GlobalNetworkPolicy", spec))
    assert done.returncode == 0 and "Warning: spec.doNotTrack: not enforced" in done.stderr, done.stderr
    kubectl.run("delete", "gnp", "p")
