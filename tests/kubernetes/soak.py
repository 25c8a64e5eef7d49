"""What is done to a cluster while packets are counted: kills, outages, a reboot. One function a series.

Each is given how long it may go on, does its harm for that long, and returns with everything back; `watched` counts
around it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from podwire.lab import processes
from podwire.lab.state import LabState
from tests.kubernetes import probe
from tests.kubernetes.genuine import container, ipam_check, lives_anew, until
from tests.lab.host import Lab
from tests.lab.kubectl import Kubectl

RATE, SLOWER = 1000, 100
"""Datagrams, and messages on the established connection, a second and pair of pods; and of the pairs beside them."""
PATIENCE = 10.0
"""Seconds after the last datagram for which an echo is waited for."""
SHUT = "shut"
"""The pod that nobody may reach, where there is policy."""
_SERVICE = "echo"
KNOCKING = {"far": "kept apart, between nodes", "near": "kept apart, same node"}
_PROBE = Path(__file__).with_name("probe.py")
_ROOT = _PROBE.parents[2]


def sleeper(name: str, node: str) -> dict[str, Any]:
    container = {"name": "c", "image": "busybox", "command": ["sleep", "1000000"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 1, "containers": [container]},
    }


def _policy(name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name}, "spec": spec}


_ASKED = [
    {
        "from": [{"podSelector": {"matchLabels": {"asks": "yes"}}}],
        "ports": [{"protocol": kind, "port": probe.PORT} for kind in ("TCP", "UDP")],
    }
]
_POLICIES = {
    "apiVersion": "v1",
    "kind": "List",
    "items": [
        _policy("closed", podSelector={}, policyTypes=["Ingress"]),
        _policy("open", podSelector={"matchLabels": {"app": _SERVICE}}, ingress=_ASKED),
    ],
}


@dataclass
class Site:
    """A lab, its nodes, and the pods that probe each other."""

    lab: Lab
    name: str
    nodes: tuple[str, ...]
    kubectl: Kubectl
    pods: dict[str, str] = field(default_factory=dict)
    six: str = ""
    """Address of `here` in the other family, where pods have both."""
    service: str = ""
    counts: dict[str, Any] = field(default_factory=dict)

    def add(self, counts: dict[str, Any]) -> None:
        """Numbers of one series after another become sums, the slowest the slowest of all, lists one list."""
        for name, count in counts.items():
            if name not in self.counts:
                self.counts[name] = count
            elif name.startswith("slowest"):
                self.counts[name] = max(count, self.counts[name])
            else:
                self.counts[name] += count

    def family(self) -> list[processes.Process]:
        supervisor = LabState(self.name, self.lab.labs).supervisor()
        assert supervisor is not None, f"lab {self.name} does not run"
        return processes.of_lab(supervisor)

    def pid(self, title: str) -> int:
        """Of a process by its title, or by its program's name; 0 when there is none."""
        for process in self.family():
            first, _, _ = process.title.partition(" ")
            if process.title == title or Path(first).name == title:
                return process.pid
        return 0

    def kill(self, title: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Whose pid was it? 0 when it did not run."""
        if pid := self.pid(title):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return pid

    def place(self, *, governed: bool = False) -> None:
        """Two pods on the first worker, one on the control plane's node; and a Service that leads to one of them.
        `governed`: by policies, one of which lets those ask who do, and a pod more that nobody may reach."""
        places = {"far": self.nodes[0], "near": self.nodes[1], "here": self.nodes[1]}
        for name, node in (places | ({SHUT: self.nodes[1]} if governed else {})).items():
            self.kubectl.run("create", "-f", "-", stdin=json.dumps(sleeper(name, node)))
        self.kubectl.run("label", "pod", "here", f"app={_SERVICE}")
        if governed:
            self.kubectl.run("label", "pods", "far", "near", "asks=yes")
            self.kubectl.run("create", "-f", "-", stdin=json.dumps(_POLICIES))
        ports = [{"name": kind.lower(), "port": probe.PORT, "protocol": kind} for kind in ("UDP", "TCP")]
        service = {"metadata": {"name": _SERVICE}, "spec": {"selector": {"app": _SERVICE}, "ports": ports}}
        self.kubectl.run("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "Service", **service}))
        self.kubectl.run("wait", "--for=condition=Ready", "pods", "--all", "--timeout=100s", seconds=110)
        items = self.kubectl.object("pods")["items"]
        self.pods = {item["metadata"]["name"]: item["status"]["podIP"] for item in items}
        addresses = [one["ip"] for one in self.kubectl.object("pod", "here")["status"]["podIPs"]]
        self.six = next((one for one in addresses if ":" in one), "")
        self.service = self.kubectl.object("service", _SERVICE)["spec"]["clusterIP"]

    def space(self, pod: str) -> str:
        """The network namespace of a pod, as a path."""
        for process in self.family():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
                if process.title == "sleep 1000000" and f"HOSTNAME={pod}".encode() in words:
                    return f"/proc/{process.pid}/ns/net"
        raise AssertionError(f"pod {pod} has no process")

    def ready(self, seconds: float = 120) -> None:
        """Wait until the API serves, every node is Ready, and every agent."""
        end = time.monotonic() + seconds
        path = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}"
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                if self.kubectl.full("get", "nodes", "-o", path, seconds=20).stdout.split() == ["True"] * len(
                    self.nodes
                ):
                    return
            assert time.monotonic() < end, f"not every node was Ready within {seconds:.0f} s"
            time.sleep(0.2)


@contextlib.contextmanager
def probes(
    site: Site, seen: dict[str, dict[str, Any]], knocks: dict[str, dict[str, int]], patience: float
) -> Iterator[None]:
    """Between nodes and within one, through a Service, and in IPv6 where pods have it; the counts of each pair are in
    `seen` afterwards, and in `knocks` those of pairs that policy keeps apart."""
    here = site.pods["here"]
    pairs = {"between nodes": ("far", here, RATE), "same node": ("near", here, RATE)}
    pairs["through a Service"] = ("far", site.service, SLOWER)
    if site.six:
        pairs["IPv6 between nodes"] = ("far", site.six, SLOWER)
    running: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        child = subprocess.Popen([sys.executable, _PROBE, *words], cwd=_ROOT, stdout=subprocess.PIPE, text=True)
        running.append(child)
        return child

    try:
        for pod in site.pods.keys() & {"here", SHUT}:
            echo = start("echo", site.space(pod))
            assert echo.stdout is not None and echo.stdout.readline() == "ready\n"
        askers = {
            name: start("ask", site.space(pod), address, str(rate), str(patience))
            for name, (pod, address, rate) in pairs.items()
        }
        shut = site.pods.get(SHUT)
        knocking = {name: start("knock", site.space(pod), shut, str(SLOWER)) for pod, name in KNOCKING.items() if shut}
        try:
            yield
        finally:
            for child in (*askers.values(), *knocking.values()):
                child.terminate()
            for name, child in knocking.items():
                told, _ = child.communicate(timeout=90)
                knocks[name] = json.loads(told) if told else {}
            for name, child in askers.items():
                told, _ = child.communicate(timeout=90)
                seen[name] = json.loads(told) if told else {}
    finally:
        for child in running:
            child.kill()
            child.wait()
            if child.stdout is not None:
                child.stdout.close()


class Churn(threading.Thread):
    """Pods made and deleted on every node, round after round, until `finish`: who did not become Ready has failed.

    A pod has five minutes for it: agents are killed meanwhile, and kubelet waits longer each time it tried in vain.
    `retried` are the sandboxes that a runtime could not make at first and made later.
    """

    _numbers = itertools.count()

    def __init__(self, site: Site, nodes: tuple[str, ...]) -> None:
        super().__init__(name=f"churn-{next(self._numbers)}", daemon=True)
        self.site, self.nodes = site, nodes
        self.made = self.failed = self.retried = 0
        self.slowest = 0.0
        self.told: list[str] = []
        self._done = threading.Event()

    def run(self) -> None:
        number = 0
        while not self._done.is_set():
            names = [f"{self.name}-{number}-{index}" for index in range(len(self.nodes))]
            number += 1
            try:
                self.round(names)
            except Exception as error:  # noqa: BLE001 - another thread's: it is a failed round, and said at the end
                self.failed += len(names)
                self.told.append(f"{type(error).__name__}: {error}"[:2000])

    def round(self, names: list[str]) -> None:
        kubectl = self.site.kubectl
        many = [sleeper(name, node) for name, node in zip(names, self.nodes, strict=True)]
        before = time.monotonic()
        kubectl.run("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": many}))
        self.made += len(names)
        for name in names:
            done = kubectl.full("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=300s", seconds=320)
            self.slowest = max(self.slowest, time.monotonic() - before)
            if done.returncode:
                self.failed += 1
                self.told.append(kubectl.full("describe", "pod", name).stdout[-2000:])
        kubectl.run("delete", "pods", *names, "--wait=false")

    def finish(self) -> dict[str, Any]:
        self._done.set()
        self.join(700)
        assert not self.is_alive(), "the last round of pods never ended"
        for event in self.site.kubectl.object("events")["items"]:
            of = event["involvedObject"]["name"]
            if event["reason"] == "FailedCreatePodSandBox" and of.startswith(f"{self.name}-"):
                self.retried += int(event.get("count") or 1)
        return {
            "pods": self.made,
            "pods failed": self.failed,
            "sandboxes retried": self.retried,
            "slowest pod s": round(self.slowest, 1),
            "told": self.told,
        }


def kills(site: Site, seconds: float) -> None:
    """The agents of all nodes by SIGKILL, at random, while pods come and go."""
    churn = Churn(site, site.nodes)
    churn.start()
    dice, killed = random.Random(5), dict.fromkeys(site.nodes, 0)
    ahead: list[str] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end or not all(killed.values()):
        time.sleep(dice.uniform(0.2, min(8.0, seconds / 5)))
        ahead = ahead or dice.sample(site.nodes, len(site.nodes))
        node = ahead.pop()
        killed[node] += site.kill(f"podwire agent {node}") > 0
    site.add({"agents killed": sum(killed.values()), **churn.finish()})


def restarts(site: Site, seconds: float) -> None:
    """The agents stopped as systemd stops them (SIGTERM), node after node, and started again."""
    churn = Churn(site, site.nodes)
    churn.start()
    stopped = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end or not stopped:
        for node in site.nodes:
            title = f"podwire agent {node}"
            old = site.kill(title, signal.SIGTERM)
            until(f"{title} runs again", lambda old=old, title=title: site.pid(title) not in (0, old))
            stopped += 1
    site.add({"agents restarted": stopped, **churn.finish()})


def rolled(site: Site, seconds: float, images: tuple[str, str]) -> None:
    """The DaemonSet's image changed and the change undone: upgrades and roll-backs for that long."""
    churn = Churn(site, site.nodes)
    churn.start()
    system = Kubectl(site.kubectl.env, "kube-system")
    rollouts, end = 0, time.monotonic() + seconds
    while time.monotonic() < end or not rollouts:
        for words in (
            ("set", "image", "daemonset/podwire-agent", f"*={images[1]}"),
            ("rollout", "undo", "daemonset/podwire-agent"),
        ):
            system.run(*words)
            system.run("rollout", "status", "daemonset/podwire-agent", "--timeout=200s", seconds=220)
            rollouts += 1
    site.add({"rollouts": rollouts, **churn.finish()})


def versions(site: Site, seconds: float, installs: Sequence[Callable[[], object]]) -> None:
    """One `podwire install` after the other, each of another version: upgrades and downgrades for that long."""
    churn = Churn(site, site.nodes)
    churn.start()
    installed, end = 0, time.monotonic() + seconds
    while time.monotonic() < end or not installed:
        for install in installs:
            install()
            installed += 1
    site.add({"installs": installed, **churn.finish()})


def outage(site: Site, seconds: float) -> None:
    """kube-apiserver killed as often as it returns, for a third of the time; then stopped (it holds its connections and
    says nothing). Pods that were just asked for when it went must start when it is back."""
    names = [f"asked-{index}" for index in range(2 * len(site.nodes))]
    many = [sleeper(name, site.nodes[index % len(site.nodes)]) for index, name in enumerate(names)]
    site.kubectl.run("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": many}))
    start, killed = time.monotonic(), 0
    while time.monotonic() < start + seconds / 3:
        killed += site.kill("kube-apiserver") > 0
        time.sleep(0.5)
    until("kube-apiserver is started", lambda: site.pid("kube-apiserver") > 0)
    pid = site.kill("kube-apiserver", signal.SIGSTOP)
    try:
        time.sleep(max(0.0, start + seconds - time.monotonic()))
    finally:
        os.kill(pid, signal.SIGCONT)
    _all_start(site, names, {"kube-apiserver killed": killed, "away s": round(seconds)})


