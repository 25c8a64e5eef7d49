"""An ordinary user without a capability has a lab; where the kernel forbids that, the message names the setting."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from host import PODWIRE, Lab, changes, lab_in, picture
from kubectl import eventually

from podwire.lab.state import cache_root

USER = 20001


def forbidden() -> bool:
    """Whether the kernel gives ordinary users of this very place no user namespace, whatever its settings say."""
    trial = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "unshare", "--user", "true"]
    return subprocess.run(trial, capture_output=True, check=False).returncode != 0


pytestmark = [
    pytest.mark.embedded_only("kubelet and containerd need root"),
    pytest.mark.timeout(180),
    pytest.mark.skipif(os.geteuid() != 0, reason="becomes an ordinary user, which takes root"),
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is not installed"),
    pytest.mark.skipif(
        os.geteuid() == 0 and shutil.which("setpriv") is not None and forbidden(),
        reason="the kernel allows users no namespaces here, as inside a chroot",
    ),
]

DROP = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")


def opened(path: Path) -> str:
    """Shell words that show `path`, in a mount namespace of one's own, to users whom a directory above it shuts out."""
    shut = [parent for parent in reversed(path.parents) if not parent.stat().st_mode & 1]
    if not shut:
        return ""
    return (
        f"mkdir -p /mnt/hold && mount --bind {path} /mnt/hold && mount -t tmpfs -o mode=755 t {shut[0]} && "
        f"mkdir -p {path} && mount --bind /mnt/hold {path} && umount /mnt/hold && "
    )


def as_user() -> list[str]:
    """What stands before a command that an ordinary user is to run."""
    prefixes = {Path(sys.base_prefix).resolve(), PODWIRE.parents[2]}
    reach = "mount -t tmpfs t /mnt && " + "".join(opened(path) for path in sorted(prefixes))
    return ["unshare", "--mount", "sh", "-c", f'{reach}umount /mnt && exec "$@"', "sh", *DROP]


def processes_of(user: int) -> list[int]:
    """The user's processes, but those that have ended and wait for this machine's init to notice."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            ended = path.joinpath("stat").read_text().rpartition(")")[2].split()[0] in "ZX"
            if path.stat().st_uid == user and not ended:
                found.append(int(path.name))
    return found


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A home that the user reaches and owns, with a cache of the user's own."""
    folder = Path(tempfile.mkdtemp(prefix="podwire-rootless-", dir="/var/tmp"))
    try:
        subprocess.run(["cp", "-r", "--preserve=mode,links", cache_root(), folder / "cache"], check=True)
        subprocess.run(["chown", "-R", f"{USER}:{USER}", folder], check=True)
        yield folder
    finally:
        shutil.rmtree(folder)


def of_user(home: Path) -> Lab:
    lab = Lab(home)
    lab.wrap = as_user()
    del lab.env["PODWIRE_STATE"]
    lab.labs = home / ".local/share/podwire/labs"
    lab.env = {name: value for name, value in lab.env.items() if not name.startswith("XDG_")}
    lab.env["PODWIRE_CACHE"] = str(home / "cache")
    return lab


@pytest.fixture(scope="module")
def lab(home: Path) -> Iterator[Lab]:
    before = picture()
    one = of_user(home)
    try:
        one("up")
        assert set(changes(before, picture())) == {"listening"}
        one.kubectl("create", "deployment", "web", "--image=nginx", "--replicas=2")
        one.kubectl("rollout", "status", "deployment/web", "--timeout=30s")
        yield one
        assert "nothing of it is left" in one("down").stdout
    finally:
        one.close()
    assert changes(before, picture()) == {}
    assert not one.labs.exists()
    assert not one.kubeconfig.exists()
    assert processes_of(USER) == []


def pods(lab: Lab) -> list[dict[str, str]]:
    items = json.loads(lab.kubectl("get", "pods", "-l", "app=web", "-o", "json"))["items"]
    return [{"name": pod["metadata"]["name"], **pod["status"], **pod["spec"]} for pod in items]


def test_every_process_is_the_users(lab: Lab) -> None:
    family = lab.processes().values()
    assert len(family) > 12
    assert set(family) <= set(processes_of(USER))
    status = Path(f"/proc/{lab.supervisor()}/status").read_text()
    assert f"Uid:\t{USER}\t{USER}\t{USER}\t{USER}" in status


