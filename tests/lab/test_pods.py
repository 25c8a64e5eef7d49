"""The life of pods: init containers, sidecars, restarts, probes, hooks, graceful ends; on a real lab."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from kubectl import Kubectl, eventually, lab
from pods import Object, ended, events, genuine, namespace, on_node, part, pod, ready, shell, shown

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    with lab(tmp_path_factory.mktemp("pods"), "pods") as kubectl:
        kubectl.apply(shell("crash", "echo run $(date +%s); exit 1"))  # for a test below: takes its time
        yield kubectl


@pytest.fixture
def kubectl(cluster: Kubectl, request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    with namespace(cluster, re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:50].strip("-")) as own:
        yield own


def status_of(kubectl: Kubectl, name: str, container: str = "", kind: str = "containerStatuses") -> Object:
    every = kubectl.object("pod", name)["status"].get(kind) or []
    found: Object = next((one for one in every if one["name"] == (container or name)), {})
    return found


SHARED = {"volumes": [{"name": "shared", "emptyDir": {}}]}
MOUNT = {"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}


def test_init_containers_run_one_after_the_other(kubectl: Kubectl) -> None:
    first = part("first", "echo first >>/shared/log", **MOUNT)
    second = part("second", "sleep 1; echo second >>/shared/log", **MOUNT)
    main = shell("main", "cat /shared/log; sleep 3600", container=MOUNT, initContainers=[first, second], **SHARED)
    kubectl.apply(main)
    seen = eventually(lambda: [s for s in [shown(kubectl, "main")] if s.startswith("Init:")], pause=0.02)[0]
    assert seen in ("Init:0/2", "Init:1/2")
    ready(kubectl, "main")
    eventually(lambda: kubectl.run("logs", "main", "-c", "main") == "first\nsecond\n")
    inits = kubectl.object("pod", "main")["status"]["initContainerStatuses"]
    assert [one["state"]["terminated"]["reason"] for one in inits] == ["Completed", "Completed"]
    assert all(one["ready"] for one in inits)


def test_an_init_container_that_fails_holds_the_pod(kubectl: Kubectl) -> None:
    kubectl.apply(
        shell("once", "echo never", initContainers=[part("check", "exit 3")], restartPolicy="Never"),
        shell("again", "echo never", initContainers=[part("check", "exit 3")]),
    )
    assert ended(kubectl, "once")["phase"] == "Failed"
    assert shown(kubectl, "once") == "Init:Error"
    assert "containers with incomplete status: [check]" in str(kubectl.object("pod", "once")["status"]["conditions"])
    eventually(lambda: shown(kubectl, "again") == "Init:CrashLoopBackOff")
    assert kubectl.object("pod", "again")["status"]["phase"] == "Pending"


def test_a_sidecar_is_there_before_and_after_the_main_container(kubectl: Kubectl) -> None:
    script = "trap 'echo bye; exit 0' TERM; touch /shared/up; echo up; while :; do sleep 0.1; done"
    probe = {"exec": {"command": ["test", "-e", "/shared/up"]}, "periodSeconds": 1}
    sidecar = part("side", script, restartPolicy="Always", startupProbe=probe, **MOUNT)
    more = {"restartPolicy": "Never", "initContainers": [sidecar], "terminationGracePeriodSeconds": 10, **SHARED}
    kubectl.apply(shell("main", "ls /shared; sleep 1", container=MOUNT, **more))
    status = ended(kubectl, "main")
    assert status["phase"] == "Succeeded"
    assert kubectl.run("logs", "main", "-c", "main") == "up\n"
    assert status["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 0
    assert kubectl.run("logs", "main", "-c", "side") == "up\nbye\n"


def test_a_sidecar_that_ends_is_started_again(kubectl: Kubectl) -> None:
    sidecar = part("side", "echo up; sleep 1", restartPolicy="Always")
    kubectl.apply(shell("main", "sleep 3600", restartPolicy="Never", initContainers=[sidecar]))
    eventually(lambda: status_of(kubectl, "main", "side", "initContainerStatuses").get("restartCount", 0) > 0)
    assert status_of(kubectl, "main").get("restartCount") == 0


def test_pods_that_run_to_their_end(kubectl: Kubectl) -> None:
    again = "test -e /shared/tried && exit 0; touch /shared/tried; exit 5"
    kubectl.apply(
        shell("good", "exit 0", restartPolicy="Never"),
        shell("bad", "echo too bad >/dev/termination-log; exit 7", restartPolicy="Never"),
        shell("second", again, container=MOUNT, restartPolicy="OnFailure", **SHARED),
    )
    assert ended(kubectl, "good")["phase"] == "Succeeded" and shown(kubectl, "good") == "Completed"
    assert ended(kubectl, "bad")["phase"] == "Failed" and shown(kubectl, "bad") == "Error"
    state = status_of(kubectl, "bad")["state"]["terminated"]
    assert (state["exitCode"], state["reason"], state["message"]) == (7, "Error", "too bad\n")
    assert ended(kubectl, "second")["phase"] == "Succeeded"
    second = status_of(kubectl, "second")
    assert second["restartCount"] == 1 and second["lastState"]["terminated"]["exitCode"] == 5
    ready_condition = next(
        one for one in kubectl.object("pod", "good")["status"]["conditions"] if one["type"] == "Ready"
    )
    assert ready_condition["reason"] == "PodCompleted"
    address = kubectl.object("pod", "good")["status"]["podIP"]
    node = kubectl.object("pod", "good")["spec"]["nodeName"]
    eventually(lambda: address not in on_node(kubectl, node, "ip route"))


def test_an_active_deadline_ends_a_pod(kubectl: Kubectl) -> None:
    kubectl.apply(pod("late", activeDeadlineSeconds=1))
    status = ended(kubectl, "late")
    assert (status["phase"], status["reason"]) == ("Failed", "DeadlineExceeded")


def test_liveness_restarts_the_container(kubectl: Kubectl) -> None:
    probe = {"exec": {"command": ["test", "!", "-e", "/tmp/sick"]}, "periodSeconds": 1, "failureThreshold": 1}
    kubectl.apply(shell("alive", "echo begun; sleep 3600", container={"livenessProbe": probe}))
    ready(kubectl, "alive")
    before = status_of(kubectl, "alive")
    kubectl.run("exec", "alive", "--", "touch", "/tmp/sick")
    eventually(lambda: status_of(kubectl, "alive").get("restartCount") == 1)
    ready(kubectl, "alive")
    after = status_of(kubectl, "alive")
    assert after["containerID"] != before["containerID"]
    assert after["lastState"]["terminated"]["exitCode"] in (137, 143)
    told = events(kubectl, "alive")
    assert "Liveness probe failed: " in told
    assert "Container alive failed liveness probe, will be restarted" in told


@pytest.mark.parametrize(
    ("action", "cure", "words"),
    [
        (
            {"httpGet": {"path": "/ok", "port": 80}},
            "touch /usr/share/nginx/html/ok",
            "HTTP probe failed with statuscode: 404",
        ),
        (
            {"httpGet": {"path": "/", "port": "late"}},
            "LISTEN",
            'Get "http://{ip}:81/": dial tcp {ip}:81: connect: connection refused',
        ),
        ({"tcpSocket": {"port": 81}}, "LISTEN", "dial tcp {ip}:81: connect: connection refused"),
        ({"exec": {"command": ["cat", "/tmp/ok"]}}, "touch /tmp/ok", "No such file or directory"),
    ],
    ids=["http-status", "http-refused", "tcp", "exec"],
)
def test_readiness_gates_the_endpoint(kubectl: Kubectl, action: Object, cure: str, words: str) -> None:
    listen = "printf 'server { listen 81; }' >/etc/nginx/conf.d/late.conf && nginx -s reload"
    ports = [{"containerPort": 80}, {"containerPort": 81, "name": "late"}]
    container = {"readinessProbe": {**action, "periodSeconds": 1}, "ports": ports}
    kubectl.apply(pod("web", image="nginx:1.27", container=container))
    kubectl.run("expose", "pod", "web", "--port=80")
    eventually(lambda: "running" in status_of(kubectl, "web").get("state", {}))
    address = kubectl.object("pod", "web")["status"]["podIP"]
    expected = f"Readiness probe failed: {words.format(ip=address)}" if action.get("exec") is None else words
    eventually(lambda: expected in events(kubectl, "web", "Unhealthy"))
    assert not status_of(kubectl, "web")["ready"]
    assert kubectl.run("get", "pod", "web", "--no-headers").split()[1:3] == ["0/1", "Running"]

    def endpoint_ready() -> list[bool]:
        slices = kubectl.object("endpointslices")["items"]
        return [one["conditions"]["ready"] for item in slices for one in item["endpoints"] or []]

    eventually(lambda: endpoint_ready() == [False])
    kubectl.run("exec", "web", "--", "sh", "-c", listen if cure == "LISTEN" else cure)
    ready(kubectl, "web")
    eventually(lambda: endpoint_ready() == [True])


def test_a_container_that_is_ready_at_once_does_not_wait_a_period(kubectl: Kubectl) -> None:
    """The first probe comes before the program listens: the next one must not be a whole period later."""
    probe = {"httpGet": {"path": "/", "port": 80}, "periodSeconds": 30}
    script = "sleep 1; exec nginx -g 'daemon off;'"
    kubectl.apply(pod("web", "sh", "-c", script, image="nginx:1.27", container={"readinessProbe": probe}))
    began = time.monotonic()
    ready(kubectl, "web")
    assert time.monotonic() - began < 25


def test_a_startup_probe_holds_the_others_back(kubectl: Kubectl) -> None:
    container = {
        "startupProbe": {"exec": {"command": ["cat", "/tmp/started"]}, "periodSeconds": 1, "failureThreshold": 60},
        "livenessProbe": {"exec": {"command": ["cat", "/tmp/started"]}, "periodSeconds": 1, "failureThreshold": 1},
    }
    kubectl.apply(pod("slow", container=container))
    eventually(lambda: "Startup probe failed" in events(kubectl, "slow", "Unhealthy"))
    time.sleep(2)
    assert (status_of(kubectl, "slow")["started"], status_of(kubectl, "slow")["restartCount"]) == (False, 0)
    kubectl.run("exec", "slow", "--", "touch", "/tmp/started")
    ready(kubectl, "slow")
    assert status_of(kubectl, "slow")["started"]


def test_a_startup_probe_that_gives_up_restarts(kubectl: Kubectl) -> None:
    probe = {"tcpSocket": {"port": 9}, "periodSeconds": 1, "failureThreshold": 2}
    kubectl.apply(pod("never", container={"startupProbe": probe}))
    eventually(lambda: status_of(kubectl, "never").get("restartCount", 0) > 0)
    eventually(lambda: "Container never failed startup probe, will be restarted" in events(kubectl, "never"))


def test_hooks_and_a_graceful_end(kubectl: Kubectl) -> None:
    script = "trap 'echo got TERM; sleep 0.5; echo done; exit 0' TERM; touch /tmp/up; while :; do sleep 0.1; done"
    wait = "until test -e /tmp/up; do sleep 0.05; done"
    hooks = {
        "postStart": {"exec": {"command": ["sh", "-c", f"{wait}; echo post start >/proc/1/fd/1"]}},
        "preStop": {"exec": {"command": ["sh", "-c", "echo pre stop >/proc/1/fd/1; sleep 0.5"]}},
    }
    kubectl.apply(shell("polite", script, container={"lifecycle": hooks}, terminationGracePeriodSeconds=20))
    ready(kubectl, "polite")
    with kubectl.start("logs", "-f", "polite") as follower:
        assert follower.stdout is not None and follower.stdout.readline() == "post start\n"
        began = time.monotonic()
        kubectl.run("delete", "pod", "polite")
        assert 1 <= time.monotonic() - began < 19
        assert follower.stdout.read() == "pre stop\ngot TERM\ndone\n"
    eventually(lambda: "Stopping container polite" in events(kubectl, "polite", "Killing"))


def test_a_deaf_container_is_killed_when_its_grace_is_over(kubectl: Kubectl) -> None:
    kubectl.apply(shell("deaf", "trap '' TERM; while :; do sleep 1; done", terminationGracePeriodSeconds=6))
    ready(kubectl, "deaf")
    began = time.monotonic()
    kubectl.run("delete", "pod", "deaf", "--wait=false")
    eventually(lambda: shown(kubectl, "deaf") == "Terminating", 6)
    kubectl.run("wait", "--for=delete", "pod/deaf", "--timeout=50s")
    assert time.monotonic() - began >= 5.9


def test_a_forced_deletion_does_not_wait(kubectl: Kubectl) -> None:
    kubectl.apply(shell("deaf", "trap '' TERM; while :; do sleep 1; done", terminationGracePeriodSeconds=60))
    ready(kubectl, "deaf")
    node = kubectl.object("pod", "deaf")["spec"]["nodeName"]
    address = kubectl.object("pod", "deaf")["status"]["podIP"]
    kubectl.run("delete", "pod", "deaf", "--grace-period=0", "--force", seconds=30)
    eventually(lambda: address not in on_node(kubectl, node, "ip route"), 30)


def test_a_post_start_hook_that_fails_restarts_the_container(kubectl: Kubectl) -> None:
    hook = {"postStart": {"exec": {"command": ["sh", "-c", "echo broken; exit 4"]}}}
    kubectl.apply(pod("hooked", container={"lifecycle": hook}))
    eventually(lambda: "PostStartHook" in events(kubectl, "hooked", "FailedPostStartHook"))
    eventually(lambda: status_of(kubectl, "hooked").get("restartCount", 0) > 0)


def test_a_command_that_is_not_there(kubectl: Kubectl) -> None:
    kubectl.apply(pod("lost", "/no/such/program"))
    eventually(lambda: shown(kubectl, "lost") in ("RunContainerError", "CrashLoopBackOff"))
    eventually(
        lambda: 'exec: "/no/such/program": stat /no/such/program: no such file or directory' in events(kubectl, "lost")
    )


def test_logs_of_the_run_before(kubectl: Kubectl) -> None:
    kubectl.apply(shell("twice", "trap 'echo ending; exit 1' TERM; echo run; while :; do sleep 0.1; done"))
    eventually(lambda: kubectl.run("logs", "twice") == "run\n")  # so that the trap is set
    none = kubectl.full("logs", "twice", "--previous")
    assert none.returncode == 1 and 'previous terminated container "twice" in pod "twice" not found' in none.stderr
    kubectl.run("exec", "twice", "--", "kill", "1")
    eventually(lambda: status_of(kubectl, "twice").get("restartCount") == 1)
    assert kubectl.run("logs", "twice", "--previous") == "run\nending\n"
    eventually(lambda: kubectl.run("logs", "twice") == "run\n")


def test_a_crash_loop_backs_off(cluster: Kubectl) -> None:
    eventually(lambda: status_of(cluster, "crash").get("restartCount", 0) >= 2, 60)

    def between_runs() -> tuple[Object, list[int]] | None:
        before = status_of(cluster, "crash")
        logs = [cluster.run("logs", "crash", *more).split() for more in (["--previous"], [])]
        if any(words[0] != "run" for words in logs):  # of a container that is just being removed
            return None
        runs = [int(words[1]) for words in logs]
        waiting = before["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff"
        return (before, runs) if waiting and status_of(cluster, "crash") == before else None

    now, runs = eventually(between_runs)
    delay = 10 * 2 ** (now["restartCount"] - 1)  # of the start to come; the first one was at once
    text = f"{delay}s" if delay < 60 else f"{delay // 60}m{delay % 60}s"
    waiting = rf"back-off {text} restarting failed container=crash pod=crash_default\([0-9a-f-]{{36}}\)"
    assert re.match(waiting, now["state"]["waiting"]["message"])
    ended_at = now["lastState"]["terminated"]
    assert (ended_at["exitCode"], ended_at["reason"]) == (1, "Error")
    assert delay / 2 <= runs[1] - runs[0] < delay
    eventually(
        lambda: "Back-off restarting failed container crash in pod crash_default" in events(cluster, "crash", "BackOff")
    )


def test_another_image_restarts_the_container(kubectl: Kubectl) -> None:
    kubectl.apply(pod("web", image="nginx:1.27"))
    ready(kubectl, "web")
    before = kubectl.object("pod", "web")["status"]
    kubectl.run("set", "image", "pod/web", "web=nginx:1.28")
    eventually(lambda: status_of(kubectl, "web").get("restartCount") == 1)
    ready(kubectl, "web")
    if not genuine():  # containerd says any of the names that this content has, and all stand-ins of nginx are one
        assert status_of(kubectl, "web")["image"].endswith("nginx:1.28")
    assert kubectl.object("pod", "web")["spec"]["containers"][0]["image"] == "nginx:1.28"
    assert kubectl.object("pod", "web")["status"]["podIP"] == before["podIP"]
    eventually(lambda: "Container web definition changed, will be restarted" in events(kubectl, "web", "Killing"))


def test_a_deletion_does_not_wait_for_post_start(kubectl: Kubectl) -> None:
    hook = {"postStart": {"exec": {"command": ["sleep", "100"]}}}
    kubectl.apply(pod("hooked", container={"lifecycle": hook}))
    eventually(lambda: "Container started" in events(kubectl, "hooked"))
    kubectl.run("delete", "pod", "hooked", seconds=25)


def test_a_readiness_gate_waits_for_its_condition(kubectl: Kubectl) -> None:
    kubectl.apply(pod("gated", readinessGates=[{"conditionType": "example.org/in"}]))
    eventually(lambda: status_of(kubectl, "gated").get("ready"))
    assert 'readiness gate "example.org/in" does not exist' in str(kubectl.object("pod", "gated")["status"])
    patch = '{"status":{"conditions":[{"type":"example.org/in","status":"True"}]}}'
    kubectl.run("patch", "pod", "gated", "--subresource=status", "-p", patch)
    began = time.monotonic()
    ready(kubectl, "gated")
    assert time.monotonic() - began < 8
    conditions = kubectl.object("pod", "gated")["status"]["conditions"]
    assert not [one for one in conditions if one["status"] == "True" and one.get("reason")]


def test_a_pod_of_the_same_name_follows_at_once(kubectl: Kubectl) -> None:
    kubectl.apply(pod("same"))
    ready(kubectl, "same")
    before = kubectl.object("pod", "same")["metadata"]["uid"]
    kubectl.run("replace", "--force", "-f", "-", stdin=json.dumps(pod("same", terminationGracePeriodSeconds=0)))
    ready(kubectl, "same")
    assert kubectl.object("pod", "same")["metadata"]["uid"] != before
    assert kubectl.run("exec", "same", "--", "hostname") == "same\n"