def store(site: Site, seconds: float) -> None:
    """etcd stopped, then killed: the API server answers errors, or nothing."""
    pid = site.kill("etcd", signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)
    site.kill("etcd")
    until("etcd is started again", lambda: site.pid("etcd") not in (0, pid))
    site.ready()
    names = [f"after-{index}" for index in range(len(site.nodes))]
    many = [sleeper(name, node) for name, node in zip(names, site.nodes, strict=True)]
    site.kubectl.run("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": many}))
    _all_start(site, names, {"etcd away s": round(seconds)})


def _all_start(site: Site, names: list[str], counts: dict[str, Any]) -> None:
    site.ready()
    back = time.monotonic()
    failed = []
    for name in names:
        done = site.kubectl.full("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=300s", seconds=320)
        if done.returncode:
            failed.append(site.kubectl.full("describe", "pod", name).stdout[-2000:])
    slowest = round(time.monotonic() - back, 1)
    site.kubectl.run("delete", "pods", *names, "--wait=false")
    site.add({**counts, "pods": len(names), "pods failed": len(failed), "slowest pod s": slowest, "told": failed})


def reboot(site: Site, seconds: float) -> None:
    """The last node, killed with all it runs; it comes back as a rebooted machine does, and its pods with it. Again and
    again for that long. The pods that probe live on the other nodes."""
    node, names = site.nodes[-1], [f"stays-{index}" for index in range(3)]
    for name in names:
        site.kubectl.run("create", "-f", "-", stdin=json.dumps(sleeper(name, node)))
    site.kubectl.run("wait", "--for=condition=Ready", *(f"pod/{name}" for name in names), "--timeout=100s", seconds=110)
    end, reboots, slowest = time.monotonic() + seconds, 0, 0.0

    while not reboots or time.monotonic() < end:
        had = {name: container(site.kubectl, name) for name in names}
        assert site.kill(f"podwire node {node}")
        reboots += 1
        before = time.monotonic()
        for name in names:
            until(
                f"{name} runs again ({reboots})",
                lambda name=name, had=had: lives_anew(site.kubectl, name, had[name]),  # type: ignore[misc]
            )
        slowest = max(slowest, time.monotonic() - before)
    site.ready()
    site.kubectl.run("delete", "pods", *names, "--wait=false")
    site.add({"reboots": reboots, "pods": 3 * reboots, "pods failed": 0, "slowest pod s": round(slowest, 1)})


