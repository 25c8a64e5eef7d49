"""Scenes for test_pods.py, each run as a program of its own inside fresh net, mount, pid, ipc and uts namespaces.

A kubelet runs against a FakeApi with a CNI plugin that is a few lines of shell; images are the host's root, read-only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from podwire.kube.api import ApiError
from podwire.kube.fake import FakeApi
from podwire.kubelet import fdio, oci, syscalls
from podwire.kubelet.children import Children
from podwire.kubelet.config import KubeletConfig
from podwire.kubelet.image import Image, ImageNotFound
from podwire.kubelet.kubelet import Kubelet
from podwire.kubelet.runtime import Record, Runtime, RuntimeFailure
from podwire.model.gvr import CONFIGMAPS, EVENTS, NODES, PODS, SERVICEACCOUNTS

PLUGIN = """#!/bin/sh
exec 2>>{work}/plugin.log
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS" >>{work}/calls
cat >{work}/stdin.$CNI_COMMAND
if [ -e {work}/broken ]; then
  echo '{{"cniVersion":"1.0.0","code":11,"msg":"no address for you","details":"pool is dry"}}'
  exit 1
fi
if [ $CNI_COMMAND = ADD ]; then
  n=$(wc -l <{work}/calls)
  ip link add cali$n type veth peer name eth0 netns $CNI_NETNS && ip link set cali$n up
  nsenter --net=$CNI_NETNS ip addr add 10.9.0.$n/32 dev eth0 && nsenter --net=$CNI_NETNS ip link set eth0 up
  nsenter --net=$CNI_NETNS ip route add default dev eth0
  ip route add 10.9.0.$n/32 dev cali$n
  echo '{{"cniVersion":"1.0.0","interfaces":[{{"name":"eth0","sandbox":"'$CNI_NETNS'"}}],'
  echo '"ips":[{{"address":"10.9.0.'$n'/32","interface":0}}]}}'
