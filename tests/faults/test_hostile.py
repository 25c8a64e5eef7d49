"""Input that is cut off, huge, or meant to break: a clear refusal, and the next call is served."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from podwire.kubelet.children import Children
from podwire.kubelet.cniconf import CniError
from podwire.kubelet.cnirun import Attachment, CniRunner
from tests.faults.conftest import Site
from tests.netns.agent.conftest import until

GOOD = {"cniVersion": "1.1.0", "name": "k8s-pod-network", "type": "podwire"}
WHOLE = json.dumps(GOOD).encode()


def environment(site: Site, path: str, **changed: str) -> dict[str, str]:
    env = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "one",
        "CNI_IFNAME": "eth0",
        "CNI_NETNS": path,
        "CNI_PATH": str(site.node.bin_dir),
        "CNI_ARGS": "",
    }
    return {name: value for name, value in (env | changed).items() if value != "-"}


INPUTS = [
    (b"", 6),
    (WHOLE[:-1], 6),
    (b"[" * 100_000, 6),
    (b"null", 6),
    (b"\xff\xfe\x00garbage", 6),
    (WHOLE + WHOLE, 6),
    (b'{"cniVersion": 7, "name": "n", "type": "podwire"}', 1),
    (b'{"cniVersion": "1.1.0", "name": 7, "type": "podwire"}', 7),
    (json.dumps(GOOD | {"name": "../../etc"}).encode(), 7),
    (json.dumps(GOOD | {"name": "n" * 5000}).encode(), 7),
    (json.dumps(GOOD | {"runtimeConfig": ["portMappings"]}).encode(), 7),
    (json.dumps(GOOD | {"runtimeConfig": []}).encode(), 7),
    (json.dumps(GOOD | {"runtimeConfig": ""}).encode(), 7),
    (json.dumps(GOOD | {"runtimeConfig": False}).encode(), 7),
    (json.dumps(GOOD | {"runtimeConfig": {"portMappings": "80"}}).encode(), 7),
    (json.dumps(GOOD | {"runtimeConfig": {"portMappings": [{"hostPort": 1 << 40, "containerPort": 1}]}}).encode(), 7),
    (json.dumps(GOOD | {"runtimeConfig": {"bandwidth": {"ingressRate": -1, "ingressBurst": 1}}}).encode(), 7),
    (json.dumps(GOOD | {"runtimeConfig": {"mac": "ff:ff:ff:ff:ff:ff"}}).encode(), 7),
    (json.dumps(GOOD | {"runtimeConfig": {"ips": ["not an address"]}}).encode(), 7),
    (json.dumps(GOOD | {"prevResult": "yes"}).encode(), 6),
]


@pytest.mark.parametrize(("stdin", "code"), INPUTS, ids=lambda value: str(value)[:40])
def test_stdin(shared: Site, stdin: bytes, code: int) -> None:
    exit_code, output = shared.run(environment(shared, shared.space().path), stdin)
    answer = json.loads(output)
    assert (exit_code, answer["code"]) == (1, code), answer
    assert answer["msg"]
    serves(shared)


def test_stdin_beyond_the_limit(shared: Site) -> None:
    exit_code, output = shared.run(environment(shared, shared.space().path), b'{"x":"' + b"y" * (2 << 20) + b'"}')
    assert (exit_code, json.loads(output)["code"]) == (1, 5)
    serves(shared)


VARIABLES: list[tuple[dict[str, str], int]] = [
    ({"CNI_CONTAINERID": "-"}, 4),
    ({"CNI_CONTAINERID": "../../../etc/passwd"}, 4),
    ({"CNI_CONTAINERID": "a" * 100_000}, 4),
    ({"CNI_CONTAINERID": "a\nb"}, 4),
    ({"CNI_IFNAME": "a-name-longer-than-linux-has-room"}, 4),
    ({"CNI_IFNAME": ".."}, 4),
    ({"CNI_IFNAME": "a/b"}, 4),
    ({"CNI_IFNAME": "eth 0"}, 4),
    ({"CNI_COMMAND": "EXPLODE"}, 4),
    ({"CNI_ARGS": "no equals sign"}, 4),
    ({"CNI_NETNS": "-"}, 4),
    ({"CNI_NETNS": "/nowhere/at/all"}, 4),
    ({"CNI_NETNS": "/dev/null"}, 4),
    ({"CNI_NETNS": "/proc/self/ns/uts"}, 4),
    ({"CNI_NETNS": "/etc/hostname"}, 4),
    ({"CNI_NETNS": "/tmp"}, 4),
]


@pytest.mark.parametrize(("changed", "code"), VARIABLES, ids=lambda value: str(value)[:50])
def test_environment(shared: Site, changed: dict[str, str], code: int) -> None:
    exit_code, output = shared.run(environment(shared, shared.space().path, **changed), WHOLE)
    answer = json.loads(output)
    assert (exit_code, answer["code"]) == (1, code), answer
    assert answer["msg"]
    serves(shared)


@pytest.mark.parametrize("sent", [True, False], ids=["by descriptor", "by path"])
def test_a_fifo_for_a_namespace(shared: Site, tmp_path: Path, sent: bool) -> None:
    """Opening one waits for a writer who never comes: neither the executable nor the agent may."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    env = environment(shared, str(fifo))
    if sent:
        code, output = shared.run(env, WHOLE)
    else:
        code, output = _without_descriptor(shared, env)
    assert (code, json.loads(output)["code"]) == (1, 4), output
    serves(shared)


