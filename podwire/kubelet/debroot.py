"""A private Debian root in the cache: real programs for nodes and image stand-ins, nothing installed on the host.

Packages are downloaded by the host's own apt (its sources, keyrings and proxies; private state and cache directories)
with the dependency closure computed against an empty dpkg status, and only unpacked: no maintainer script runs. What
those scripts would have made and is needed here (usr-merge links, alternatives, accounts, the certificate bundle) is
made by `debfinish`. The result is `<cache>/root-<hash of the package list>/`, and `<cache>/root` links to it.

The host is left as it is: dpkg's database, apt's lists and the installed packages are neither read nor written.
"""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from podwire.kubelet import standins
from podwire.kubelet.debfinish import finish
from podwire.kubelet.hostroot import copy_programs

_ASKED = """
    apache2-bin base-files bash bind9-dnsutils bridge-utils busybox-static ca-certificates conntrack coreutils curl
    dash debianutils diffutils ethtool findutils grep gzip hostname iperf3 ipset iproute2 iptables iputils-arping
    iputils-ping iputils-tracepath jq kmod less libc-bin mawk mount mtr-tiny net-tools netbase netcat-openbsd nftables
    nginx openssl procps psmisc runc sed socat strace tar tcpdump traceroute util-linux vim-tiny wget
"""
PACKAGES: tuple[str, ...] = tuple(_ASKED.split())
"""What is asked for; apt adds the libraries."""

SKIPPED = re.compile(
    r"(perl|perl-base|perl-modules-.*|libperl5.*|libgdbm.*|debconf|cdebconf|dpkg|adduser|passwd|init-system-helpers"
    r"|util-linux-extra|usr-is-merged|usrmerge|libsemanage.*|libsepol.*|media-types|mailcap)"
)
"""Packages of the closure that only maintainer scripts use: neither downloaded nor unpacked."""

DROPPED = (
    "./usr/share/doc/*", "./usr/share/man/*", "./usr/share/info/*", "./usr/share/locale/*", "./usr/share/lintian/*",
    "./usr/share/bash-completion/*", "./usr/share/zsh/*", "./usr/share/perl5/*", "./usr/share/vim/*/doc/*",
    "./usr/share/bug/*", "./usr/share/common-licenses/*", "./usr/lib/systemd/system/*", "./lib/systemd/system/*",
    "./etc/init.d/*", "./etc/cron.*", "./etc/logrotate.d/*", "./etc/ufw/*", "./etc/default/*", "./usr/share/apport/*",
)  # fmt: skip
"""Members of packages that no stand-in reads."""

LAYOUT = 4
"""Goes into the root's name: raise it whenever `debfinish` makes something else of the same packages."""

Progress = Callable[[str], None]


class DebrootError(Exception):
    """The private root could not be made, and falling back to the host's /usr would hide why (disk full, bad .deb)."""


class FetchError(Exception):
    """apt could not give the packages (no apt, no mirror); the message holds apt's own last words."""


def root_path(cache: Path) -> Path:
    """Where the root of this package list lives, made or not."""
    key = hashlib.sha256("\n".join((str(LAYOUT), SKIPPED.pattern, *DROPPED, *PACKAGES)).encode()).hexdigest()[:12]
    return cache / f"root-{key}"


def private_root(cache: Path) -> Path | None:
    """The finished root that `<cache>/root` names, or None; touches nothing."""
    link = cache / "root"
    return link.resolve() if (link / "usr/bin").is_dir() else None


def ensure(cache: Path, progress: Progress) -> Path:
    """The private root, made if need be (a download of about 60 MB, once).

    Where packages cannot be had (no apt, no mirror) a root is made of the host's own programs instead, see `hostroot`;
    the next call tries again.

    Safe to call from several processes at once: the second waits and finds the work done. A killed run leaves only
    what the next one takes up (packages) or removes (half a tree). Raises DebrootError when the disk is full.
    """
    wanted = root_path(cache)
    try:
        if private_root(cache) == wanted.resolve() and wanted.is_dir():
            standins.prepare(cache)
            return wanted
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / "root.lock"):
            if not wanted.is_dir():
                wanted = _build(cache, wanted, progress)
            _point(cache / "root", wanted.name)
        standins.prepare(cache)
    except OSError as error:
        shutil.rmtree(cache / "debs", ignore_errors=True)
        raise _explained(error, cache) from error
    return wanted