fi
"""


def resolve(name: str) -> Image:
    if name == "absent":
        raise ImageNotFound(f"no such image: {name}")
    return Image(name, "sha256:1", (Path("/"),), cmd=("/bin/sleep", "1000"), stand_in="the host")


class World:
    """A node in a temporary directory."""

    def __init__(self, work: Path, cgroup: str = "") -> None:
        self.work = work
        self.api = FakeApi()
        for name in ("conf", "bin", "cache"):
            (work / name).mkdir(exist_ok=True)
        plugin = work / "bin" / "podwire"
        plugin.write_text(PLUGIN.format(work=work))
        plugin.chmod(0o755)
        self.config = KubeletConfig(
            node_name="node",
            node_ip="127.0.0.1",
            kubeconfig=work / "none",
            ca_file=work / "none",
            cert_file=work / "none",
            key_file=work / "none",
            cache=work,
            cgroup_parent=cgroup,
            state=work / "state",
            containers=work / "containers",
            pods=work / "pods",
            logs=work / "logs",
            cni_conf_dir=work / "conf",
            cni_bin_dirs=(work / "bin",),
            cni_cache=work / "cache",
            netns_dir=work / "netns",
        )

    def network(self) -> None:
        text = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "podwire"}]}
        (self.work / "conf" / "new").write_text(json.dumps(text))
        (self.work / "conf" / "new").replace(self.work / "conf" / "05-podwire.conflist")

    @contextlib.asynccontextmanager
    async def kubelet(self) -> AsyncIterator[Kubelet]:
        kubelet = Kubelet(self.config, self.api, resolve)
        running = asyncio.ensure_future(kubelet.run())
        try:
            yield kubelet
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    async def pod(self, name: str, *containers: dict[str, Any], **spec: Any) -> None:
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "nodeName": "node",
                "automountServiceAccountToken": False,
                "containers": [{"name": "app", "image": "host", **one} for one in containers or ({},)],
                **spec,
            },
        }
        await self.api.create(PODS, body, "default")

    async def get(self, name: str) -> dict[str, Any]:
        return await self.api.get(PODS, name, "default")

    async def until(self, name: str, test: Callable[[dict[str, Any]], Any], seconds: float = 60.0) -> dict[str, Any]:
        end = time.monotonic() + seconds
        pod: dict[str, Any] = {}
        while time.monotonic() < end:
            pod = await self.get(name)
            with contextlib.suppress(KeyError, IndexError):  # no status yet
                if test(pod):
                    return pod
            await asyncio.sleep(0.005)
        events = [f"{e['reason']}: {e['message']}" for e in (await self.api.list(EVENTS))[0]]
        raise AssertionError(f"{json.dumps(pod.get('status'), indent=1)}\n{events}")

    async def gone(self, name: str) -> None:
        for _ in range(6000):
            try:
                await self.get(name)
            except ApiError:
                return
            await asyncio.sleep(0.005)
        raise AssertionError(f"{name} is still there")

    async def events(self) -> str:
        return "\n".join(f"{e['reason']}: {e['message']}" for e in (await self.api.list(EVENTS))[0])

    def log(self, pod: dict[str, Any], container: str = "app", start: int = 0) -> str:
        metadata = pod["metadata"]
        path = self.config.logs / f"{metadata['namespace']}_{metadata['name']}_{metadata['uid']}"
        return (path / container / f"{start}.log").read_text()

    async def logged(self, pod: dict[str, Any], test: Callable[[str], bool]) -> None:
        """Until the log is as wanted."""
        for _ in range(6000):
            if test(self.log(pod)):
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"the log did not become as wanted:\n{self.log(pod)}")

    async def processes(self, pattern: str) -> list[int]:
        """Processes of this scene by their command line, once there are some: a container's first process is runc's
        for a moment."""
        for _ in range(6000):
            found = subprocess.run(["pgrep", "-f", pattern], stdout=subprocess.PIPE, check=False).stdout.split()
            if found:
                return [int(pid) for pid in found]
            await asyncio.sleep(0.01)
        raise AssertionError(f"no process {pattern!r}")

    async def node(self, test: Callable[[dict[str, Any]], bool]) -> None:
        """Until the node is there with a condition Ready as wanted."""
        conditions: list[dict[str, Any]] = []
        for _ in range(6000):
            with contextlib.suppress(ApiError):
                found = await self.api.get(NODES, "node")
                conditions = [one for one in found["status"].get("conditions", []) if one["type"] == "Ready"]
                if conditions and test(conditions[0]):
                    return
            await asyncio.sleep(0.01)
        raise AssertionError(f"the node did not become as wanted: {conditions}")

    def left_behind(self) -> list[str]:
        """Mounts, processes and files of pods that are still there."""
        mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(self.work) in line]
        mine = [m for m in mounts if m.split()[4] not in (str(self.work), str(self.work / "netns"))]
        names = [str(path) for top in ("netns", "pods", "cache") for path in (self.work / top).glob("*")]
        names += [str(path) for path in self.work.glob("containers/*")]
        names += [str(path) for path in self.work.glob("state/*/*") if path.parent.name in ("containers", "sandboxes")]
        return mine + names


def ready(pod: dict[str, Any]) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def state(pod: dict[str, Any], index: int = 0) -> dict[str, Any]:
    statuses = (pod.get("status") or {}).get("containerStatuses") or [{}]
    found: dict[str, Any] = statuses[index].get("state") or {}
    return found


async def lifecycle(world: World) -> None:
    """NotReady without a network, Ready with one; a pod runs, is logged, entered, and goes without a trace."""
    async with world.kubelet() as kubelet:
        await world.node(lambda ready: "cni plugin not initialized" in ready["message"])
        world.network()
        await world.node(lambda ready: ready["status"] == "True")
        script = "echo out; echo err >&2; hostname; cat /etc/resolv.conf; ip -o -4 addr show eth0; exec sleep 1000"
        began = time.monotonic()
        await world.pod("web", {"command": ["sh", "-c", script]})
        pod = await world.until("web", ready)
        print(f"ready after {(time.monotonic() - began) * 1000:.0f} ms")
        for expected in (
            "stdout F out",
            "stderr F err",
            "stdout F web",
            "nameserver 10.96.0.10",
            "ndots:5",
            "10.9.0.1",
        ):
            await world.logged(pod, lambda text, expected=expected: expected in text)
        assert pod["status"]["podIP"] == "10.9.0.1"
        container = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("podwire://")
        code, output = await kubelet.context.runtime.exec_sync(container, ["sh", "-c", "echo hi; exit 3"], 5)
        assert (code, output) == (3, b"hi\n"), (code, output)
        process = await kubelet.context.runtime.exec(container, ["tty"], tty=True, stdin=True)
        assert await process.wait() == 0
        assert process.stdout is not None
        assert b"/dev/pts/" in await fdio.read(process.stdout)
        os.close(process.stdout)
        try:
            await kubelet.context.runtime.exec(container, ["nope"], tty=False, stdin=False)
            raise AssertionError("an absent program was executed")
        except RuntimeFailure as error:
            assert "OCI runtime exec failed" in str(error), error
        assert "stand-in: the host" in await world.events()
        await world.api.delete(PODS, "web", "default", grace=1)
        await world.gone("web")
        assert not world.left_behind(), world.left_behind()
        print("events:", await world.events())


async def restarts(world: World) -> None:
    """Killing the container keeps address and namespace; a failing one backs off; OnFailure and Never end."""
    world.network()
    async with world.kubelet():
        await world.pod("web", {"command": ["sleep", "1000"]})
        pod = await world.until("web", ready)
        netns = sorted((world.work / "netns").iterdir())
        (pid,) = await world.processes("^sleep 1000")
        os.kill(pid, signal.SIGKILL)
        again = await world.until(
            "web", lambda p: p["status"]["containerStatuses"][0]["restartCount"] == 1 and ready(p)
        )
        assert again["status"]["podIP"] == pod["status"]["podIP"]
        assert sorted((world.work / "netns").iterdir()) == netns
        assert again["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 137
        await world.pod("bad", {"command": ["sh", "-c", "exit 4"]})
        pod = await world.until("bad", lambda p: state(p).get("waiting", {}).get("reason") == "CrashLoopBackOff")
        assert "back-off 10s restarting failed container=app pod=bad_default" in state(pod)["waiting"]["message"]
        assert pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 4
        await world.pod("once", {"command": ["sh", "-c", "echo said > /dev/termination-log"]}, restartPolicy="Never")
        pod = await world.until("once", lambda p: p["status"].get("phase") == "Succeeded")
        assert state(pod)["terminated"]["reason"] == "Completed"
        assert state(pod)["terminated"]["message"] == "said\n"
        await world.pod("lost", {"command": ["nope"]}, restartPolicy="Never")
        pod = await world.until("lost", lambda p: p["status"].get("phase") == "Failed")
        assert 'exec: "nope": executable file not found in $PATH' in state(pod)["terminated"]["message"]
        await world.pod("pull", {"image": "absent"})
        await world.until("pull", lambda p: state(p).get("waiting", {}).get("reason") == "ImagePullBackOff")
        await world.pod("first", {}, initContainers=[{"name": "one", "image": "host", "command": ["true"]}])
        await world.until("first", ready)
        for name in ("web", "bad", "once", "lost", "pull", "first"):
            await world.api.delete(PODS, name, "default", grace=1)
        for name in ("web", "bad", "once", "lost", "pull", "first"):
            await world.gone(name)
        assert not world.left_behind(), world.left_behind()


async def broken_cni(world: World) -> None:
    """The plugin's own words reach the Event; the pod is retried."""
    world.network()
    (world.work / "broken").touch()
    async with world.kubelet():
        await world.pod("web")
        expected = 'plugin type="podwire" failed (add): no address for you; pool is dry'
        for _ in range(6000):
            if expected in await world.events():
                break
            await asyncio.sleep(0.01)
        else:
            raise AssertionError(await world.events())
        assert state(await world.get("web"))["waiting"]["reason"] == "ContainerCreating"
        (world.work / "broken").unlink()
        await world.until("web", ready)


