"""`modules.py FOLDER [NAME…]`: programs of a genuine cluster, built of Go modules into FOLDER/bin; prints that folder.

A NAME is a program's, or that of its module's folder beside this page; without one everything is built. What was built
of the same go.mod, go.sum, sources and settings is left alone. A program appears in one step, when it is whole.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from podwire.kubelet import debroot

HERE = Path(__file__).parent
SETUP = HERE.parent.parent / "tools/setup"
TEST = "test:"
"""Before a package: its tests are the program."""
_NOT_HAD = re.compile(
    r"reading https?://|dial tcp|no such host|lookup disabled|TLS handshake|verifying module|unknown revision"
)


@dataclass(frozen=True, slots=True)
class Module:
    """A folder with a go.mod (or a C source), and what is built of it."""

    folder: str
    programs: dict[str, str]
    """A program's name and its package: an import path, or one relative to the folder."""
    project: str = ""
    """The Go module that is meant by it; its version, as in go.mod, replaces `$VERSION` in `link`."""
    tags: str = ""
    link: str = ""
    gigabytes: float = 0.6
    """Of disk for the program and Go's caches, when nothing is in them."""

    @property
    def version(self) -> str:
        if not self.project:
            return ""
        found = re.search(rf"{re.escape(self.project)} (v\S+)", (HERE / self.folder / "go.mod").read_text())
        assert found is not None, f"{self.folder}/go.mod does not require {self.project}"
        return found[1]


_V = "k8s.io/component-base/version"
_CONTAINERD = "github.com/containerd/containerd/v2"
_PLUGINS = "github.com/containernetworking/plugins"
MODULES = (
    Module(
        "etcd",
        {"etcd": "go.etcd.io/etcd/server/v3", "etcdctl": "go.etcd.io/etcd/etcdctl/v3"},
        "go.etcd.io/etcd/server/v3",
    ),
    Module("pause", {"pause": "pause.c"}, gigabytes=0.1),
    Module(
        "runc",
        {"runc": "github.com/opencontainers/runc"},
        "github.com/opencontainers/runc",
        "seccomp netgo osusergo",  # without seccomp no sandbox starts: the kubelet asks for RuntimeDefault
        "-linkmode external -extldflags -static",
    ),
    Module(
        "containerd",
        {name: f"{_CONTAINERD}/cmd/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")},
        _CONTAINERD,
        "no_btrfs no_devmapper no_zfs",
        f"-X {_CONTAINERD}/version.Version=$VERSION",
    ),
    Module(
        "kubernetes",
        {
            f"kube{name}": f"k8s.io/kubernetes/cmd/kube{name}"
            for name in ("-apiserver", "-controller-manager", "-proxy", "-scheduler", "ctl", "let")
        }
        | {"agnhost": "k8s.io/kubernetes/test/images/agnhost", "netconf.test": f"{TEST}./netconf"},
        "k8s.io/kubernetes",
        # else they carry a placeholder, and clients distrust it
        link=f"-X {_V}.gitVersion=$VERSION -X {_V}.gitMajor=1 -X {_V}.gitMinor=36 -X {_V}.gitTreeState=clean",
        gigabytes=6,
    ),
    Module(
        "../conformance/go",
        {"cnitool": "github.com/containernetworking/cni/cnitool", "host-local": f"{_PLUGINS}/plugins/ipam/host-local"}
        | {name: f"{_PLUGINS}/plugins/main/{name}" for name in ("bridge", "loopback", "macvlan", "ptp")}
        | {name: f"{_PLUGINS}/plugins/meta/{name}" for name in ("bandwidth", "portmap", "tuning")},
        _PLUGINS,
    ),
    Module("coredns", {"coredns": "."}, "github.com/coredns/coredns"),
    Module(
        "crictl",
        {"crictl": "sigs.k8s.io/cri-tools/cmd/crictl"},
        "sigs.k8s.io/cri-tools",
        link="-X sigs.k8s.io/cri-tools/pkg/version.Version=$VERSION",
    ),
    Module("flannel", {"flannel": f"{_PLUGINS}/plugins/meta/flannel"}, _PLUGINS),
    Module("ocicni", {"ocicni": "."}, "github.com/cri-o/ocicni"),
    Module("helm", {"helm": "helm.sh/helm/v4/cmd/helm"}, "helm.sh/helm/v4"),
)


class BuildError(Exception):
    """What could not be built, and the way out."""


def say(text: str) -> None:
    print(f"==> {text}", file=sys.stderr, flush=True)


def chosen(names: Sequence[str]) -> list[tuple[Module, list[str]]]:
    """The modules of these names, each with the programs wanted of it. Raises BuildError for an unknown name."""
    known = {name for module in MODULES for name in (module.folder, *module.programs)}
    for name in names:
        if name not in known:
            raise BuildError(f"there is no program {name}; there are: {' '.join(sorted(known))}")
    found = ((module, [p for p in module.programs if not names or {p, module.folder} & {*names}]) for module in MODULES)
    return [(module, programs) for module, programs in found if programs]