def _build(cache: Path, wanted: Path, progress: Progress) -> Path:
    for stale in cache.glob("root-*.partial"):
        shutil.rmtree(stale, ignore_errors=True)
    try:
        debs = fetch(cache / "debs", PACKAGES, progress)
    except FetchError as error:
        with suppress(OSError):
            (cache / "debs").rmdir()
        progress(f"no Debian packages ({error}): the images get what this machine's own /usr has")
        return _from_host(cache)
    _unpack_all(debs, wanted, progress)
    shutil.rmtree(cache / "debs", ignore_errors=True)
    return wanted


def _from_host(cache: Path) -> Path:
    wanted, partial = cache / "root-host", cache / "root-host.partial"
    if not wanted.is_dir():
        prepare(partial)
        copy_programs(partial)
        finish(partial, {})
        partial.rename(wanted)
    return wanted


def _unpack_all(debs: Sequence[Path], wanted: Path, progress: Progress) -> None:
    partial = wanted.with_name(f"{wanted.name}.partial")
    partial.mkdir()
    try:
        progress(f"unpacking {len(debs)} packages")
        prepare(partial)
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            list(pool.map(lambda deb: unpack(deb, partial), debs))
        finish(partial, versions(deb.name for deb in debs))
        partial.rename(wanted)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def prepare(root: Path) -> None:
    """Directories and the merged-/usr links that must be there before the first package is unpacked."""
    for directory in ("usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc", "var"):
        (root / directory).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")


def unpack(deb: Path, root: Path) -> None:
    """Unpack one package into `root`; everything belongs to the caller, modes are kept. Raises DebrootError."""
    source = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert source.stdout is not None and source.stderr is not None
    command = ["tar", "-x", "-p", "-C", str(root), "--no-same-owner", "--keep-directory-symlink", "--wildcards"]
    command += [f"--exclude={pattern}" for pattern in DROPPED]
    sink = subprocess.run(command, stdin=source.stdout, stderr=subprocess.PIPE, text=True, check=False)
    source.stdout.close()
    complaint = source.stderr.read().decode(errors="replace")
    source.stderr.close()
    if source.wait() != 0 and sink.returncode == 0:
        raise DebrootError(f"{deb.name} is not a sound package: {complaint.strip()}")
    if sink.returncode != 0:
        if "No space left" in sink.stderr:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise DebrootError(f"{deb.name} cannot be unpacked: {sink.stderr.strip()[-400:]}")


def fetch(debs: Path, packages: Sequence[str], progress: Progress, skipped: re.Pattern[str] = SKIPPED) -> list[Path]:
    """Download `packages` and what they depend on into `debs` (what is there and whole is kept); paths to unpack.

    What `skipped` matches is left out. Raises FetchError; OSError when the disk is full.
    """
    for program in ("apt-get", "apt-cache", "apt-config", "dpkg-deb", "dpkg", "tar"):
        if shutil.which(program) is None:
            raise FetchError(f"{program} is not installed")
    debs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="apt-", dir=debs.parent) as scratch:
        environment = _apt_environment(Path(scratch))
        progress("reading the Debian package lists")
        _apt(["apt-get", "-qq", "update"], environment)
        known = set(_apt(["apt-cache", "pkgnames"], environment).split())
        asked = [name for name in packages if name in known]
        if not asked:
            raise FetchError("no package list could be had from the configured apt sources")
        for missing in sorted(set(packages) - known):
            progress(f"package {missing} is not in the configured apt sources: left out")
        plan = _apt(["apt-get", "-qq", "-y", "--no-install-recommends", "--print-uris", "install", *asked], environment)
        wanted = closure(plan, skipped)
        progress(f"downloading {len(wanted)} packages ({sum(size for _, size in wanted.values()) / 1e6:.0f} MB)")
        for leftover in debs.glob("*.deb"):
            if leftover.name not in wanted:
                leftover.unlink()
        _apt(["apt-get", "-qq", "download", *sorted(name for name, _ in wanted.values())], environment, cwd=debs)
    missing_files = [name for name in wanted if not (debs / name).is_file()]
    if missing_files:
        raise FetchError(f"apt did not deliver {missing_files[0]}")
    return [debs / name for name in sorted(wanted)]