async def survives(world: World) -> None:
    """A new kubelet takes up pods as they are; a dead pause process makes a new sandbox."""
    world.network()
    async with world.kubelet():
        await world.pod("web", {"command": ["sh", "-c", "while :; do date; sleep 0.1; done"]})
        pod = await world.until("web", ready)
    await asyncio.sleep(0.3)
    before = pod["status"]["containerStatuses"][0]
    async with world.kubelet() as kubelet:
        await asyncio.sleep(0.5)
        after = (await world.get("web"))["status"]["containerStatuses"][0]
        assert before["containerID"] == after["containerID"], (before, after)
        assert after["restartCount"] == 0
        size = len(world.log(pod))
        await world.logged(pod, lambda text: len(text) > size)
        sandbox, pids = kubelet.context.sandboxes.load()[0], await world.processes("while :; do date")
        os.kill(sandbox.pid, signal.SIGKILL)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # the kubelet was quicker
                os.kill(pid, signal.SIGKILL)
        fresh = await world.until("web", lambda p: ready(p) and p["status"]["podIP"] != pod["status"]["podIP"])
        assert fresh["status"]["containerStatuses"][0]["restartCount"] == 1
        await world.api.delete(PODS, "web", "default", grace=1)
        await world.gone("web")
        assert not world.left_behind(), world.left_behind()


