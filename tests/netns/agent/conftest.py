"""Two nodes with real agents on an underlay, an outside, and pods: each a namespace, none connected to the host."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from podwire.cni import build
from podwire.kernel import netns, nft
from podwire.kernel.links import RouteSocket
from podwire.kube.fake import FakeApi
from podwire.kube.watch import InSync
from podwire.model.api import ApiError
from podwire.model.gvr import GVR, IPPOOLS, NODES

HERE = Path(__file__).parent


class Namespace:
    """A network namespace, kept by a sleeping process."""

    def __init__(self) -> None:
        read, write = os.pipe()
        # the holder tells by a byte that it has its namespace
        enter = "import os,ctypes,signal,sys;ctypes.CDLL(None).unshare(0x40000000) and sys.exit(1)"
        script = enter + ";os.write(1,b'x');signal.pause()"
        self._holder = subprocess.Popen([sys.executable, "-ISE", "-c", script], stdout=write)
        os.close(write)
        assert os.read(read, 1) == b"x", "no network namespace (root is needed)"
        os.close(read)
        self.path = f"/proc/{self._holder.pid}/ns/net"
        self.fd = netns.open_path(self.path)

    def links(self) -> RouteSocket:
        return RouteSocket(netns_fd=self.fd)

    def run(self, *command: str) -> str:
        done = subprocess.run(["nsenter", f"--net={self.path}", *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def socket(self, kind: int = socket.SOCK_STREAM, family: int = socket.AF_INET) -> socket.socket:
        with netns.inside(self.fd):
            made = socket.socket(family, kind)
        made.settimeout(3)
        return made

    def listen(self, address: str = "0.0.0.0", port: int = 8080) -> socket.socket:
        listener = self.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen()
        return listener

    def close(self) -> None:
        """Again is fine: by then the descriptor's number may be somebody else's."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
        self._holder.kill()
        self._holder.wait()


class ApiServer:
    """FakeApi on a loop of its own, spoken to by agents over a unix socket and by tests directly."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.fake: FakeApi = self.do(self._start())

    async def _start(self) -> FakeApi:
        fake = FakeApi()
        self._server = await asyncio.start_unix_server(self._serve, self.path, limit=1 << 24)
        return fake

    def do(self, call: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(call, self.loop).result(20)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks = set()
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                task = asyncio.ensure_future(self._answer(json.loads(line), writer))
                tasks.add(task)
        for task in tasks:
            task.cancel()

    async def _answer(self, call: list[Any], writer: asyncio.StreamWriter) -> None:
        number, method, names, args, options = call
        gvr = GVR(*names)

        def send(*reply: Any) -> None:
            writer.write(json.dumps([number, *reply]).encode() + b"\n")

        with contextlib.suppress(ConnectionError):
            if method == "watch":
                async for item in self.fake.watch(gvr, *args, **options):
                    if isinstance(item, InSync):
                        send("sync", None)
                    else:
                        send("update", [item.key, item.object])
                return
            try:
                send("ok", await getattr(self.fake, method)(gvr, *args, **options))
            except ApiError as error:
                send("error", [error.status, error.reason, error.message, error.details])

    def close(self) -> None:
        # at once, and not when the garbage is collected: other tests compare which sockets listen
        self.loop.call_soon_threadsafe(self._server.close)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)


@dataclass
class Pod:
    """A namespace and the attachment that the real shim made in it."""

    name: str
    node: Node
    container_id: str
    space: Namespace = field(default_factory=Namespace)
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return str(self.result["ips"][0]["address"]).partition("/")[0]

    @property
    def host_name(self) -> str:
        return str(self.result["interfaces"][0]["name"])

    def call(
        self, command: str, *, netns_path: str | None = None, program: str = "podwire", **config: Any
    ) -> tuple[int, str]:
        """The shim as a runtime runs it: (exit code, stdout)."""
        env = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": self.container_id,
            "CNI_IFNAME": "eth0",
            "CNI_NETNS": self.space.path if netns_path is None else netns_path,
            "CNI_PATH": str(self.node.bin_dir),
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={self.name}",
        }
        network = {"cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "podwire", **config}
        if not (self.node.bin_dir / program).exists():  # the name it is called by is the role
            shutil.copy(self.node.bin_dir / "podwire", self.node.bin_dir / program)
        line = ["nsenter", f"--net={self.node.space.path}", str(self.node.bin_dir / program)]
        done = subprocess.run(
            line, env=env, input=json.dumps(network).encode(), capture_output=True, timeout=60, check=False
        )
        return done.returncode, done.stdout.decode()

    def add(self, **config: Any) -> Pod:
        code, output = self.call("ADD", **config)
        assert code == 0, output
        self.result = json.loads(output)
        return self

    def delete(self) -> None:
        code, output = self.call("DEL", prevResult=self.result) if self.result else self.call("DEL")
        assert (code, output) == (0, "")


@dataclass
class Node:
    """A node with its agent's process."""

    name: str
    address: str
    folder: Path
    api: ApiServer
    shim: Path
    space: Namespace = field(default_factory=Namespace)
    agent: subprocess.Popen[bytes] | None = None
    pods: list[Pod] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def bin_dir(self) -> Path:
        return self.folder / "bin"

    @property
    def conflist(self) -> Path:
        return self.folder / "net.d" / "05-podwire.conflist"

    def start(self) -> None:
        config = {
            "node_name": self.name,
            "node_ip": self.address,
            "socket": str(self.folder / "run" / "cni.sock"),
            "conf_dir": str(self.folder / "net.d"),
            "bin_dir": str(self.bin_dir),
            "state_dir": str(self.folder / "state"),
            "shim": str(self.shim),
            **self.settings,
        }
        script = [sys.executable, str(HERE / "agent_process.py"), str(self.api.path), json.dumps(config)]
        log = (self.folder / "agent.log").open("ab")
        self.agent = subprocess.Popen(["nsenter", f"--net={self.space.path}", *script], stdout=log, stderr=log)
        self.wait_ready()

    def wait_ready(self) -> None:
        log = self.folder / "agent.log"
        until("agent ready", lambda: "podwire_ready 1" in self.metrics(), seconds=20, log=log)
        until("conflist written", self.conflist.exists, log=log)  # the last of the files

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.agent is not None:
            self.agent.send_signal(number)
            self.agent.wait(60)  # also a killed process has to wait its turn in the kernel
            self.agent = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def metrics(self) -> str:
        with contextlib.suppress(OSError), self.space.socket() as web:
            web.connect(("127.0.0.1", 9098))
            web.sendall(b"GET /metrics HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")
            return b"".join(iter(lambda: web.recv(65536), b"")).decode()
        return ""

    def writes(self) -> dict[str, float]:
        """What the agent's process has sent to the kernel, by kind."""
        rows = [line.split() for line in self.metrics().splitlines() if line.startswith("podwire_kernel_writes")]
        return {name.split('"')[1]: float(number) for name, number in rows}

    def pod(self, name: str, container_id: str = "") -> Pod:
        pod = Pod(name, self, container_id or f"c-{name}-{len(self.pods)}")
        self.pods.append(pod)
        return pod

    def close(self) -> None:
        self.stop(signal.SIGKILL)
        for pod in self.pods:
            pod.space.close()
        self.space.close()