def closure(plan: str, skipped: re.Pattern[str] = SKIPPED) -> dict[str, tuple[str, int]]:
    """Of `apt-get --print-uris install` output: file name -> (name=version to download, bytes), `skipped` left out."""
    wanted: dict[str, tuple[str, int]] = {}
    for line in plan.splitlines():
        if not line.startswith("'"):
            continue
        _, file_name, size, *_ = line.split()
        name, version, _ = file_name.split("_", 2)
        if skipped.fullmatch(name) is None:
            wanted[file_name] = (f"{name}={version.replace('%3a', ':')}", int(size))
    return wanted


def apt_settings(dump: str, scratch: Path, architecture: str) -> str:
    """The private apt.conf: the host's ways to fetch (proxies, certificates) and nothing of its hooks or state.

    `dump` is what `apt-config dump` prints.
    """
    kept = [line for line in dump.splitlines() if line.startswith(("Acquire::", "APT::Get::AllowUnauth"))]
    kept = [line for line in kept if not line.startswith(("Acquire::IndexTargets", "Acquire::Languages"))]
    own = (
        f'Dir::State "{scratch}/state";', f'Dir::State::status "{scratch}/status";', f'Dir::Cache "{scratch}/cache";',
        f'Dir::Log "{scratch}/log";', 'Dir::Etc::main "/dev/null";', 'Dir::Etc::parts "/dev/null";',
        'Dir::Etc::preferencesparts "/dev/null";', f'APT::Architecture "{architecture}";',
        f'APT::Architectures {{ "{architecture}"; }};', 'APT::Sandbox::User "root";',
        'Acquire::Retries "2";', 'Acquire::http::Timeout "20";', 'Acquire::https::Timeout "20";',
        'Acquire::Languages "none";', 'Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";',
        'Acquire::IndexTargets::deb::DEP-11-icons-small::DefaultEnabled "false";',
        'Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";',
    )  # fmt: skip
    return "\n".join((*kept, *own)) + "\n"


def versions(file_names: Iterable[str]) -> dict[str, str]:
    """Package -> version, as the file names of its .debs say."""
    split = (name.split("_", 2) for name in file_names)
    return {parts[0]: parts[1].replace("%3a", ":") for parts in split}


def _apt_environment(scratch: Path) -> dict[str, str]:
    for directory in ("state/lists/partial", "cache/archives/partial", "log"):
        (scratch / directory).mkdir(parents=True)
    (scratch / "status").touch()
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    architecture = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=False).stdout
    settings = scratch / "apt.conf"
    settings.write_text(apt_settings(dump, scratch, architecture.strip()))
    return {**os.environ, "APT_CONFIG": str(settings), "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}


def _apt(command: Sequence[str], environment: dict[str, str], cwd: Path | None = None) -> str:
    done = subprocess.run(
        command, env=environment, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return done.stdout
    words = [line for line in done.stderr.splitlines() if line.startswith("E:")] or done.stderr.splitlines()[-1:]
    said = "; ".join(words) or f"exit code {done.returncode}"
    if "No space left" in done.stderr or "enough free space" in done.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    raise FetchError(f"{command[0]}: {said[:400]}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _point(link: Path, target: str) -> None:
    """Make `link` name `target` in one step, so that a reader never misses it."""
    fresh = link.with_name(f".{link.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        fresh.unlink()
    fresh.symlink_to(target)
    fresh.replace(link)


def _explained(error: OSError, cache: Path) -> DebrootError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DebrootError(f"no space left in {cache}: the private Debian root needs about 400 MB while it is made")
    return DebrootError(f"the private Debian root in {cache} cannot be made: {error}")
