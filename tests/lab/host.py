"""A lab of the test's own, and a picture of the host to compare before and after."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from podwire.lab.state import LabState, cache_root
from tests.lab.kubectl import patience, patient

PODWIRE = Path(__file__).parents[2] / ".venv" / "bin" / "podwire"
SYSCTLS = (
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "fs/inotify/max_user_watches",
)
UNITS = ("/etc/systemd", "/lib/systemd", "/usr/lib/systemd", "/etc/init.d", "/etc/cron.d")


class Lab:
    """`podwire lab` with state, home and kubeconfig in a folder of the test's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.labs = folder / "labs"
        self.kubeconfig = folder / "kubeconfig"
        self.wrap: list[str] = []
        self.env = {
            **os.environ,
            "HOME": str(folder),
            "KUBECONFIG": str(self.kubeconfig),
            "PODWIRE_STATE": str(self.labs),
        }

    def __call__(
        self, *words: str, stdin: str = "", code: int | None = 0, seconds: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """`podwire lab WORDS`; the exit code must be `code` (None: any)."""
        done = subprocess.run(
            [*self.wrap, PODWIRE, "lab", *words],
            env=self.env,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=seconds * patience(),
            check=False,
        )
        assert code is None or done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def kubectl(self, *words: str, stdin: str = "") -> str:
        """Standard output of one call; a failure shows both outputs."""
        done = subprocess.run(
            ["kubectl", *patient(words)],
            env=self.env,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60 * patience(),
            check=False,
        )
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def supervisor(self, name: str = "lab") -> int:
        return int(json.loads((self.labs / name / "supervisor.json").read_text())["pid"])

    def processes(self, name: str = "lab") -> dict[str, int]:
        """Host pids of the lab's processes by their title."""
        found, family = {}, {self.supervisor(name)}
        entries = [path for path in Path("/proc").iterdir() if path.name.isdigit()]
        for path in sorted(entries, key=lambda entry: int(entry.name)):
            with contextlib.suppress(OSError):
                parent = int(path.joinpath("stat").read_text().rpartition(")")[2].split()[1])
                if int(path.name) in family or parent in family:
                    family.add(int(path.name))
                    found[path.joinpath("cmdline").read_text().replace("\0", " ").strip()] = int(path.name)
        return found

    def family(self, name: str = "lab") -> dict[int, str]:
        """Every process of the lab: its pid, and its start time, which tells it from a later one of that number."""
        found: dict[int, str] = {}
        top = self.supervisor(name)
        for path in sorted(Path("/proc").glob("[0-9]*"), key=lambda entry: int(entry.name)):
            with contextlib.suppress(OSError):
                fields = path.joinpath("stat").read_text().rpartition(")")[2].split()
                if int(path.name) == top or int(fields[1]) in found:
                    found[int(path.name)] = fields[19]
        return found

    def port(self, name: str = "lab") -> int:
        return int(json.loads((self.labs / name / "port.json").read_text())["port"])

    def cgroups(self, name: str = "lab") -> list[Path]:
        """The cgroup directories of this lab (and of no other test's, which may run beside it)."""
        own = LabState(name, self.labs).cgroup
        return [path for pattern in (own, f"*/{own}") for path in Path("/sys/fs/cgroup").glob(pattern)]

    def sockets(self, name: str = "lab") -> set[str]:
        """Addresses that the lab's supervisor listens on, of those that the host sees."""
        mark = f"pid={self.supervisor(name)},"
        lines = subprocess.run(
            [*program("ss"), "-Hltunp"], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        return {line.split()[4] for line in lines if mark in line}

    def close(self) -> None:
        for entry in self.labs.glob("*"):
            self("down", "--name", entry.name, code=None)


@contextlib.contextmanager
def lab_in(folder: Path) -> Iterator[Lab]:
    lab = Lab(folder)
    try:
        yield lab
    finally:
        lab.close()


def listening(port: int) -> bool:
    """Whether anything of this machine listens there."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def program(name: str) -> list[str]:
    """How to call a program of this machine, or else of the private root (with that root's libraries)."""
    if found := shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin"):
        return [found]
    root = cache_root() / "root/usr"
    libraries = ":".join(str(path) for path in (root / "lib").glob("*-linux-gnu*"))
    found = next(str(path) for where in ("sbin", "bin") if (path := root / where / name).exists())
    return ["env", f"LD_LIBRARY_PATH={libraries}", found]


def picture() -> dict[str, Any]:
    """What a lab must leave as it is, as comparable values: this network namespace, kernel settings, mounts, files."""
    words = {
        "links": ["ip", "-j", "link"],
        "addresses": ["ip", "-j", "addr", "show", "permanent"],
        "routes": ["ip", "-j", "route", "show", "table", "all"],
        "rules": ["ip", "-j", "rule"],
        "netns": ["ip", "netns", "list"],
        "ruleset": ["nft", "-s", "list", "ruleset"],
        "listening": ["ss", "-Hltunx"],
    }
    seen: dict[str, Any] = {}
    for name, (first, *rest) in words.items():
        seen[name] = subprocess.run([*program(first), *rest], capture_output=True, text=True, check=True).stdout
    seen["sysctls"] = sysctls()
    seen["mounts"] = Path("/proc/self/mounts").read_text()
    seen["accounts"] = [Path("/etc", name).read_text() for name in ("passwd", "group") if Path("/etc", name).exists()]
    seen["units"] = sorted(str(path) for top in UNITS for path in Path(top).rglob("*"))
    seen["pins"] = sorted(str(path) for path in Path("/sys/fs/bpf").rglob("*"))
    # mount(8), which some tests call, keeps a folder of its own there
    seen["run"] = sorted(path.name for path in Path("/run").iterdir() if path.name != "mount")
    seen["files"] = {top: Path(top).exists() for top in ("/etc/cni", "/opt/cni", "/var/lib/kubelet", "/var/log/pods")}
    return seen


def sysctls() -> dict[str, str]:
    """Every setting of this network namespace, and a few of the kernel's that a cluster might be tempted to change."""
    found = {}
    for path in [*Path("/proc/sys/net").rglob("*"), *(Path("/proc/sys", name) for name in SYSCTLS)]:
        with contextlib.suppress(OSError):  # some can only be written
            if path.is_file() and path.name != "nf_conntrack_count":
                found[str(path)] = path.read_text()
    return found


def changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What differs. Settings of kernel modules that were loaded meanwhile are no change of any setting."""
    after = {**after, "sysctls": {name: after["sysctls"].get(name) for name in before["sysctls"]}}
    return {name: (before[name], after[name]) for name in before if before[name] != after[name]}


def went_and_came(before: Any, after: Any) -> tuple[list[str], list[str]]:
    """The lines that differ."""
    old, new = (
        [f"{key}: {each}" for key, each in one.items()] if isinstance(one, dict)
        else one.splitlines() if isinstance(one, str) else [str(each) for each in one]
        for one in (before, after)
    )  # fmt: skip
    return [line for line in old if line not in new], [line for line in new if line not in old]


@contextlib.contextmanager
def untouched(folder: Path) -> Iterator[Lab]:
    """A lab whose host must be the same afterwards, with nothing of the lab left."""
    before = picture()
    with lab_in(folder) as lab:
        yield lab
    different = changes(before, picture())
    assert different == {}, {name: went_and_came(*both) for name, both in different.items()}
    assert not lab.cgroups()
    assert not lab.labs.exists()
    assert writers(folder) == []


def writers(folder: Path) -> list[int]:
    """Processes whose standard error is a file below that folder, as a lab's daemons' is."""
    found = []
    for path in Path("/proc").glob("[0-9]*/fd/2"):
        with contextlib.suppress(OSError):
            if str(path.readlink()).startswith(f"{folder}/"):
                found.append(int(path.parts[2]))
    return found
