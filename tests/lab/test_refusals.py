"""What cannot be: a clear error, the right exit code, and nothing left behind. What is damaged can be taken down."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from host import PODWIRE, Lab, lab_in, untouched

from podwire.lab.state import cache_root

pytestmark = pytest.mark.timeout(120)

HEAD = "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\n"
MASK = """kubeadmConfigPatches:
- |
  kind: ClusterConfiguration
  controllerManager: {extraArgs: {node-cidr-mask-size: "24"}}
"""
CLAB = "name: x\ntopology:\n  nodes:\n    k:\n      kind: k8s-kind\n      startup-config: nosuch.yaml\n"


def ended(pid: int) -> bool:
    """Whether the process is gone, or waits only for this machine's init to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with untouched(tmp_path) as one:
        yield one


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "stdin:2: not YAML"),
        ("- a\n", "stdin:1"),
        ("kind: Cluster\n", "stdin:1: needs `kind: Cluster` and `apiVersion: kind.x-k8s.io/v1alpha4`"),
        (HEAD.replace("v1alpha4", "v1alpha3"), "stdin:2: apiVersion: must be kind.x-k8s.io/v1alpha4"),
        (HEAD + "nodes:\n- role: master\n", "stdin:4: nodes[0].role: must be control-plane or worker, not 'master'"),
        (HEAD + "nodes:\n- role: worker\n", "stdin:4: nodes: no node has role control-plane"),
        (HEAD + "nodes: 3\n", "stdin:3: nodes"),
        (HEAD + "networking: {ipFamily: ipv6}\n", "networking.ipFamily"),
        (
            HEAD + "networking:\n  podSubnet: 10.0.0.0\n  serviceSubnet: x\n",
            "networking.serviceSubnet: 'x' is not a subnet",
        ),
        (
            HEAD + "networking: {podSubnet: 10.96.0.0/16}\n",
            "networking.podSubnet: 10.96.0.0/16 overlaps networking.serv",
        ),
        (HEAD + "networking: {podSubnet: 172.18.0.0/16}\n", "overlaps the node network 172.18.0.0/16"),
        (
            HEAD + "networking: {podSubnet: 10.1.0.0/24}\n" + MASK,
            "10.1.0.0/24 is too small: 3 nodes with a /24 each do",
        ),
        (HEAD + "networking: {podSubnet: 10.1.0.0/30}\n", "networking.podSubnet: 10.1.0.0/30 is too small"),
        (HEAD + "networking: {serviceSubnet: 10.1.0.0/29}\n", "networking.serviceSubnet: 10.1.0.0/29 is too small"),
        (HEAD + "name: Not_A_Name\n", "name"),
        (
            HEAD + "nodes:\n- role: control-plane\n  extraMounts:\n  - {hostPath: /x}\n",
            "stdin:6: nodes[0].extraMounts[0]",
        ),
        (CLAB, "stdin:6: topology.nodes.k.startup-config: nosuch.yaml: No such file or directory"),
    ],
)
def test_a_wrong_file_is_refused_with_line_and_key(lab: Lab, text: str, said: str) -> None:
    done = lab("up", "--config", "-", stdin=text, code=2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("up", "--nodes", "0"), 2, "--nodes: 0 is not between 1 and"),
        (("up", "--nodes", "2", "--config", "x"), 2, "--nodes and --config exclude each other"),
        (("up", "--config", "nosuch.yaml"), 2, "nosuch.yaml: No such file or directory"),
        (("up", "--name", "../x"), 2, "../x"),
        (("down", "--name", "nosuch"), 1, "there is no lab named nosuch"),
        (("status",), 1, "there is no lab named lab"),
        (("inspect", "--name", "nosuch"), 1, "there is no lab named nosuch"),
        (("kubeconfig",), 1, "there is no lab named lab"),
        (("exec", "lab-worker", "ls"), 1, "no node is named lab-worker; no lab is up"),
        (("exec", "lab-worker"), 2, "COMMAND"),
        (("load", "nosuch.tar"), 2, "nosuch.tar"),
        (("status", "-o", "xml"), 2, "xml"),
    ],
)
def test_a_wrong_call_is_refused(lab: Lab, words: tuple[str, ...], code: int, said: str) -> None:
    done = lab(*words, code=code)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_down_and_list_where_no_lab_is(lab: Lab) -> None:
    lab.labs.mkdir()
    (lab.labs / ".lab.lock").touch()  # of an `up` that was killed before it had done anything
    assert lab("down").stdout == "There is no lab.\n"
    assert lab("list").stdout == "no lab\n"
    assert lab("list", "-o", "json").stdout == "[]\n"


@pytest.mark.embedded_only("of the programs that the embedded home needs")
@pytest.mark.parametrize(("program", "package"), [("runc", "runc"), ("nft", "nftables"), ("ip", "iproute2")])
def test_a_missing_program_is_named_with_its_package(lab: Lab, program: str, package: str) -> None:
    tops = [Path("/"), cache_root() / "root"]
    there = {path.resolve() for top in tops for where in ("usr/sbin", "usr/bin", "sbin", "bin")
             if (path := top / where / program).exists()}  # fmt: skip
    hide = "".join(f"mount --bind /dev/null {path} && " for path in sorted(there))
    lab.wrap = ["unshare", "--mount", "sh", "-c", f'{hide}exec "$@"', "sh"]
    done = lab("up", code=1)
    assert f"{program} is missing: `apt-get install {package}`" in done.stderr


