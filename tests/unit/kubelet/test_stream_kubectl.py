"""The real kubectl against the kubelet's streaming handler: exec, cp, attach, logs and port-forward, over both wires.

A toy API on loopback answers discovery and the pod; what it passes on are ordinary local processes and files.
"""

import asyncio
import contextlib
import datetime
import errno
import json
import os
import pty
import shutil
import signal
import socket
import ssl
import subprocess
import termios
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from podwire.http.server import Request, Response, Takeover, serve
from podwire.kubelet.runtime import RuntimeFailure
from podwire.kubelet.stream import RunningContainer, handler

KUBECTL = shutil.which("kubectl")
pytestmark = [pytest.mark.skipif(KUBECTL is None, reason="kubectl is not on PATH")]
WITHIN = 60
"""Seconds until a step counts as failed. None takes more than a few, however busy the machine."""

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "namespace": "default", "uid": "u1"},
    "spec": {"nodeName": "n", "containers": [{"name": "app", "image": "x", "stdin": True}]},
    "status": {"phase": "Running", "containerStatuses": [{"name": "app", "state": {"running": {}}}]},
}
TTY_POD = {**POD, "metadata": {"name": "term", "namespace": "default", "uid": "u2"}}
TTY_POD["spec"] = {"nodeName": "n", "containers": [{"name": "app", "image": "x", "stdin": True, "tty": True}]}
RESOURCES = {
    "kind": "APIResourceList",
    "apiVersion": "v1",
    "groupVersion": "v1",
    "resources": [{"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "verbs": ["get", "list"]}],
}


@dataclass
class LocalProcess:
    """A local process in the shape of `remotecommand.Process`."""

    stdin: int | None
    stdout: int | None
    stderr: int | None
    child: subprocess.Popen[bytes]

    def resize(self, rows: int, columns: int) -> None:
        assert self.stdout is not None
        termios.tcsetwinsize(self.stdout, (rows, columns))
        self.child.send_signal(signal.SIGWINCH)

    async def wait(self) -> int:
        while self.child.poll() is None:
            await asyncio.sleep(0.01)
        return self.child.returncode if self.child.returncode >= 0 else 128 - self.child.returncode

    def kill(self) -> None:
        self.child.kill()


def spawn(argv: list[str], *, tty: bool, stdin: bool) -> LocalProcess:
    if tty:
        master, slave = pty.openpty()
        child = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        os.set_blocking(master, False)
        return LocalProcess(master, master, None, child)
    ends = [os.pipe() for _ in range(3)]
    mine, theirs = [ends[0][1], ends[1][0], ends[2][0]], [ends[0][0], ends[1][1], ends[2][1]]
    child = subprocess.Popen(argv, stdin=theirs[0], stdout=theirs[1], stderr=theirs[2], start_new_session=True)
    for fd in theirs:
        os.close(fd)
    for fd in mine:
        os.set_blocking(fd, False)
    if not stdin:
        os.close(mine[0])
    return LocalProcess(mine[0] if stdin else None, mine[1], mine[2], child)


class Lookup:
    """One pod whose container is this machine."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.children: list[LocalProcess] = []
        self.attached = ["sh", "-c", "read line; echo got $line; exit 4"]

    def find(self, namespace: str, pod: str, container: str) -> RunningContainer | None:
        if (namespace, container) not in (("default", "app"), ("default", "")) or pod not in ("web", "term"):
            return None
        tty = pod == "term"
        return RunningContainer("c1", tty, True, (self.log,), lambda: self.start(self.attached, tty, True), "")

    def start(self, argv: list[str], tty: bool, stdin: bool) -> LocalProcess:
        self.children.append(spawn(argv, tty=tty, stdin=stdin))
        return self.children[-1]

    async def exec(self, container_id: str, argv: list[str], *, tty: bool, stdin: bool) -> LocalProcess:
        if shutil.which(argv[0]) is None:
            raise RuntimeFailure(f'exec: "{argv[0]}": executable file not found in $PATH')
        return self.start(argv, tty, stdin)


@dataclass
class Lab:
    lookup: Lookup
    config: Path
    home: Path

    async def run(
        self, *arguments: str, stdin: bytes | None = None, wire: str = "websocket"
    ) -> tuple[int, bytes, bytes]:
        process = await self.start(*arguments, stdin=stdin is not None, wire=wire)
        out, err = await asyncio.wait_for(process.communicate(stdin), WITHIN)
        return process.returncode or 0, out, err

    async def start(
        self, *arguments: str, stdin: bool, wire: str, terminal: int | None = None
    ) -> asyncio.subprocess.Process:
        """kubectl, running. With a terminal that is its input and output; its errors come by a pipe in any case."""
        on = "true" if wire == "websocket" else "false"
        names = ("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "KUBECTL_PORT_FORWARD_WEBSOCKETS")
        environment = {**os.environ, "HOME": str(self.home), **dict.fromkeys(names, on)}
        pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        assert KUBECTL is not None
        return await asyncio.create_subprocess_exec(
            KUBECTL,
            f"--kubeconfig={self.config}",
            *arguments,
            env=environment,
            stdin=(pipe if stdin else nothing) if terminal is None else terminal,
            stdout=pipe if terminal is None else terminal,
            stderr=pipe,
            start_new_session=terminal is not None,
        )


def certificate(directory: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - datetime.timedelta(days=1))
    built = builder.not_valid_after(now + datetime.timedelta(days=1)).sign(key, hashes.SHA256())
    file = directory / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + built.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


def toy_api(lookup: Lookup) -> Any:
    kubelet = handler(lookup)
    verbs = {"exec": "exec", "attach": "attach", "portforward": "portForward", "log": "containerLogs"}
    plain: dict[str, Any] = {
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
        "/api/v1": RESOURCES,
        "/api/v1/namespaces/default/pods/web": POD,
        "/api/v1/namespaces/default/pods/term": TTY_POD,
    }

    async def handle(request: Request) -> Response | Takeover:
        if request.path in plain:
            return Response(200, json.dumps(plain[request.path]).encode())
        parts = request.path.split("/")
        if len(parts) == 8 and parts[7] in verbs:
            container = "" if parts[7] == "portforward" else "/" + request.argument("container", "app")
            query = dict(request.query)
            for ours, theirs in (("stdin", "input"), ("stdout", "output"), ("stderr", "error")):
                if request.argument(ours) == "true":
                    query[theirs] = ["1"]
            path = f"/{verbs[parts[7]]}/default/{parts[6]}{container}"
            return await kubelet(
                Request(request.method, path, path, query, request.headers, request.body, request.peer)
            )
        return Response(
            404, json.dumps({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404}).encode()
        )

    return handle


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    log = tmp_path / "0.log"
    log.write_text(
        "2026-01-01T00:00:00.000000001Z stdout F one\n"
        "2026-01-01T00:00:01.000000001Z stderr P tw\n"
        "2026-01-01T00:00:01.000000001Z stderr F o\n"
        "2026-01-01T00:00:02.000000001Z stdout F three\n"
    )
    sock = socket.create_server(("127.0.0.1", 0))
    lookup = Lookup(log)
    server = await serve(toy_api(lookup), [sock], certificate(tmp_path))
    config = tmp_path / "kubeconfig"
    address = f"https://127.0.0.1:{sock.getsockname()[1]}"
    config.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "t",
                "clusters": [{"name": "t", "cluster": {"server": address, "insecure-skip-tls-verify": True}}],
                "users": [{"name": "t", "user": {"token": "x"}}],
                "contexts": [{"name": "t", "context": {"cluster": "t", "user": "t"}}],
            }
        )
    )
    yield Lab(lookup, config, tmp_path)
    await server.close()
    for child in lookup.children:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.child.pid, signal.SIGKILL)  # with what it left in the background
        child.child.wait()


async def said(client: asyncio.subprocess.Process) -> bytes:
    """kubectl's next line; fails with its errors when it has ended or says nothing."""
    assert client.stdout is not None and client.stderr is not None
    line = b""
    with contextlib.suppress(TimeoutError):
        line = await asyncio.wait_for(client.stdout.readline(), WITHIN)
    if not line:
        with contextlib.suppress(ProcessLookupError):
            client.kill()
        pytest.fail(f"kubectl said nothing more; its errors: {await client.stderr.read()!r}")
    return line


both = pytest.mark.parametrize("wire", ["websocket", "spdy"])


@both
async def test_exec_gives_output_errors_and_exit_code(lab: Lab, wire: str) -> None:
    code, out, err = await lab.run("exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 7", wire=wire)
    assert (code, out) == (7, b"out\n"), err
    assert err.startswith(b"err\n") and b"exit code 7" in err


@both
async def test_exec_success_is_quiet(lab: Lab, wire: str) -> None:
    assert await lab.run("exec", "web", "--", "true", wire=wire) == (0, b"", b"")


@both
async def test_exec_closes_stdin_when_the_client_does(lab: Lab, wire: str) -> None:
    code, out, err = await lab.run("exec", "-i", "web", "--", "wc", "-c", stdin=b"x" * 300_000, wire=wire)
    assert (code, out.strip(), err) == (0, b"300000", b"")


@both
async def test_exec_of_a_missing_program_says_so(lab: Lab, wire: str) -> None:
    code, out, err = await lab.run("exec", "web", "--", "no-such-program", wire=wire)
    assert (code, out) == (1, b""), err
    assert b"executable file not found" in err


@both
async def test_exec_in_a_missing_container_is_refused(lab: Lab, wire: str) -> None:
    code, _, err = await lab.run("exec", "web", "-c", "nope", "--", "true", wire=wire)
    assert code == 1 and b"nope" in err, (code, err)


@both
async def test_large_transfers_arrive_whole(lab: Lab, wire: str, tmp_path: Path) -> None:
    source, target, back = tmp_path / "big", tmp_path / "there" / "big", tmp_path / "back"
    target.parent.mkdir()
    source.write_bytes(os.urandom(1 << 20) * 20)
    code, _, err = await lab.run("cp", str(source), f"web:{target}", wire=wire)
    assert code == 0, err
    assert target.read_bytes() == source.read_bytes()
    code, _, err = await lab.run("cp", f"web:{target}", str(back), wire=wire)
    assert code == 0, err
    assert back.read_bytes() == source.read_bytes()


@both
async def test_a_process_ends_with_its_client(lab: Lab, wire: str) -> None:
    client = await lab.start("exec", "web", "--", "sh", "-c", "echo on; exec sleep 60", stdin=False, wire=wire)
    assert client.stdout is not None
    assert await said(client) == b"on\n"
    client.kill()
    await client.wait()
    assert await asyncio.wait_for(lab.lookup.children[0].wait(), WITHIN) == 128 + signal.SIGKILL


@both
async def test_output_left_open_by_a_background_process_does_not_hold_the_client(lab: Lab, wire: str) -> None:
    started = time.monotonic()
    code, out, err = await lab.run("exec", "web", "--", "sh", "-c", f"sleep {2 * WITHIN} & echo done", wire=wire)
    assert (code, out) == (0, b"done\n"), err
    assert time.monotonic() - started < WITHIN


@both
async def test_exec_with_a_terminal_knows_its_size(lab: Lab, wire: str) -> None:
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (31, 97))
    command = 'until [ "$(stty size)" = "31 97" ]; do sleep 0.05; done; stty size; read x; echo "<$x>"'
    client = await lab.start("exec", "-it", "web", "--", "sh", "-c", command, stdin=True, wire=wire, terminal=slave)
    os.close(slave)
    os.set_blocking(master, False)
    seen, typed, deadline = b"", False, time.monotonic() + WITHIN
    while (more := terminal_read(master)) is not None and time.monotonic() < deadline:
        seen += more
        if b"31 97" in seen and not typed:
            typed = os.write(master, b"typed\n") > 0
        await asyncio.sleep(0.02)
    if more is not None:
        client.kill()
    _, err = await asyncio.wait_for(client.communicate(), WITHIN)
    os.close(master)
    assert client.returncode == 0 and b"<typed>" in seen, (client.returncode, seen, err)


def terminal_read(master: int) -> bytes | None:
    """What there is now; None at the end, which is the second EIO: the first may come before the last bytes."""
    for _ in range(2):
        try:
            return os.read(master, 4096)
        except BlockingIOError:
            return b""
        except OSError as error:
            assert error.errno == errno.EIO
    return None


@both
async def test_attach_talks_to_the_container_and_does_not_tell_its_exit_code(lab: Lab, wire: str) -> None:
    code, out, err = await lab.run("attach", "-i", "web", stdin=b"hello\n", wire=wire)
    assert (code, out) == (0, b"got hello\n"), err


@both
async def test_port_forward_carries_many_connections_and_tells_refusals(lab: Lab, wire: str) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    pod = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = pod.sockets[0].getsockname()[1]
    spare = socket.socket()  # bound, so that nobody else gets the port, and not listening, so that it refuses
    spare.bind(("127.0.0.1", 0))
    closed = spare.getsockname()[1]
    client = await lab.start("port-forward", "pod/web", f":{port}", f":{closed}", stdin=False, wire=wire)
    assert client.stdout is not None and client.stderr is not None
    try:
        locals_ = []
        async with asyncio.timeout(WITHIN):
            while len(locals_) < 2:
                line = (await said(client)).decode()
                if line.startswith("Forwarding from 127.0.0.1:"):
                    locals_.append(int(line.split(":")[1].split(" ")[0]))

        async def call(size: int) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", locals_[0])
            payload = os.urandom(size)
            writer.write(payload)
            writer.write_eof()
            assert await asyncio.wait_for(reader.read(-1), WITHIN) == payload
            writer.close()

        await asyncio.gather(*(call(size) for size in (1, 1000, 100_000, 2_000_000)))
        reader, writer = await asyncio.open_connection("127.0.0.1", locals_[1])
        assert await asyncio.wait_for(reader.read(), WITHIN) == b""
        writer.close()
        words = b""
        async with asyncio.timeout(WITHIN):
            while b"refused" not in words:
                line_of_errors = await client.stderr.readline()
                assert line_of_errors, words
                words += line_of_errors
    finally:
        with contextlib.suppress(ProcessLookupError):
            client.kill()
        await client.wait()
        pod.close()
        spare.close()


async def test_logs(lab: Lab) -> None:
    assert (await lab.run("logs", "web"))[1] == b"one\ntwo\nthree\n"
    assert (await lab.run("logs", "web", "--tail=1"))[1] == b"three\n"
    assert (await lab.run("logs", "web", "--tail=2"))[1] == b"two\nthree\n"
    assert (await lab.run("logs", "web", "--since-time=2026-01-01T00:00:02Z"))[1] == b"three\n"
    assert (await lab.run("logs", "web", "--limit-bytes=5"))[1] == b"one\nt"
    assert (await lab.run("logs", "web", "--timestamps", "--tail=1"))[1] == b"2026-01-01T00:00:02.000000001Z three\n"
    code, _, err = await lab.run("logs", "web", "--previous")
    assert code == 1 and b"previous terminated container" in err


async def test_logs_follow(lab: Lab) -> None:
    client = await lab.start("logs", "-f", "web", "--tail=1", stdin=False, wire="websocket")
    assert await said(client) == b"three\n"
    with lab.lookup.log.open("a") as file:
        file.write("2026-01-01T00:00:03.000000001Z stdout F four\n")
    assert await said(client) == b"four\n"
    lab.lookup.log.rename(lab.lookup.log.with_name("0.log.old"))
    lab.lookup.log.write_text("2026-01-01T00:00:04.000000001Z stdout F five\n")
    assert await said(client) == b"five\n"
    client.kill()
    await client.wait()
