"""What pods run as and in: names and resolvers, users and capabilities, limits, images, terminals; on a real lab."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from kubectl import Kubectl, eventually, lab
from pods import Object, ended, events, genuine, namespace, on_node, output, part, pod, ready, shell, shown

pytestmark = pytest.mark.timeout(240)
NODES = ("settings-control-plane", "settings-worker", "settings-worker2")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    with lab(tmp_path_factory.mktemp("settings"), "settings") as kubectl:
        yield kubectl


@pytest.fixture
def kubectl(cluster: Kubectl, request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    with namespace(cluster, re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:50].strip("-")) as own:
        yield own


def once(name: str, script: str, *, container: Object | None = None, **spec: object) -> Object:
    return shell(name, script, container=container, restartPolicy="Never", **spec)


def test_resolvers(kubectl: Kubectl) -> None:
    config = {"nameservers": ["192.0.2.53"], "searches": ["example.org"], "options": [{"name": "ndots", "value": "2"}]}
    show = "cat /etc/resolv.conf"
    kubectl.apply(
        once("first", show),
        once("more", show, dnsConfig=config),
        once("none", show, dnsPolicy="None", dnsConfig=config),
        once("default", show, dnsPolicy="Default"),
        once("host", show, hostNetwork=True),
        once("host-cluster", show, hostNetwork=True, dnsPolicy="ClusterFirstWithHostNet"),
    )
    domains = f"{kubectl.namespace}.svc.cluster.local svc.cluster.local cluster.local"
    cluster_first = output(kubectl, "first").splitlines()
    assert cluster_first[0].startswith(f"search {domains}")
    assert cluster_first[1:] == ["nameserver 10.96.0.10", "options ndots:5"]
    more = output(kubectl, "more").splitlines()
    assert more[0].startswith(f"search {domains}") and more[0].endswith(" example.org")
    assert more[1:] == ["nameserver 10.96.0.10", "nameserver 192.0.2.53", "options ndots:2"]
    assert output(kubectl, "none") == "search example.org\nnameserver 192.0.2.53\noptions ndots:2\n"
    node = kubectl.object("pod", "default")["spec"]["nodeName"]
    of_node = set(on_node(kubectl, node, "cat /etc/resolv.conf").splitlines())
    assert {line for line in output(kubectl, "default").splitlines() if "nameserver" in line} <= of_node
    assert "cluster.local" not in output(kubectl, "default")
    assert output(kubectl, "host") == output(kubectl, "default")
    assert "nameserver 10.96.0.10" in output(kubectl, "host-cluster")


def test_host_names_and_hosts(kubectl: Kubectl) -> None:
    aliases = [{"ip": "192.0.2.7", "hostnames": ["seven", "sieben"]}]
    show = "hostname; cat /etc/hostname /etc/hosts"
    kubectl.apply(
        once("plain", show),
        once("named", show + "; getent hosts seven", hostname="front", subdomain="web", hostAliases=aliases),
        once("host", "hostname; head -1 /etc/hosts; ip -o link show eth0 | wc -l", hostNetwork=True),
    )
    address = ended(kubectl, "plain")["podIP"]
    plain = output(kubectl, "plain").splitlines()
    assert plain[:3] == ["plain", "plain", "# Kubernetes-managed hosts file."]
    assert f"{address}\tplain" in plain and "127.0.0.1\tlocalhost" in plain
    named = output(kubectl, "named")
    address = kubectl.object("pod", "named")["status"]["podIP"]
    assert named.startswith("front\nfront\n")
    assert f"{address}\tfront.web.{kubectl.namespace}.svc.cluster.local\tfront\n" in named
    assert "# Entries added by HostAliases.\n192.0.2.7\tseven\tsieben\n" in named
    assert re.search(r"^192.0.2.7 +seven", named, re.M)
    node = kubectl.object("pod", "host")["spec"]["nodeName"]
    assert output(kubectl, "host") == f"{node}\n# Kubernetes-managed hosts file (host network).\n1\n"


def test_a_pod_on_the_network_of_its_node(kubectl: Kubectl) -> None:
    kubectl.apply(pod("web", image="nginx:1.27", hostNetwork=True, nodeName="settings-worker"))
    ready(kubectl, "web")
    status = kubectl.object("pod", "web")["status"]
    assert status["podIP"] == status["hostIP"]
    assert (
        on_node(kubectl, "settings-worker2", f"curl -s -o /dev/null -w '%{{http_code}}' http://{status['hostIP']}/")
        == "200"
    )


def test_users_and_privileges(kubectl: Kubectl) -> None:
    caps = "grep CapBnd /proc/self/status | cut -f2"
    kubectl.apply(
        once("user", "id -u; id -g; touch /x || echo refused", securityContext={"runAsUser": 1000}),
        once("fixed", "touch /x 2>&1; touch /tmp/x 2>&1",
             container={"securityContext": {"readOnlyRootFilesystem": True}}),
        once("default", caps),
        once("none", caps + "; chown 1 /tmp 2>&1", container={"securityContext": {"capabilities": {"drop": ["ALL"]}}}),
        once("added", caps, container={"securityContext": {"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}}}),
        once("link", "ip link set eth0 mtu 1400 2>&1; echo $?"),
        once("master", "ip link set eth0 mtu 1400 && cat /sys/class/net/eth0/mtu",
             container={"securityContext": {"capabilities": {"add": ["NET_ADMIN"]}}}),
        once("all", "ip link set eth0 mtu 1400 && echo yes", container={"securityContext": {"privileged": True}}),
        once("still", "grep NoNewPrivs /proc/self/status | cut -f2",
             container={"securityContext": {"allowPrivilegeEscalation": False}}),
        once("root", "id", securityContext={"runAsNonRoot": True}),
    )  # fmt: skip
    assert output(kubectl, "user").splitlines()[:2] == ["1000", "0"]
    assert "refused" in output(kubectl, "user")
    assert ended(kubectl, "fixed")["phase"] == "Failed"
    assert kubectl.run("logs", "fixed").count("Read-only file system") == 2
    assert output(kubectl, "default") == "00000000a80425fb\n"
    ended(kubectl, "none")
    assert kubectl.run("logs", "none").startswith("0000000000000000\n")
    assert "Operation not permitted" in kubectl.run("logs", "none")
    assert output(kubectl, "added") == "0000000000001000\n"
    assert "Operation not permitted" in output(kubectl, "link")
    assert output(kubectl, "master") == "1400\n"
    assert output(kubectl, "all") == "yes\n"
    assert output(kubectl, "still") == "1\n"
    eventually(lambda: shown(kubectl, "root") == "CreateContainerConfigError")
    eventually(
        lambda: "Error: container has runAsNonRoot and image will run as root" in events(kubectl, "root", "Failed")
    )


def test_limits(kubectl: Kubectl) -> None:
    eat = "head -c 200m /dev/zero | tail"
    quota = "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null | head -1"
    kubectl.apply(
        once("fat", eat, container={"resources": {"limits": {"memory": "32Mi"}}}),
        once("slow", quota, container={"resources": {"limits": {"cpu": "250m", "memory": "32Mi"}}}),
    )
    assert ended(kubectl, "fat")["phase"] == "Failed"
    assert shown(kubectl, "fat") == "OOMKilled"
    state = kubectl.object("pod", "fat")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (state["reason"], state["exitCode"]) == ("OOMKilled", 137)
    assert output(kubectl, "slow").split()[0] == "25000"
    assert kubectl.object("pod", "slow")["status"]["qosClass"] == "Guaranteed"
    eventually(lambda: "QoS Class:                   Burstable" in kubectl.run("describe", "pod", "fat"))


def test_one_process_namespace(kubectl: Kubectl) -> None:
    shared = shell("see", "exec sleep 4321", shareProcessNamespace=True)
    shared["spec"]["containers"].append(part("peer", "exec sleep 3600"))
    apart = shell("blind", "exec sleep 4321")
    apart["spec"]["containers"].append(part("peer", "exec sleep 3600"))
    kubectl.apply(shared, apart)
    ready(kubectl, "see", "blind")
    everything = kubectl.run("exec", "see", "-c", "peer", "--", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert "/pause" in everything and "sleep 4321" in everything
    assert "4321" not in kubectl.run("exec", "blind", "-c", "peer", "--", "sh", "-c", "cat /proc/[0-9]*/cmdline")


def test_images(kubectl: Kubectl) -> None:
    kubectl.apply(
        pod("odd", "sleep", "3600", image="example.org/never/heard:1"),
        pod("never", image="example.org/never/heard:1", container={"imagePullPolicy": "Never"}),
        pod("wrong", image="Example.org/UPPER:1"),
        pod("web", image="nginx:1.27"),
    )
    eventually(lambda: shown(kubectl, "odd") == "ImagePullBackOff")
    told = events(kubectl, "odd")
    assert 'Failed to pull image "example.org/never/heard:1"' in told and "Error: ErrImagePull" in told
    assert genuine() or "podwire lab load" in told
    eventually(lambda: 'Back-off pulling image "example.org/never/heard:1"' in events(kubectl, "odd", "BackOff"))
    eventually(lambda: shown(kubectl, "never") == "ErrImageNeverPull")
    eventually(lambda: "is not present with pull policy of Never" in events(kubectl, "never"))
    eventually(lambda: shown(kubectl, "wrong") == "InvalidImageName")
    ready(kubectl, "web")
    eventually(lambda: "stand-in" in kubectl.run("describe", "pod", "web"))
    kubectl.run("set", "image", "pod/odd", "odd=busybox:1.36")
    eventually(lambda: shown(kubectl, "odd") == "Running")


def test_terminals_and_attaching(kubectl: Kubectl) -> None:
    kubectl.apply(pod("term", "sh", container={"tty": True, "stdin": True}))
    ready(kubectl, "term")
    seen = kubectl.on_terminal("attach", "-it", "term", typed=[("", "tty; echo $((6*7))\r"), ("42", "exit\r")])
    assert "/dev/pts/0" in seen and "42" in seen
    eventually(lambda: kubectl.object("pod", "term")["status"]["containerStatuses"][0]["restartCount"] == 1)
    assert "42" in kubectl.run("logs", "term", "--previous")
    seen = kubectl.on_terminal(
        *("run", "quick", "--rm", "-it", "--image=busybox", "--restart=Never", "--", "sh"),
        typed=[("# ", "hostname; exit 3\r")],
    )
    assert "quick" in seen and "terminated (Error)" in seen
    assert kubectl.full("get", "pod", "quick").returncode == 1
    piped = kubectl.full(
        "run", "cat", "--rm", "-i", "--quiet", "--image=busybox", "--restart=Never", "--", "cat", stdin="in\n"
    )
    assert piped.returncode == 0 and piped.stdout.startswith("in\n")


def test_large_logs(kubectl: Kubectl) -> None:
    kubectl.apply(once("loud", "seq 1 100000; printf 'no end of line'"))
    text = output(kubectl, "loud")
    # the last line: containerd leaves it without an end, the embedded kubelet gives it one
    assert text.rstrip("\n") == "".join(f"{number}\n" for number in range(1, 100001)) + "no end of line"
    assert kubectl.run("logs", "loud", "--tail=2").rstrip("\n") == "100000\nno end of line"
    assert len(kubectl.run("logs", "loud", "--limit-bytes=1000")) == 1000


def test_the_status_is_plain_data(kubectl: Kubectl) -> None:
    """The patches that write it leave no directive in it, also when a pod gets another address."""
    kubectl.apply(pod("one"))
    ready(kubectl, "one")
    before = kubectl.object("pod", "one")
    node, address = before["spec"]["nodeName"], before["status"]["podIP"]
    find = f"nsenter -t $p -n ip -o addr | grep -q ' {address}/'"
    on_node(kubectl, node, f"for p in $(pgrep -f ^/pause); do if {find}; then kill -9 $p; fi; done")
    eventually(lambda: "SandboxChanged" in kubectl.run("describe", "pod", "one"))
    eventually(lambda: kubectl.object("pod", "one")["status"]["containerStatuses"][0]["restartCount"] == 1)
    ready(kubectl, "one")
    after = kubectl.object("pod", "one")["status"]
    assert after["podIPs"] == [{"ip": after["podIP"]}]
    assert "$patch" not in json.dumps(after)


def trace(kubectl: Kubectl) -> dict[str, str]:
    """What pods leave on nodes, by node."""
    script = (
        "ls /run/netns; ip -o link | grep -o 'cali[0-9a-f]*' | sort -u; ip route | grep cali; ls /var/lib/kubelet/pods "
        "/var/log/pods /run/podwire-kubelet/containers /run/podwire-kubelet/sandboxes /run/podwire-kubelet/runc "
        "/var/lib/podwire-kubelet /var/lib/cni/results; grep -cE 'overlay|tmpfs|nsfs' /proc/mounts; "
        "pgrep -fc ^/pause; true"
    )
    groups = sorted(str(path) for path in Path("/sys/fs/cgroup").glob("**/settings-*/**/") if path.is_dir())
    return {**{node: on_node(kubectl, node, script) for node in NODES}, "cgroups": "\n".join(groups)}


@pytest.mark.embedded_only("it looks through the folders of the embedded runtime")
def test_thirty_pods_leave_nothing(kubectl: Kubectl) -> None:
    first = [pod(f"first-{number}", nodeName=node) for number, node in enumerate(NODES)]
    kubectl.apply(*first)
    ready(kubectl, *(one["metadata"]["name"] for one in first))
    kubectl.run("delete", "pod", "--all")
    eventually(lambda: not kubectl.run("get", "pods", "-A", "-o", "name"), 60, 0.3)
    before = trace(kubectl)
    volumes = [{"name": "m", "emptyDir": {"medium": "Memory"}}]
    mount = {"volumeMounts": [{"name": "m", "mountPath": "/m"}]}
    names = [f"p{number}" for number in range(30)]
    kubectl.apply(*(pod(name, container=mount, volumes=volumes) for name in names))
    ready(kubectl, *names)
    addresses = {one["status"]["podIP"] for one in kubectl.object("pods")["items"]}
    assert len(addresses) == 30
    threads = [threading.Thread(target=kubectl.run, args=("delete", "pod", *names[part::3])) for part in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not kubectl.object("pods")["items"]
    assert trace(kubectl) == before
    taken = kubectl.run("get", "ipamblocks.podwire.dev", "-o", "json", check=False)
    assert not [address for address in addresses if f'"{address}"' in taken]
