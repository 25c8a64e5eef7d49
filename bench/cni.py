"""`python -m bench.cni [--calls N] [--json FILE]`: ADD and DEL through our shim against reference bridge + host-local.

A runtime's way: one process a call, configuration on stdin, result read to its end. Ours and the reference alternate.
Everything happens in a network namespace of its own; the API is the fake, `--api-ms` slow.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.record import record
from podwire.agent.config import AgentConfig
from podwire.agent.main import Agent
from podwire.cni import build
from podwire.kernel import netns
from podwire.kernel.links import RouteSocket
from podwire.kube.fake import FakeApi
from podwire.model.gvr import IPPOOLS, NODES

REFERENCE = "github.com/containernetworking/plugins/plugins/{}@v1.9.1"


def unshare() -> None:
    """The calling thread leaves for a network namespace of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(netns.CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare: root is needed")


def new_namespace() -> str:
    """Path of a new, empty namespace; it lives as long as this process."""
    found: list[int] = []

    def make() -> None:
        unshare()
        found.append(netns.open_own())

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return f"/proc/{os.getpid()}/fd/{found[0]}"


def reference(cache: Path) -> Path | None:
    """Folder with the reference plugins, built once by Go; None where that is not possible."""
    folder = cache / "bin" / "cni-reference"
    wanted = {"bridge": "main/bridge", "host-local": "ipam/host-local"}
    missing = [REFERENCE.format(path) for name, path in wanted.items() if not (folder / name).exists()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "GOBIN": str(folder), "CGO_ENABLED": "0"}
        try:
            subprocess.run(["go", "install", *missing], env=environment, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"no reference plugins: {error}", file=sys.stderr)
            return None
    return folder


async def agent(folder: Path, shim: Path, api_seconds: float) -> None:
    """An agent with the fake API in its process."""
    api = FakeApi(latency=api_seconds)
    pool = {
        "cidr": "10.244.0.0/16",
        "blockSize": 26,
        "vxlanMode": "Always",
        "natOutgoing": True,
        "nodeSelector": "all()",
    }
    await api.create(IPPOOLS, {"metadata": {"name": "default-ipv4-ippool"}, "spec": pool})
    await api.create(NODES, {"metadata": {"name": "n1"}, "spec": {"podCIDR": "10.244.1.0/24"}})
    config = AgentConfig(
        node_name="n1",
        node_ip="172.18.0.2",
        socket=folder / "cni.sock",
        conf_dir=folder / "net.d",
        bin_dir=folder / "bin",
        state_dir=folder / "state",
        shim=shim,
    )
    await Agent(config, api).serve()


def call(program: Path, config: dict[str, Any], command: str, number: int, namespace: str) -> float:
    """Milliseconds of one call. Raises RuntimeError with the plugin's words."""
    environment = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": f"bench{number}",
        "CNI_IFNAME": "eth0",
        "CNI_NETNS": namespace,
        "CNI_PATH": str(program.parent),
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=p{number}",
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    }
    text = json.dumps(config).encode()
    began = time.perf_counter()
    done = subprocess.run([program], env=environment, input=text, capture_output=True, check=False)
    took = (time.perf_counter() - began) * 1000
    if done.returncode:
        raise RuntimeError(f"{program.name} {command}: {done.stdout.decode()} {done.stderr.decode()}")
    return took


def burst(program: Path, config: dict[str, Any], namespaces: list[str], base: int) -> float:
    """ADD calls per second with 8 in flight; what was made is deleted afterwards."""
    with ThreadPoolExecutor(8) as pool:
        began = time.perf_counter()
        list(pool.map(lambda i: call(program, config, "ADD", base + i, namespaces[i]), range(len(namespaces))))
        rate = len(namespaces) / (time.perf_counter() - began)
        list(pool.map(lambda i: call(program, config, "DEL", base + i, namespaces[i]), range(len(namespaces))))
    return rate


