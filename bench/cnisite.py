"""What `bench cni` measures on: nodes with a real agent, and plugins called as a runtime calls them."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from podwire.cni import build
from podwire.kernel import netns
from podwire.lab import syscalls
from podwire.model import gvr
from tests.netns.agent.conftest import ApiServer, Namespace, Node, make_node, until

CACHE = Path(os.environ.get("PODWIRE_CACHE", "/var/cache/podwire"))
POOL = {"cidr": "10.244.0.0/16", "blockSize": 26, "vxlanMode": "Always", "natOutgoing": True, "nodeSelector": "all()"}
OURS = ("ours", "python", "ours-ports", "late")
PODS = 250
"""As many pods of each of our variants the API has, as it has a kubelet's; names come round again."""
DEBIAN = CACHE / "conformance/debian"


@dataclass
class Step:
    """One plugin of a chain: its program and its configuration."""

    program: Path
    config: dict[str, Any]


@dataclass
class Variant:
    """A way to wire a pod. `space` is the node it happens on; plugins find one another in `path`."""

    name: str
    space: Namespace
    steps: Sequence[Step]
    path: str
    environment: dict[str, str] = field(default_factory=dict)


class PodSpaces:
    """Network namespaces without a process, by number; made beforehand."""

    def __init__(self) -> None:
        self._made: list[int] = []

    def take(self, count: int) -> list[str]:
        """Paths of `count` fresh ones."""
        fresh = [_new_namespace() for _ in range(count)]
        self._made += fresh
        return [f"/proc/{os.getpid()}/fd/{number}" for number in fresh]

    def drop(self) -> None:
        """Let all go."""
        for number in self._made:
            os.close(number)
        self._made.clear()


def _new_namespace() -> int:
    found: list[int] = []

    def make() -> None:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        found.append(netns.open_own())

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return found[0]


@dataclass
class Call:
    """A plugin's process from its start to its end."""

    pid: int
    stdin: int
    stdout: int
    output: bytearray = field(default_factory=bytearray)
    code: int = -1


def spawn(program: Path, environment: dict[str, str], config: dict[str, Any]) -> Call:
    """Start it in the calling thread's network namespace, with its configuration written."""
    stdin_read, stdin_write = os.pipe()
    stdout_read, stdout_write = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, stdin_read, 0), (os.POSIX_SPAWN_DUP2, stdout_write, 1)]
    pid = os.posix_spawn(program, [str(program)], environment, file_actions=actions)
    os.close(stdin_read)
    os.close(stdout_write)
    os.write(stdin_write, json.dumps(config).encode())
    os.close(stdin_write)
    return Call(pid, -1, stdout_read)


def finish(call: Call) -> dict[str, Any] | None:
    """Read to the end and wait; the result, None without one. Raises RuntimeError with the plugin's words."""
    while part := os.read(call.stdout, 65536):
        call.output += part
    return _ended(call)


def _ended(call: Call) -> dict[str, Any] | None:
    os.close(call.stdout)
    _, status = os.waitpid(call.pid, 0)
    call.code = os.waitstatus_to_exitcode(status)
    if call.code:
        raise RuntimeError(bytes(call.output).decode(errors="replace"))
    return json.loads(bytes(call.output)) if call.output.strip() else None


def environment(variant: Variant, command: str, number: int, path: str) -> dict[str, str]:
    return {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": f"{variant.name}{number}",
        "CNI_IFNAME": "eth0",
        "CNI_NETNS": path,
        "CNI_PATH": variant.path,
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={variant.name}{number % PODS}",
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        **variant.environment,
    }


Result = dict[str, Any] | None


def add(variant: Variant, number: int, path: str, more: dict[str, Any]) -> Result:
    """The chain's ADD, in the calling thread's namespace."""
    result: Result = None
    for step in variant.steps:
        config = {**step.config, **more, **({"prevResult": result} if result else {})}
        result = finish(spawn(step.program, environment(variant, "ADD", number, path), config))
    return result


def delete(variant: Variant, number: int, path: str, result: Result, more: dict[str, Any]) -> None:
    """The chain's DEL, backwards."""
    for step in reversed(variant.steps):
        config = {**step.config, **more, **({"prevResult": result} if result else {})}
        finish(spawn(step.program, environment(variant, "DEL", number, path), config))