def _without_descriptor(site: Site, env: dict[str, str]) -> tuple[int, str]:
    """The answer to a caller that leaves the opening to the agent."""
    block = "".join(f"{name}={value}\0" for name, value in ({"PODWIRE_ROLE": "podwire"} | env).items()).encode()
    with _connected(site) as client:
        client.sendall(struct.pack("=I", len(block)) + block + struct.pack("=I", len(WHOLE)) + WHOLE)
        whole = b"".join(iter(lambda: client.recv(65536), b""))
    return whole[0], whole[5:].decode()


def test_the_nodes_own_namespace(shared: Site) -> None:
    exit_code, output = shared.run(environment(shared, shared.node.space.path), WHOLE)
    assert (exit_code, json.loads(output)["code"]) == (1, 8), output
    serves(shared)


def test_names_of_pods_of_any_length(shared: Site) -> None:
    """A pod's name may have 253 characters, and one that no API would take still makes no name of an interface."""
    for name in ("n" * 253, "ä" * 100, "a b", "../.."):
        space = shared.space()
        args = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name}"
        env = environment(shared, space.path, CNI_ARGS=args, CNI_CONTAINERID="long")
        code, output = shared.run(env, WHOLE)
        assert code == 0 or json.loads(output)["code"] in (4, 7), output
        if code == 0:
            assert shared.run(env | {"CNI_COMMAND": "DEL"}, WHOLE) == (0, "")
    shared.clean()


def _cut(whole: bytes) -> bytes:
    return whole[: len(whole) // 2]


def _lying(whole: bytes) -> bytes:
    return struct.pack("=I", 0xFFFFFFFF) + whole[4:]


def _longer(whole: bytes) -> bytes:
    return whole + b"more"


@pytest.mark.parametrize("spoil", [_cut, _lying, _longer, lambda _: b"", lambda _: b"GET / HTTP/1.1\r\n\r\n"])
def test_the_agents_socket(shared: Site, spoil: Callable[[bytes], bytes]) -> None:
    """What does not keep to the protocol is dropped, also when it never ends."""
    block = b"PODWIRE_ROLE=podwire\0CNI_COMMAND=ADD\0"
    whole = struct.pack("=I", len(block)) + block + struct.pack("=I", len(WHOLE)) + WHOLE
    silent = [_connected(shared) for _ in range(50)]
    with _connected(shared) as client:
        client.sendall(spoil(whole))
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) in (b"", b"\x01")
    serves(shared)
    for client in silent:
        client.close()


def _connected(site: Site) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20)
    client.connect(str(site.node.folder / "run" / "cni.sock"))
    return client


def serves(site: Site) -> None:
    """The next call is an ordinary one."""
    space = site.space()
    site.add("next", space)
    site.delete("next", space)
    site.clean()


async def test_a_plugin_behind_ours_that_is_missing(shared: Site, tmp_path: Path) -> None:
    """The ADD fails and says which file was looked for where; the DEL of the whole chain gives everything of ours back,
    though the plugin behind is as missing then."""
    plugins = [{"type": "podwire"}, {"type": "no-such-plugin"}]
    (tmp_path / "10-chain.conflist").write_text(json.dumps(GOOD | {"plugins": plugins}))
    cni = CniRunner(Children(), tmp_path, (shared.node.bin_dir, Path("/nowhere/else")), tmp_path / "cache")
    attachment = Attachment("chain", shared.space().path, "default", "chain")
    with pytest.raises(CniError) as refused:
        await cni.add(attachment)
    where = f"[{shared.node.bin_dir} /nowhere/else]"
    assert (
        str(refused.value)
        == f'plugin type="no-such-plugin" failed (add): failed to find plugin "no-such-plugin" in path {where}'
    )
    # an address claimed ahead comes under the pod's name a moment after the answer
    until("ours is first and has done its part", lambda: bool(shared.held().get("chain")))
    with pytest.raises(CniError, match="no-such-plugin"):
        await cni.delete(attachment)
    shared.delete("chain", None)  # what the runtime's GC, or the plugin back in its place, comes to
    shared.delete("chain", None)
    shared.clean()


def test_a_role_that_nobody_has(shared: Site) -> None:
    link = shared.node.bin_dir / "no-such-role"
    link.symlink_to("podwire")
    try:
        code, answer = shared.call("ADD", "role", shared.space().path, role="no-such-role")
    finally:
        link.unlink()
    assert (code, answer["code"]) == (1, 7)
    assert "no-such-role" in answer["msg"] + answer.get("details", "")