async def features(world: World) -> None:
    """Volumes, token, environment, probes, users, shared namespaces of a pod's containers, control groups."""
    world.network()
    await world.api.create(CONFIGMAPS, _object("ConfigMap", "kube-root-ca.crt", data={"ca.crt": "CA"}), "default")
    await world.api.create(CONFIGMAPS, _object("ConfigMap", "settings", data={"colour": "red"}), "default")
    await world.api.create(SERVICEACCOUNTS, _object("ServiceAccount", "default"), "default")
    async with world.kubelet():
        script = (
            "cat /conf/colour; echo; cat /var/run/secrets/kubernetes.io/serviceaccount/token; echo; id -u;"
            " echo $COLOUR $ME $HOST; echo $KUBERNETES_SERVICE_HOST;"
            " touch /scratch/made; grep CapEff /proc/self/status; exec sleep 1000"
        )
        probe = {"exec": {"command": ["test", "-e", "/scratch/made"]}, "periodSeconds": 1}
        container = {
            "command": ["sh", "-c", script],
            "securityContext": {"runAsUser": 1234},
            "env": [
                {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "colour"}}},
                {"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "HOST", "value": "on-$(ME)"},
            ],
            "volumeMounts": [{"name": "conf", "mountPath": "/conf"}, {"name": "scratch", "mountPath": "/scratch"}],
            "readinessProbe": probe,
            "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}},
        }
        other = {"name": "other", "command": ["sh", "-c", "ls /scratch; exec sleep 1000"]}
        other["volumeMounts"] = [{"name": "scratch", "mountPath": "/scratch", "readOnly": True}]
        volumes = [{"name": "conf", "configMap": {"name": "settings"}}, {"name": "scratch", "emptyDir": {}}]
        await world.pod("full", container, other, volumes=volumes, automountServiceAccountToken=None)
        pod = await world.until("full", ready)
        wanted = ("F red", "fake-token", "F 1234", "F red 10.9.0.1 on-10.9.0.1", "F 10.96.0.1")
        for expected in (*wanted, "CapEff:\t0000000000000000"):
            await world.logged(pod, lambda text, expected=expected: expected in text)
        await world.pod(
            "live",
            {
                "livenessProbe": {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1},
                "command": ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"],
            },
        )
        await world.until("live", lambda p: state(p) and p["status"]["containerStatuses"][0]["restartCount"] >= 1)
        assert "Liveness probe failed" in await world.events()
        with socket.create_server(("127.0.0.1", 8099)):
            probe = {"tcpSocket": {"port": 8099}, "periodSeconds": 1}
            await world.pod("host", {"readinessProbe": probe}, hostNetwork=True)
            assert (await world.until("host", ready))["status"]["podIP"] == "127.0.0.1"
        every = {"securityContext": {"privileged": True}, "command": ["sh", "-c", "ip link add d0 type dummy; sleep 9"]}
        await world.pod("root", every, shareProcessNamespace=True)
        await world.until("root", ready)
        for name in ("full", "live", "host", "root"):
            await world.api.delete(PODS, name, "default", grace=1)
        for name in ("full", "live", "host", "root"):
            await world.gone(name)
        assert not world.left_behind(), world.left_behind()