@pytest.mark.embedded_only("as large as the embedded home needs it")
@pytest.mark.parametrize("size", ["size=16k,nr_inodes=9", "size=64k", "size=150k"])
def test_a_full_disk_under_the_state_is_said_and_leaves_nothing(lab: Lab, size: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    lab.env["PODWIRE_STATE"] = str(disk / "labs")
    script = f'mount -t tmpfs -o {size} full {disk}; "$@"; code=$?; find {disk}; exit $code'
    lab.wrap = ["unshare", "--mount", "sh", "-c", script, "sh"]
    done = lab("up", code=1)
    assert "o space left on" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.splitlines() == [str(disk)]


@pytest.mark.embedded_only("SQLite's way of being full")
def test_a_disk_that_fills_up_costs_writes_and_nothing_else(lab: Lab, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    lab.env["PODWIRE_STATE"] = str(disk / "labs")
    script = f"""
mount -t tmpfs -o size=8m full {disk} && {PODWIRE} lab up --nodes 1 >&2 || exit 1
kubectl create configmap before --from-literal=a=b
head -c 20000000 /dev/zero > {disk}/filler
for n in 1 2 3 4; do kubectl create configmap big$n --from-literal=a=$(head -c 90000 /dev/zero | tr '\\0' x); done
kubectl get configmap before -o name
rm {disk}/filler
kubectl create configmap after --from-literal=a=b
{PODWIRE} lab down; find {disk}
"""
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], env=lab.env, capture_output=True, text=True, timeout=99, check=False
    )
    said = done.stdout.splitlines()
    assert said[:1] == ["configmap/before created"], done
    assert said[-4:] == [
        "configmap/before",
        "configmap/after created",
        "Lab lab is down; nothing of it is left.",
        str(disk),
    ], done
    assert "full" in done.stderr, done


@pytest.mark.embedded_only("as large as the embedded home needs it")
def test_a_full_disk_under_the_cache_is_said_and_leaves_nothing(lab: Lab, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    lab.env["PODWIRE_CACHE"] = str(disk)
    script = f'mount -t tmpfs -o size=2m full {disk}; "$@"; code=$?; du -sk {disk}; exit $code'
    lab.wrap = ["unshare", "--mount", "sh", "-c", script, "sh"]
    done = lab("up", code=1)
    assert f"no space left in {disk}" in done.stderr
    assert "Traceback" not in done.stderr
    assert int(done.stdout.split()[0]) < 100


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plan.json", '{"name": "lab", "no'),
        ("plan.json", '{"name": "lab"}'),
        ("plan.json", "[]"),
        ("supervisor.json", "\0\0\0"),
        ("supervisor.json", '{"pid": "x"}'),
        ("port.json", "8"),
        ("kubeconfig.json", "{"),
    ],
)
def test_a_damaged_file_is_named_and_the_lab_can_be_taken_down(damaged: Lab, name: str, text: str) -> None:
    file = damaged.labs / "lab" / name
    kept = file.read_text()
    file.write_text(text)
    try:
        lines = damaged("list").stdout.splitlines()
        assert lines[1].split()[0] == "lab"
        for verb in ("status", "up"):
            done = damaged(verb, code=None)
            assert "Traceback" not in done.stderr
            if done.returncode:
                assert f"{file} is damaged" in done.stderr
                assert "`podwire lab down --name lab` clears the lab" in done.stderr
    finally:
        if file.exists():
            file.write_text(kept)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab_in(tmp_path_factory.mktemp("damaged")) as one:
        one("up", "--nodes", "1")
        yield one


def test_everything_damaged_at_once_goes_down_all_the_same(lab: Lab) -> None:
    lab("up", "--nodes", "1")
    pid = lab.supervisor()
    for name in ("plan.json", "supervisor.json", "port.json", "kubeconfig.json", "nodes.json"):
        (lab.labs / "lab" / name).write_text('{"tr')
    assert "nothing of it is left" in lab("down").stdout
    assert ended(pid)
    assert "podwire" not in (lab.kubeconfig.read_text() if lab.kubeconfig.exists() else "")


@pytest.mark.embedded_only("of SQLite")
@pytest.mark.parametrize("part", ["head", "middle"])
def test_a_damaged_database_is_said(lab: Lab, part: str) -> None:
    lab("up", "--nodes", "1")
    os.kill(lab.supervisor(), signal.SIGKILL)
    file = lab.labs / "lab/cluster/state.sqlite"
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with file.open("r+b") as data:
        data.seek(0 if part == "head" else 4096)
        data.write(b"garbage!" * 4096)
    done = lab("up", code=1)
    assert f"{file} is damaged" in done.stderr
    assert "`podwire lab down --name lab` clears the lab" in done.stderr
    lab("down")


def test_a_users_kubeconfig_that_is_none_is_left_as_it_is(lab: Lab) -> None:
    lab.kubeconfig.write_text("{ this is not")
    done = lab("up", code=1)
    assert f"{lab.kubeconfig} is not a kubeconfig" in done.stderr
    assert not lab.labs.exists()
    lab.kubeconfig.unlink()
    lab("up", "--nodes", "1")
    lab.kubeconfig.write_text("{ this is not")
    assert "it was left as it is" in lab("down", code=1).stderr
    assert lab.kubeconfig.read_text() == "{ this is not"
    assert not lab.labs.exists()


def test_a_port_in_use_is_said(lab: Lab) -> None:
    mapping = "nodes:\n- role: control-plane\n  extraPortMappings:\n  - {containerPort: 80, hostPort: 31998}\n"
    with socket.create_server(("127.0.0.1", 31998)):
        done = lab("up", "--config", "-", stdin=HEAD + mapping, code=1)
    assert "31998/TCP: Address already in use" in done.stderr


def test_an_up_killed_before_it_wrote_down_its_supervisor_is_cleared(lab: Lab) -> None:
    lab("up", "--nodes", "1")
    pid = lab.supervisor()
    (lab.labs / "lab/supervisor.json").unlink()
    lab("down")
    assert ended(pid)
