"""Where no Debian packages can be had: a private root of copies of the host's own programs.

Only programs, the libraries they are linked with and their plug-ins are copied, all from /usr (or what links into it).
Nothing of /etc, of a home or of a run directory comes along, so that an image shows nothing of how the host is set up.
"""

import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

_NAMES = """
    apache2 arping awk basename bash bridge busybox cat chmod chown conntrack cp curl cut dash date dd df diff dig
    dirname dmesg du echo env ethtool expr false find free getent grep gunzip gzip head host hostname id ifconfig ip
    ip6tables ip6tables-save ipset iptables iptables-restore iptables-save iperf3 jq kill ldconfig less ln ls lsns mkdir
    mkfifo mknod mktemp mount mtr mv nc netstat nft nginx nice nohup nproc nsenter nslookup openssl paste ping ping6
    pidof pgrep printenv printf ps pwd readlink realpath rm rmdir route runc sed seq sh sleep socat sort ss stat strace
    stty sync sysctl tail tar tc tcpdump tee test timeout top touch tr traceroute tracepath true tty umount uname uniq
    unshare uptime vi vim watch wc wget which whoami xargs yes
"""
PROGRAMS: tuple[str, ...] = tuple(_NAMES.split())

PLUGINS: tuple[str, ...] = ("usr/lib/*/xtables", "usr/lib64/xtables", "usr/lib/xtables", "usr/lib/apache2/modules")
"""Directories of what programs load by name, below /."""

SHARED: tuple[str, ...] = ("usr/share/terminfo/x", "usr/share/terminfo/l", "usr/lib/os-release", "usr/lib/terminfo/x")

SEARCH = "/usr/sbin:/usr/bin:/sbin:/bin"


def copy_programs(root: Path) -> None:
    """Copy what of `PROGRAMS` the host has, with libraries and plug-ins, into a tree that `debroot.prepare` began."""
    programs = [Path(found) for name in PROGRAMS if (found := shutil.which(name, path=SEARCH))]
    plugins = [place for pattern in PLUGINS for place in Path("/").glob(pattern)]
    for place in plugins:
        shutil.copytree(place, root / place.relative_to("/"), dirs_exist_ok=True)
    for name in SHARED:
        source = Path("/") / name
        if source.is_dir():
            shutil.copytree(source, root / name, dirs_exist_ok=True, symlinks=True)
        elif source.is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, root / name)
    linked = [*programs, *(module for place in plugins for module in place.glob("*.so"))]
    for source in (*programs, *_libraries(linked)):
        copy_file(source, root)
    if not (root / "usr/bin/sh").exists() and (root / "usr/bin/bash").exists():
        (root / "usr/bin/sh").symlink_to("bash")


def copy_file(source: Path, root: Path) -> None:
    """Put the contents of `source` under the same name below `root`; links are followed, so nothing dangles."""
    target = root / source.relative_to("/")
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target, follow_symlinks=True)


def _libraries(files: Iterable[Path]) -> list[Path]:
    """The shared objects that `files` need, and the loader."""
    program = shutil.which("ldd", path=SEARCH)
    if program is None:
        return []
    done = subprocess.run([program, *map(str, files)], capture_output=True, text=True, check=False)
    return libraries_in(done.stdout)


def libraries_in(listing: str) -> list[Path]:
    """Paths in what `ldd` prints, once each, in order."""
    found = re.findall(r"(?:=> |^\s+)(/\S+) \(0x", listing, flags=re.MULTILINE)
    return [Path(name) for name in dict.fromkeys(found)]
