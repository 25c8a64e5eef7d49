"""The Node object and its Lease: registration, conditions, heartbeats."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

from podwire.kube.api import Api, ApiError
from podwire.kubelet import times
from podwire.kubelet.config import RUNTIME_VERSION, VERSION, KubeletConfig
from podwire.kubelet.downward import NodeFacts
from podwire.model.gvr import LEASES, NODES

log = logging.getLogger(__name__)
Object = dict[str, Any]
LEASE_SECONDS, RENEW_SECONDS, STATUS_SECONDS = 40, 10.0, 300.0
LEASE_NAMESPACE = "kube-node-lease"
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def memory_bytes(meminfo: str) -> int:
    """MemTotal of /proc/meminfo in bytes."""
    for line in meminfo.splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def os_name(release: str) -> str:
    """PRETTY_NAME of /etc/os-release."""
    for line in release.splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip().strip('"')
    return "Linux"


def facts(config: KubeletConfig) -> NodeFacts:
    """What the downward API and the Node say of this machine. Reads /proc."""
    cpus = Decimal(len(os.sched_getaffinity(0)))
    memory = Decimal(memory_bytes(Path("/proc/meminfo").read_text()))
    return NodeFacts(config.node_name, config.node_ip, cpus, memory)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def node_info() -> Object:
    """status.nodeInfo."""
    machine = platform.machine()
    return {
        "architecture": _MACHINES.get(machine, machine),
        "bootID": _read("/proc/sys/kernel/random/boot_id").strip(),
        "containerRuntimeVersion": RUNTIME_VERSION,
        "kernelVersion": platform.release(),
        "kubeProxyVersion": "",
        "kubeletVersion": VERSION,
        "machineID": _read("/etc/machine-id").strip(),
        "operatingSystem": "linux",
        "osImage": os_name(_read("/etc/os-release")),
        "systemUUID": _read("/etc/machine-id").strip(),
    }


def labels(config: KubeletConfig) -> dict[str, str]:
    """The node's labels: those every kubelet sets, and the configured ones."""
    machine = platform.machine()
    arch = _MACHINES.get(machine, machine)
    return {
        "beta.kubernetes.io/arch": arch,
        "beta.kubernetes.io/os": "linux",
        "kubernetes.io/arch": arch,
        "kubernetes.io/hostname": config.node_name,
        "kubernetes.io/os": "linux",
        **config.labels,
    }


def resources(config: KubeletConfig, node: NodeFacts) -> Object:
    """Capacity, which is allocatable whole."""
    storage = os.statvfs("/var/lib")
    return {
        "cpu": str(int(node.cpu)),
        "ephemeral-storage": f"{storage.f_blocks * storage.f_frsize // 1024}Ki",
        "hugepages-1Gi": "0",
        "hugepages-2Mi": "0",
        "memory": f"{int(node.memory) // 1024}Ki",
        "pods": str(config.max_pods),
    }


def network_not_ready(fault: str) -> str:
    """What a kubelet says while its runtime's network is not ready."""
    return (
        "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady "
        f"message:Network plugin returns error: {fault}"
    )


