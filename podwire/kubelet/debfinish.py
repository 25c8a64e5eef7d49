"""What maintainer scripts would have made in an unpacked Debian root, as far as its programs need it.

Works on files of one directory only, and needs no privilege. Every link is relative or points inside the root, and none
goes through /etc/alternatives: a node puts its own /etc over this tree, and the programs must still be found.
"""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

ALTERNATIVES: dict[str, str] = {
    "usr/bin/awk": "mawk",
    "usr/bin/editor": "vim.tiny",
    "usr/bin/nc": "nc.openbsd",
    "usr/bin/netcat": "nc.openbsd",
    "usr/bin/pager": "less",
    "usr/bin/sh": "dash",
    "usr/bin/traceroute": "traceroute.db",
    "usr/bin/traceroute6": "traceroute6.db",
    "usr/bin/vi": "vim.tiny",
    "usr/bin/view": "vim.tiny",
    "usr/bin/vim": "vim.tiny",
    "usr/bin/which": "which.debianutils",
    **{
        f"usr/sbin/{family}{suffix}": f"{family}-nft{suffix}"
        for family in ("iptables", "ip6tables")
        for suffix in ("", "-save", "-restore")
    },
    **{
        f"usr/sbin/{family}{suffix}": f"{family}-nft{suffix}"
        for family in ("arptables", "ebtables")
        for suffix in ("", "-save", "-restore")
    },
}
"""Link -> the program beside it, as update-alternatives chooses on a fresh system."""

ACCOUNTS = (
    ("root", 0, 0, "/root", "/bin/bash"),
    ("daemon", 1, 1, "/usr/sbin", "/usr/sbin/nologin"),
    ("bin", 2, 2, "/bin", "/usr/sbin/nologin"),
    ("sys", 3, 3, "/dev", "/usr/sbin/nologin"),
    ("mail", 8, 8, "/var/mail", "/usr/sbin/nologin"),
    ("www-data", 33, 33, "/var/www", "/usr/sbin/nologin"),
    ("nginx", 101, 101, "/nonexistent", "/usr/sbin/nologin"),
    # Debian's tcpdump becomes this user, or refuses to run. uid 0, so that it may write where its caller may.
    ("tcpdump", 0, 0, "/nonexistent", "/usr/sbin/nologin"),
    ("nobody", 65534, 65534, "/nonexistent", "/usr/sbin/nologin"),
)
GROUPS = (
    *((name, gid) for name, _, gid, _, _ in ACCOUNTS if name not in ("nobody", "tcpdump")),
    ("adm", 4),
    ("tty", 5),
    ("shadow", 42),
    ("utmp", 43),
    ("video", 44),
    ("users", 100),
    ("nogroup", 65534),
)

DIRECTORIES: tuple[tuple[str, int], ...] = (
    ("dev", 0o755), ("home", 0o755), ("mnt", 0o755), ("opt", 0o755), ("proc", 0o555), ("root", 0o700), ("run", 0o755),
    ("srv", 0o755), ("sys", 0o555), ("tmp", 0o1777), ("usr/local/bin", 0o755), ("usr/local/sbin", 0o755),
    ("var/cache", 0o755), ("var/lib/nginx", 0o755), ("var/log/nginx", 0o755), ("var/log/apache2", 0o755),
    ("var/tmp", 0o1777), ("var/www/html", 0o755),
)  # fmt: skip

FILES: dict[str, str] = {
    "etc/passwd": "".join(f"{n}:x:{u}:{g}:{n}:{h}:{s}\n" for n, u, g, h, s in ACCOUNTS),
    "etc/group": "".join(f"{name}:x:{gid}:\n" for name, gid in GROUPS),
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\n"
    "protocols: files\nservices: files\n",
    "etc/shells": "/bin/sh\n/bin/bash\n/usr/bin/bash\n/bin/dash\n",
    "etc/ld.so.conf": "include /etc/ld.so.conf.d/*.conf\n",
    "etc/host.conf": "multi on\n",
}


PACKAGE_LIST = "usr/share/podwire/packages"
"""Where a finished root says what it was made of: a line `name version` for each package; empty if of the host."""


def finish(root: Path, versions: Mapping[str, str]) -> None:
    """Complete the unpacked tree in place; calling it twice changes nothing."""
    listing = "".join(f"{name} {version}\n" for name, version in sorted(versions.items()))
    (root / PACKAGE_LIST).parent.mkdir(parents=True, exist_ok=True)
    (root / PACKAGE_LIST).write_text(listing)
    make_directories(root)
    make_links(root)
    make_files(root)
    bundle_certificates(root)
    _index_libraries(root)


def make_directories(root: Path) -> None:
    for name, mode in DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name).chmod(mode)
    for link, target in (("var/run", "/run"), ("var/lock", "/run/lock")):
        place = root / link
        if place.is_dir() and not place.is_symlink() and not any(place.iterdir()):
            place.rmdir()  # packages bring it empty; an image has the link, so that a volume at one is at both
        if not place.is_symlink() and not place.exists():
            place.symlink_to(target)


def make_links(root: Path) -> None:
    """The alternatives whose program is there; a link that a package brought is left alone."""
    for link, target in ALTERNATIVES.items():
        place = root / link
        if (place.parent / target).exists() and not place.is_symlink() and not place.exists():
            place.symlink_to(target)


def make_files(root: Path) -> None:
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).unlink(missing_ok=True)
        (root / name).write_text(text)


def bundle_certificates(root: Path) -> None:
    """All certificate authorities in the one file that OpenSSL and GnuTLS read."""
    parts = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    if not parts:
        return
    directory = root / "etc/ssl/certs"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "ca-certificates.crt").write_bytes(b"".join(part.read_bytes().rstrip() + b"\n" for part in parts))
    certificate = root / "usr/lib/ssl/cert.pem"
    if certificate.parent.is_dir() and not certificate.is_symlink():
        certificate.symlink_to("/etc/ssl/certs/ca-certificates.crt")


def _index_libraries(root: Path) -> None:
    """Write /etc/ld.so.cache if that may be done here.

    `ldconfig -r` changes root, which an ordinary user may not; the libraries lie in the loader's built-in directories,
    so that without the cache programs only start a little slower.
    """
    program = shutil.which("ldconfig", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program is not None:
        subprocess.run([program, "-r", str(root)], capture_output=True, check=False)