def measure(chosen: dict[str, tuple[Path, dict[str, Any]]], calls: int) -> dict[str, dict[str, list[float]]]:
    """Times by plugin and verb, plugins in random order in each round."""
    times: dict[str, dict[str, list[float]]] = {name: {"ADD": [], "DEL": [], "burst": []} for name in chosen}
    for number in range(calls):
        for name in random.sample(list(chosen), len(chosen)):
            program, config = chosen[name]
            namespace = new_namespace()
            for verb in ("ADD", "DEL"):
                times[name][verb].append(call(program, config, verb, number, namespace))
            os.close(int(namespace.rpartition("/")[2]))
    namespaces = [new_namespace() for _ in range(48)]
    for turn in range(3):
        for name in random.sample(list(chosen), len(chosen)):
            times[name]["burst"].append(burst(*chosen[name], namespaces, 100_000 * (turn + 1)))
    return times


def report(times: dict[str, dict[str, list[float]]], calls: int) -> list[dict[str, Any]]:
    """The list that goes into the file."""
    peer = times.get("reference", {"ADD": [], "DEL": [], "burst": []})
    rows = (("cni_add", "ms", "ADD", calls, "lower"), ("cni_del", "ms", "DEL", calls, "lower"))
    rows += (("cni_burst", "calls/s", "burst", 48, "higher"),)
    return [
        record(
            name, unit, times["ours"][key], peer=peer[key] or None, peer_name="bridge + host-local", n=n, better=better
        )
        for name, unit, key, n, better in rows
    ]


def plugins(folder: Path, peers: Path | None) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Program and configuration of each, once the agent has installed its own."""
    end = time.monotonic() + 20
    while not (folder / "net.d" / "05-podwire.conflist").exists():
        if time.monotonic() > end:
            raise SystemExit("the agent did not become ready")
        time.sleep(0.02)
    ours = {"cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "podwire"}
    ipam = {"type": "host-local", "subnet": "10.99.0.0/16", "dataDir": str(folder / "networks")}
    theirs = {
        "cniVersion": "1.0.0",
        "name": "bench",
        "type": "bridge",
        "bridge": "cbr0",
        "isGateway": True,
        "ipam": ipam,
    }
    found = {"ours": (folder / "bin" / "podwire", ours)}
    return found | ({"reference": (peers / "bridge", theirs)} if peers is not None else {})


def uplink() -> None:
    """The node's own interface."""
    with RouteSocket() as links:
        links.set_link(1, up=True)
        index = links.add_veth("eth0", "far")
        for name in ("eth0", "far"):
            links.set_link(links.link_index(name) or 0, up=True)
        links.add_address(index, "172.18.0.2/16")


def main(arguments: list[str] | None = None, then: Callable[[str], None] = print) -> None:
    """Print the measurements, or write them to a file."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--calls", type=int, default=100)
    options.add_argument("--api-ms", type=float, default=1.0)
    options.add_argument("--json", type=Path)
    chosen = options.parse_args(arguments)
    cache = Path(os.environ.get("PODWIRE_CACHE", "/var/cache/podwire"))
    shim, peers = build.build(cache), reference(cache)
    private = cache / "root" / "usr" / "sbin" / "nft"
    if shutil.which("nft") is None and private.exists():
        os.environ.setdefault("PODWIRE_NFT", str(private))
    unshare()
    uplink()
    with tempfile.TemporaryDirectory(prefix="podwire-bench-") as scratch:
        folder = Path(scratch)
        child = os.fork()
        if child == 0:
            asyncio.run(agent(folder, shim, chosen.api_ms / 1000))
            os._exit(0)
        try:
            measured = report(measure(plugins(folder, peers), chosen.calls), chosen.calls)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    text = json.dumps(measured, indent=1) + "\n"
    if chosen.json:
        chosen.json.write_text(text)
    then(text)


if __name__ == "__main__":
    main()