def key(module: Module, program: str) -> str:
    """Of all that decides what a program is."""
    digest = hashlib.sha256("\0".join((module.programs[program], module.tags, module.link)).encode())
    for file in sorted((HERE / module.folder).rglob("*")):
        if file.suffix in (".go", ".mod", ".sum", ".c"):
            digest.update(f"\0{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def build(folder: Path, names: Sequence[str]) -> Path:
    """Build what is missing or out of date; the folder of programs. Raises BuildError, OSError."""
    place = folder / "bin"
    (place / ".built").mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another build to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        todo = [(module, wanted) for module, programs in chosen(names) if (wanted := _stale(module, programs, place))]
        if todo:
            _room(folder, sum(module.gigabytes for module, _ in todo))
        for module, programs in todo:
            started = time.monotonic()
            origin = f" of {module.project} {module.version}" if module.project else ""
            say(f"building {', '.join(programs)}{origin}")
            for left in folder.glob("new-*"):  # of a run that was killed; its Go may still be writing there
                shutil.rmtree(left, ignore_errors=True)
            fresh = Path(tempfile.mkdtemp(dir=folder, prefix="new-"))
            _compile(module, programs, fresh)
            for program in programs:
                (fresh / program).replace(place / program)
                (place / ".built" / program).write_text(key(module, program))
            shutil.rmtree(fresh)
            say(f"built in {time.monotonic() - started:.0f} s")
    return place


def _stale(module: Module, programs: Sequence[str], place: Path) -> list[str]:
    built = {path.name: path.read_text() for path in (place / ".built").iterdir()}
    return [name for name in programs if built.get(name) != key(module, name) or not (place / name).is_file()]


def _room(folder: Path, gigabytes: float) -> None:
    """Refuse before the disk is full: the compiler's own words then are hard to read, and other programs suffer too."""
    answer = subprocess.run([go(), "env", "GOCACHE", "GOMODCACHE"], capture_output=True, text=True, check=True)
    for place in (folder, *map(Path, answer.stdout.split())):
        free = shutil.disk_usage(next(path for path in (place, *place.parents) if path.is_dir())).free / 1e9
        if free < gigabytes:
            raise BuildError(
                f"{place} has {free:.1f} GB free, and what is to be built may take {gigabytes:.1f}: make room, "
                "or point PODWIRE_CACHE, GOCACHE and GOMODCACHE to a larger disk"
            )


def _compile(module: Module, programs: Sequence[str], fresh: Path) -> None:
    """One run of Go for a module's commands (links overlap then), one for each of its test programs."""
    if module.folder == "pause":
        _run(["cc", "-Os", "-static", "-s", "-Wall", "-o", str(fresh / "pause"), "pause.c"], module)
        return
    link = f"-s -w {module.link.replace('$VERSION', module.version)}".rstrip()
    flags = ["-trimpath", "-tags", module.tags, "-ldflags", link, "-o"]
    commands = {module.programs[name]: name for name in programs if not module.programs[name].startswith(TEST)}
    environment = _seccomp(fresh) if module.folder == "runc" else {"CGO_ENABLED": "0"}
    if commands:
        _run([go(), "build", *flags, f"{fresh}/", *commands], module, environment)
    for package, name in commands.items():
        (fresh / _default_name(module, package)).rename(fresh / name)
    for name in set(programs) - set(commands.values()):
        package = module.programs[name].removeprefix(TEST)
        _run([go(), "test", "-c", *flags, str(fresh / name), package], module, environment)


def _default_name(module: Module, package: str) -> str:
    """What `go build` calls a program: after the last part of its path that is no major version."""
    path = module.folder if package == "." else package
    return re.sub(r"/v\d+$", "", path).rpartition("/")[2]


def _seccomp(fresh: Path) -> dict[str, str]:
    """Debian's static libseccomp, unpacked beside the program and told to cgo instead of to pkg-config."""
    root = fresh.parent / "libseccomp"  # the same each time: cgo's cache goes by it
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    try:
        for deb in debroot.fetch(fresh / "debs", ["libseccomp-dev"], say, re.compile(r"(?!libseccomp-dev$).*")):
            debroot.unpack(deb, root)
    except (debroot.FetchError, debroot.DebrootError) as error:
        raise BuildError(f"runc needs Debian's package libseccomp-dev: {error}") from error
    (archive,) = root.rglob("libseccomp.a")
    paths = {"CGO_CFLAGS": f"-I{root}/usr/include", "CGO_LDFLAGS": f"-L{archive.parent} -lseccomp"}
    return {"CGO_ENABLED": "1", "PKG_CONFIG": "true", **paths}


@functools.cache
def go() -> str:
    """A Go that is new enough, installed into the cache where there is none."""
    return subprocess.run([SETUP, "go"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def _run(command: Sequence[str], module: Module, environment: dict[str, str] | None = None) -> None:
    settings = {"GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly -buildvcs=false", "GOWORK": "off"}
    done = subprocess.run(
        command,
        cwd=HERE / module.folder,
        env=os.environ | settings | (environment or {}),
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode == 0:
        return
    words = "\n".join(done.stderr.strip().splitlines()[-12:])
    hint = ""
    if _NOT_HAD.search(done.stderr):
        hint = "\na Go module could not be had: is this machine online, and what `go env GOPROXY` says right?"
    raise BuildError(f"{module.folder}: `{Path(command[0]).name} {command[1]}` failed:\n{words}{hint}")


def main(arguments: Sequence[str]) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that Go is ended, too
    try:
        print(build(Path(arguments[0]), arguments[1:]))
    except (BuildError, OSError, subprocess.CalledProcessError) as error:
        print(f"make kubernetes: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