def pair(variant: Variant, number: int, path: str, more: dict[str, Any]) -> tuple[float, float]:
    """Milliseconds of one ADD and of the DEL after it."""
    with netns.inside(variant.space.fd):
        began = time.perf_counter()
        result = add(variant, number, path, more)
        added = time.perf_counter()
        delete(variant, number, path, result, more)
        return (added - began) * 1000, (time.perf_counter() - added) * 1000


def in_flight(variant: Variant, base: int, paths: list[str], threads: int) -> tuple[float, float]:
    """ADD and DEL calls per second with so many at a time."""

    def inside(work: Callable[[int], Result]) -> Callable[[int], Result]:
        def run(position: int) -> Result:
            with netns.inside(variant.space.fd):
                return work(position)

        return run

    numbers = range(len(paths))
    with ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        results = list(pool.map(inside(lambda i: add(variant, base + i, paths[i], {})), numbers))
        added = time.perf_counter()
        list(pool.map(inside(lambda i: delete(variant, base + i, paths[i], results[i], {})), numbers))
        ended = time.perf_counter()
    return len(paths) / (added - began), len(paths) / (ended - added)


def burst(variant: Variant, base: int, paths: list[str]) -> tuple[float, int]:
    """ADD calls per second when all are started at once, and how many failed. Deleted afterwards."""
    rate, failures = adds_at_once(variant, base, paths)
    with netns.inside(variant.space.fd):
        for i, path in enumerate(paths):
            delete(variant, base + i, path, None, {})
    return rate, failures


def adds_at_once(variant: Variant, base: int, paths: list[str]) -> tuple[float, int]:
    """The same, and nothing deleted."""
    [step] = variant.steps
    failures = 0
    with netns.inside(variant.space.fd):
        began = time.perf_counter()
        calls = [
            spawn(step.program, environment(variant, "ADD", base + i, path), step.config)
            for i, path in enumerate(paths)
        ]
        with selectors.DefaultSelector() as waiting:
            for call in calls:
                waiting.register(call.stdout, selectors.EVENT_READ, call)
            while waiting.get_map():
                for key, _ in waiting.select():
                    part = os.read(key.data.stdout, 65536)
                    key.data.output += part
                    if not part:
                        waiting.unregister(key.data.stdout)
                        with contextlib.suppress(RuntimeError):
                            _ended(key.data)
                        failures += key.data.code != 0
        rate = len(paths) / (time.perf_counter() - began)
    return rate, failures


# -- nodes ---------------------------------------------------------------------------------------------------------


@dataclass
class Site:
    """A node with a real agent; its API, a fake one in a process of its own, answers after `latency` seconds."""

    node: Node
    api: int


@contextlib.contextmanager
def sites(scratch: Path, *latencies: float) -> Iterator[list[Site]]:
    """One for each latency, with its files in `scratch`."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(_site(scratch / f"site{i}", latency)) for i, latency in enumerate(latencies)]


@contextlib.contextmanager
def _site(folder: Path, latency: float) -> Iterator[Site]:
    folder.mkdir()
    node = Node("node1", "172.18.0.2", folder / "node1", _Remote(folder / "api.sock"), build.build(CACHE))
    child = os.fork()
    if child == 0:
        _serve(folder, latency)
    try:
        until("API", (folder / "api.ready").exists)
        with node.space.links() as links:
            links.set_link(1, up=True)
            index = links.add_bridge("eth0")
            links.set_link(index, up=True)
            links.add_address(index, f"{node.address}/16")
        node.start()
        until("conflist", node.conflist.exists)
        yield Site(node, child)
    finally:
        node.close()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@dataclass
class _Remote:
    """Stands for the API where only its path is wanted."""

    path: Path


def _serve(folder: Path, latency: float) -> None:
    """The API's process; does not return."""
    try:
        api = ApiServer(folder / "api.sock")
        api.do(api.fake.create(gvr.IPPOOLS, {"metadata": {"name": "default-ipv4-ippool"}, "spec": POOL}))
        make_node(folder, api, folder, 1).close()
        api.do(api.fake.create(gvr.NAMESPACES, {"metadata": {"name": "default"}}))
        for name in (f"{variant}{number}" for variant in OURS for number in range(PODS)):
            pod = {"metadata": {"name": name, "namespace": "default"}, "spec": {"nodeName": "node1", "containers": []}}
            api.do(api.fake.create(gvr.PODS, pod))
        api.fake.latency = latency
        (folder / "api.ready").touch()
        signal.pause()
    finally:
        os._exit(1)