async def limits(world: World) -> None:
    """Limits are written where the kernel enforces them; a container over its memory limit is OOMKilled."""
    world.network()
    async with world.kubelet():
        limits = {"resources": {"limits": {"memory": "64Mi", "cpu": "500m"}}}
        await world.pod("small", limits)
        await world.until("small", ready)
        quotas = [int((path / "cpu.cfs_quota_us").read_text()) for path in _leaves(world, "cpu.cfs_quota_us")]
        quotas += [int((path / "cpu.max").read_text().split()[0]) for path in _leaves(world, "cpu.max")]
        assert 50000 in quotas, quotas
        greedy = {"command": [sys.executable, "-c", "x = bytearray(200 << 20)"], **limits}
        await world.pod("greedy", greedy, restartPolicy="Never")
        pod = await world.until("greedy", lambda p: state(p).get("terminated"))
        assert state(pod)["terminated"]["reason"] == "OOMKilled", state(pod)
        for name in ("small", "greedy"):
            await world.api.delete(PODS, name, "default", grace=1)
            await world.gone(name)
        assert not _leaves(world, "cgroup.procs"), _leaves(world, "cgroup.procs")


def _leaves(world: World, file: str) -> list[Path]:
    """Control groups of pods' containers that have a file."""
    parent = world.config.cgroup_parent.strip("/")
    hierarchies = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()]
    found = [one for top in hierarchies for one in (top / parent).glob("*/*") if (top / parent).is_dir()]
    return [one for one in found if one.is_dir() and (one / file).exists()]


async def orphans(world: World) -> None:
    """A kubelet dies by SIGKILL between two words of a container: nothing is lost, the exit code neither."""
    directory = world.work / "rt"
    child = os.fork()
    if child == 0:
        os.setsid()
        asyncio.run(_start_and_die(directory))
    os.waitpid(child, 0)
    children = Children()
    runtime = Runtime(directory / "state", directory / "containers", children, rootless=True)
    (container,) = runtime.adopt()
    assert container.running
    (directory / "go").touch()
    await asyncio.wait_for(container.exited.wait(), 60)
    assert container.record.exit_code == 5, container.record
    text = Path(container.record.log_path).read_text()
    assert "F one" in text and "F two" in text, text
    await runtime.discard(container.record)
    assert not list((directory / "containers").iterdir())
    children.close()


async def _start_and_die(directory: Path) -> None:
    syscalls.become_subreaper()
    children = Children()
    runtime = Runtime(directory / "state", directory / "containers", children, rootless=True)
    script = f"echo one; while [ ! -e {directory}/go ]; do sleep 0.05; done; echo two; exit 5"
    record = Record("c1", "uid", "s1", "app", 0, "host", "", str(directory / "log" / "0.log"), time.time())
    root = await runtime.prepare(record, (Path("/"),))
    launch = oci.Launch(
        rootfs=str(root),
        argv=("sh", "-c", script),
        env=("PATH=/bin:/usr/bin",),
        cwd="/",
        user=oci.User(),
        hostname="h",
        namespaces={"mount": "", "pid": ""},
        mounts=[oci.Mount(str(directory), str(directory))],
    )
    await runtime.start(record, launch)
    os.kill(os.getpid(), signal.SIGKILL)


def _object(kind: str, name: str, **rest: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "default"}, **rest}


def main() -> None:
    scene, cgroup = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    work = Path(tempfile.mkdtemp())
    syscalls.mount("work", work, "tmpfs", 0, "mode=755")
    try:
        asyncio.run(globals()[scene](World(work, cgroup)))
    finally:
        syscalls.unmount(work)
        work.rmdir()


if __name__ == "__main__":
    main()
