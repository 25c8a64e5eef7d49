"""`fetch.py FOLDER`: containerd, podman and the reference plugins of Debian, unpacked into FOLDER/debian.

Nothing is installed: no maintainer script runs and no service is registered. Quick when it is there.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import shutil
import sys
from pathlib import Path

from podwire.kubelet import debroot

PACKAGES = ("containerd", "containernetworking-plugins", "podman", "conmon", "crun", "runc", "iptables", "iproute2")
SKIPPED = re.compile(r"perl.*|libperl.*|debconf|cdebconf|dpkg|adduser|passwd|init-system-helpers|util-linux-extra")


def ensure(folder: Path) -> Path:
    """The root with these programs. Raises FetchError, DebrootError or OSError."""
    key = hashlib.sha256("\n".join((*PACKAGES, str(debroot.LAYOUT), "2")).encode()).hexdigest()[:12]
    root = folder / f"debian-{key}"
    if not root.is_dir():
        partial = folder / "debian.partial"
        shutil.rmtree(partial, ignore_errors=True)
        debs = debroot.fetch(folder / "debs", PACKAGES, lambda text: print(f"==> {text}", file=sys.stderr), SKIPPED)
        debroot.prepare(partial)
        for deb in debs:
            debroot.unpack(deb, partial)
        for family, action in itertools.product(("iptables", "ip6tables"), ("", "-save", "-restore")):
            (partial / "usr/sbin" / f"{family}{action}").symlink_to("xtables-nft-multi")  # Debian's alternative
        shutil.rmtree(folder / "debs")
        partial.rename(root)
        for stale in set(folder.glob("debian-*")) - {root}:
            shutil.rmtree(stale)
    link = folder / "debian"
    if not link.is_symlink() or link.readlink() != Path(root.name):
        link.unlink(missing_ok=True)
        link.symlink_to(root.name)
    return root


if __name__ == "__main__":
    ensure(Path(sys.argv[1]))