@dataclass
class World:
    """Everything of one test."""

    api: ApiServer
    nodes: list[Node]
    router: Namespace
    outside: Namespace


def until(what: str, true: Callable[[], bool], seconds: float = 30, log: Path | None = None) -> None:
    """Wait for a condition; fails saying which."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, (
            f"{what}: not within {seconds} s\n{log.read_text() if log and log.exists() else ''}"
        )
        time.sleep(0.02)


def talk(source: Namespace, target: Namespace, address: str, port: int = 8080) -> str:
    """The source address that `target` sees when `source` connects to `address`."""
    with target.listen(address, port) as listener, source.socket() as client:
        client.connect((address, port))
        connection, peer = listener.accept()
        connection.close()
        return str(peer[0])


@pytest.fixture(scope="session")
def shim() -> Path:
    cache = Path(os.environ.get("PODWIRE_CACHE", "/var/cache/podwire"))
    return build.build(cache)


@pytest.fixture
def world(tmp_path: Path, shim: Path) -> Iterator[World]:
    nft.program()  # says what is missing
    assert shutil.which("nsenter"), "nsenter (util-linux) is needed"
    api = ApiServer(tmp_path / "api.sock")
    pool = {
        "cidr": "10.244.0.0/16",
        "blockSize": 26,
        "vxlanMode": "Always",
        "natOutgoing": True,
        "nodeSelector": "all()",
    }
    router, outside = Namespace(), Namespace()
    nodes = []
    try:
        api.do(api.fake.create(IPPOOLS, {"metadata": {"name": "default-ipv4-ippool"}, "spec": pool}))
        with router.links() as links, outside.links() as outer:
            links.set_link(1, up=True)
            bridge = links.add_bridge("podwire0")
            links.set_link(bridge, up=True)
            links.add_address(bridge, "172.18.0.1/16")
            links.set_link(links.add_veth("outside", "eth0", peer_netns=outside.fd), up=True)
            links.add_address(links.link_index("outside") or 0, "203.0.113.1/24")
            outer.set_link(outer.link_index("eth0") or 0, up=True)
            outer.add_address(outer.link_index("eth0") or 0, "203.0.113.10/24")
            outer.add_route("172.18.0.0/16", via="203.0.113.1")
            with netns.inside(router.fd):
                netns.write_sysctl("net/ipv4/ip_forward", "1")
            for number in (1, 2):
                nodes.append(make_node(tmp_path, api, shim, number))
                join(links, bridge, nodes[-1], number)
        for node in nodes:
            node.start()
        yield World(api, nodes, router, outside)
    finally:
        for node in nodes:
            node.close()
        router.close()
        outside.close()
        api.close()


def make_node(folder: Path, api: ApiServer, shim: Path, number: int) -> Node:
    name = f"node{number}"
    (folder / name).mkdir()
    node = Node(name, f"172.18.0.{number + 1}", folder / name, api, shim)
    body = {
        "metadata": {"name": name},
        "spec": {"podCIDR": f"10.244.{number}.0/24", "podCIDRs": [f"10.244.{number}.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": node.address}]},
    }
    api.do(api.fake.create(NODES, body))
    api.do(api.fake.update(NODES, api.do(api.fake.get(NODES, name)) | {"status": body["status"]}, subresource="status"))
    return node


def join(links: RouteSocket, bridge: int, node: Node, number: int) -> None:
    port = links.add_veth(f"n{number}", "eth0", peer_netns=node.space.fd)
    links.set_link(port, up=True, master=bridge)
    with node.space.links() as inner:
        index = inner.link_index("eth0") or 0
        inner.set_link(1, up=True)
        inner.set_link(index, up=True)
        inner.add_address(index, f"{node.address}/16")
        inner.add_route("default", via="172.18.0.1")


@pytest.fixture
def tools() -> ModuleType:
    """This file's functions, for test modules."""
    return sys.modules[__name__]