def each_once(site: Site, seconds: float) -> None:
    """One thing after the other: agents killed, restarted, the API server away, its store, a node. For every one in
    turn about that long."""
    for name, harm in (
        ("agents killed", kills),
        ("agents restarted", restarts),
        ("API server away", outage),
        ("etcd away", store),
        ("node rebooted", reboot),
    ):
        before = time.monotonic()
        harm(site, seconds)
        site.add({f"took s, {name}": round(time.monotonic() - before, 1)})


def addresses_agree(site: Site) -> bool:
    """What is found otherwise is among the counts."""
    found = ipam_check(site.lab)
    site.counts["addresses"] = found
    return "nothing found" in found


def watched(
    site: Site, series: str, harm: Callable[[Site, float], None], seconds: float, patience: float = PATIENCE
) -> dict[str, Any]:
    """One series under probes: what was counted. Written to build/soak too."""
    seen: dict[str, dict[str, Any]] = {}
    knocks: dict[str, dict[str, int]] = {}
    site.counts = {}
    site.ready()
    with probes(site, seen, knocks, patience):
        time.sleep(1)  # of quiet before, and after
        harm(site, seconds)
        site.ready()
        time.sleep(1)
    try:
        until("no address is left over, and none is missing", lambda: addresses_agree(site))
    except AssertionError as error:
        error.add_note(site.counts["addresses"])
        raise
    del site.counts["addresses"]
    result = {"series": series, "harm for s": seconds, **site.counts, "probes": seen, "knocks": knocks}
    folder = _ROOT / "build/soak"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{series}.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def row(result: dict[str, Any]) -> str:
    """One line of the table."""
    seen = result["probes"].values()
    quick = [one for one in seen if one.get("rate") == RATE]

    def total(name: str) -> int:
        return sum(int(one.get(name, 0)) for one in seen)

    def worst(name: str) -> float:
        return max((float(one.get(name, 0)) for one in seen), default=0.0)

    told = [result["series"], f"{worst('seconds'):.0f} s", f"{total('datagrams'):,}"]
    told += [f"{sum(one['datagrams'] for one in quick) / max(1.0, sum(one['seconds'] for one in quick)):.0f}"]
    told += [total("lost")]
    told += [f"{total('stream messages'):,}", total("reset"), f"{total('connections'):,}", total("connections failed")]
    told += [result.get("pods", 0), result.get("pods failed", 0), result.get("sandboxes retried", "")]
    told += [f"{worst('slowest echo ms'):.0f}", f"{worst('slowest connection ms'):.0f}"]
    return "| " + " | ".join(map(str, told)) + " |"


HEADER = (
    "| series | under probes | datagrams | a second and pair | lost | stream messages | resets | new connections "
    "| failed | pods | failed | sandboxes retried | slowest echo ms | slowest connection ms |\n" + "|---" * 14 + "|"
)


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Rows, shown when all is done."""
    rows: list[str] = []
    yield rows
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture is not None else contextlib.nullcontext():
        print("", HEADER, *rows, sep="\n")


def held(result: dict[str, Any]) -> None:
    """The bars: no packet, no connection, no pod; and nothing where policy has no way."""
    assert result["pods failed"] == 0, result
    for name, knocks in result["knocks"].items():
        assert knocks["datagrams"] > 10 and knocks["connections"] > 3, (name, result)
        assert knocks["answered"] == 0, (name, result)
    for name, seen in result["probes"].items():
        assert seen["datagrams"] > 100 and seen["stream messages"] > 100 and seen["connections"] > 3, (name, result)
        for count in ("lost", "reset", "stream unanswered", "stream disordered", "connections failed", "refused"):
            assert seen[count] == 0, (name, count, json.dumps(result))