def conditions(network_fault: str, old: list[Object], now: str) -> list[Object]:
    """The kubelet's conditions; the time of a change is kept while nothing changes."""
    before = {one.get("type"): one for one in old}
    enough = [
        ("MemoryPressure", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    ]
    found = [{"type": kind, "status": "False", "reason": why, "message": text} for kind, why, text in enough]
    if not network_fault:
        ready = {"status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status"}
    else:
        ready = {"status": "False", "reason": "KubeletNotReady", "message": network_not_ready(network_fault)}
    found.append({"type": "Ready", **ready})
    for one in found:
        last = before.get(one["type"], {})
        same = last.get("status") == one["status"]
        one["lastHeartbeatTime"] = now
        one["lastTransitionTime"] = last.get("lastTransitionTime", now) if same else now
    return found


class NodeStatus:
    """Keeps the Node and its Lease up to date. `network_fault` tells why the network is not ready, "" when it is."""

    def __init__(self, config: KubeletConfig, api: Api, node: NodeFacts, network_fault: Callable[[], str]) -> None:
        self._config = config
        self._api = api
        self._node = node
        self._network_fault = network_fault
        self._changed = asyncio.Event()
        self._lease: Object | None = None

    def changed(self) -> None:
        """Write the status now."""
        self._changed.set()

    async def run(self) -> None:
        """Register, then write the status on change and every five minutes, the Lease every ten seconds."""
        await asyncio.gather(self._keep_status(), self._keep_lease())

    async def _keep_status(self) -> None:
        while True:
            self._changed.clear()
            try:
                await self._write()
            except ApiError as error:
                log.warning("kubelet: node %s: %s", self._config.node_name, error)
                await asyncio.sleep(0.2)
                continue
            try:
                await asyncio.wait_for(self._changed.wait(), STATUS_SECONDS)
            except TimeoutError:
                continue

    def _status(self, old: Object) -> Object:
        config = self._config
        amounts = resources(config, self._node)
        return {
            "addresses": [
                {"type": "InternalIP", "address": config.node_ip},
                {"type": "Hostname", "address": config.node_name},
            ],
            "allocatable": amounts,
            "capacity": amounts,
            "conditions": conditions(self._network_fault(), old.get("conditions") or [], times.text(time.time())),
            "daemonEndpoints": {"kubeletEndpoint": {"Port": config.port}},
            "nodeInfo": node_info(),
        }

    async def _write(self) -> None:
        """Create the Node, or bring labels and status of the one that is there up to date. Raises ApiError."""
        config = self._config
        try:
            node = await self._api.get(NODES, config.node_name)
        except ApiError as error:
            if not error.not_found:
                raise
            node = await self._create()
        wanted = labels(config)
        have = node["metadata"].get("labels") or {}
        if any(have.get(key) != value for key, value in wanted.items()):
            await self._api.patch(NODES, config.node_name, {"metadata": {"labels": wanted}})
        status = self._status(node.get("status") or {})
        addresses = {"addresses": [{"$patch": "replace"}, *status["addresses"]]}
        await self._api.patch(
            NODES, config.node_name, {"status": {**status, **addresses}}, kind="strategic", subresource="status"
        )

    async def _create(self) -> Object:
        config = self._config
        spec: Object = {"taints": config.taints} if config.taints else {}
        metadata = {
            "name": config.node_name,
            "labels": labels(config),
            "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
        }
        node = {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec, "status": self._status({})}
        try:
            return await self._api.create(NODES, node)
        except ApiError as error:
            if not error.already_exists:
                raise
            return await self._api.get(NODES, config.node_name)

    async def _keep_lease(self) -> None:
        while True:
            try:
                await self._renew()
            except ApiError as error:
                self._lease = None
                log.debug("kubelet: lease of %s: %s", self._config.node_name, error)
                await asyncio.sleep(0.5)
                continue
            await asyncio.sleep(RENEW_SECONDS)

    async def _renew(self) -> None:
        name, now = self._config.node_name, times.micro(time.time())
        if self._lease is None:
            try:
                self._lease = await self._api.get(LEASES, name, LEASE_NAMESPACE)
            except ApiError as error:
                if not error.not_found:
                    raise
        if self._lease is not None:
            self._lease["spec"] = {**self._lease.get("spec", {}), "renewTime": now}
            self._lease = await self._api.update(LEASES, self._lease)
            return
        owner = await self._api.get(NODES, name)
        reference = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": owner["metadata"]["uid"]}
        spec = {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now}
        metadata = {"name": name, "namespace": LEASE_NAMESPACE, "ownerReferences": [reference]}
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
        self._lease = await self._api.create(LEASES, lease, LEASE_NAMESPACE)