def reach(lab: Lab, here: dict[str, str], there: dict[str, str]) -> bool:
    """Whether a web page comes from one pod to the other."""
    words = ("exec", here["name"], "--", "curl", "-sS", "-m", "3", f"http://{there['podIP']}")
    done = subprocess.run(["kubectl", *words], env=lab.env, capture_output=True, text=True, check=False)
    return "Welcome to nginx!" in done.stdout


def test_pods_reach_one_another_across_nodes(lab: Lab) -> None:
    one, two = pods(lab)
    assert one["nodeName"] != two["nodeName"]
    for here, there in ((one, two), (two, one)):
        assert reach(lab, here, there)
        seen = f"{here['podIP']} - - "
        eventually(lambda seen=seen, there=there: seen in lab.kubectl("logs", there["name"]))


def test_nodes_can_be_looked_into(lab: Lab) -> None:
    assert lab("exec", "lab-worker", "id", "-u").stdout == "0\n"
    assert "vxlan.calico" in lab("exec", "lab-worker", "ip", "link").stdout
    assert "table ip podwire" in lab("exec", "lab-worker", "nft", "list", "tables").stdout
    assert lab("exec", "lab-worker2", "curl", "-s", "http://203.0.113.10").stdout == "172.18.0.4\n"
    seen = json.loads(lab("status", "-o", "json").stdout)
    assert [node["ready"] for node in seen["nodes"]] == ["Ready"] * 3
    assert seen["memory_bytes"] > 50e6


def test_a_user_that_does_not_exist_here_is_said(lab: Lab) -> None:
    spec = {"containers": [{"name": "c", "image": "busybox", "securityContext": {"runAsUser": 1000}}]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "other"}, "spec": spec}
    lab.kubectl("create", "-f", "-", stdin=json.dumps(pod))
    words = "user 1000 does not exist in a lab that runs without root and without subordinate ids (/etc/subuid"
    eventually(lambda: words in lab.kubectl("describe", "pod", "other"), 20)
    lab.kubectl("delete", "pod", "other")


def test_a_node_comes_back_after_its_init_was_killed(lab: Lab) -> None:
    os.kill(lab.processes()["podwire node lab-worker"], 9)
    eventually(lambda: "podwire kubelet lab-worker" in lab.processes(), 20)
    eventually(lambda: all(pod["podIP"] for pod in pods(lab)) and reach(lab, *pods(lab)), 30)


def test_the_cache_of_another_is_refused(home: Path) -> None:
    lab = of_user(home)
    lab.env["PODWIRE_CACHE"] = "/usr"
    assert "/usr belongs to another user" in lab("up", "--name", "other", code=1).stderr
    assert not (lab.labs / "other").exists()


FORBID = """
import os, sys
from pathlib import Path
from podwire.lab import syscalls
ready, go = os.pipe(), os.pipe()
pid = os.fork()
if pid == 0:
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    os.write(ready[1], b"1")
    os.read(go[0], 1)
    os.setuid(0)
    Path("/proc/sys/user/max_user_namespaces").write_text("0")
    os.execvp(sys.argv[1], sys.argv[1:])
os.read(ready[0], 1)
for name in ("uid_map", "gid_map"):
    Path(f"/proc/{pid}/{name}").write_text("0 0 65536")
os.write(go[1], b"1")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_where_user_namespaces_are_forbidden_the_setting_is_named(home: Path) -> None:
    lab = of_user(home)
    lab.wrap = [*lab.wrap[: -len(DROP)], sys.executable, "-c", FORBID, *DROP]
    before = picture()
    done = lab("up", "--name", "forbidden", code=1)
    assert "this kernel forbids user namespaces without root" in done.stderr
    assert "sysctl -w user.max_user_namespaces=" in done.stderr
    assert "Traceback" not in done.stderr
    assert changes(before, picture()) == {}
    assert not (lab.labs / "forbidden").exists()


def test_root_without_the_capability_is_told_so(tmp_path: Path) -> None:
    with lab_in(tmp_path) as lab:
        lab.wrap = ["setpriv", "--inh-caps=-sys_admin", "--bounding-set=-sys_admin"]
        done = lab("up", code=1)
        assert "this root has no CAP_SYS_ADMIN" in done.stderr
        assert not lab.labs.exists()
        assert not lab.cgroups()
