"""nftables through its own program: one text, one transaction (`nft -f -`).

Structure (tables, chains, rules) goes this way, because the program's language is the documented one and a text is
applied whole or not at all. Elements that change on the way of a CNI ADD go through `kernel.nfelements` instead.
"""

from __future__ import annotations

import os
import shutil
import subprocess

from podwire.kernel.netlink import KernelError, writes

_PLACES = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin"
_TIMEOUT_SECONDS = 60


class NftError(KernelError):
    """nft refused a text; `text` is what nft said."""


def program() -> str:
    """Path of `nft`: $PODWIRE_NFT, PATH, or where distributions put it. Raises NftError when there is none."""
    found = os.environ.get("PODWIRE_NFT") or shutil.which("nft") or shutil.which("nft", path=_PLACES)
    if not found:
        raise NftError("find the program nft", 2, "install nftables or set PODWIRE_NFT")
    return found


def run(text: str) -> None:
    """Apply `text` as one transaction. Raises NftError with nft's words."""
    writes["nft"] += 1
    _call(["-f", "-"], text)


def check(text: str) -> None:
    """Ask whether `text` would be accepted, without applying it. Raises NftError."""
    _call(["-c", "-f", "-"], text)


def read(family: str, table: str) -> str | None:
    """The table as text, or None when it does not exist."""
    try:
        return _call(["-n", "list", "table", family, table], "")
    except NftError as error:
        if "No such file or directory" in error.text:
            return None
        raise


def tables() -> list[tuple[str, str]]:
    """Family and name of every table of this network namespace. Raises NftError."""
    words = (line.split() for line in _call(["list", "tables"], "").splitlines())
    return [(family, name) for _, family, name in words]


def version() -> str:
    """What `nft --version` says. Raises NftError."""
    return _call(["--version"], "").strip()


def delete(family: str, table: str) -> None:
    """Remove the table if it exists."""
    if read(family, table) is not None:
        run(f"delete table {family} {table}\n")


def _call(arguments: list[str], text: str) -> str:
    try:
        done = subprocess.run(
            [program(), *arguments], input=text, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except OSError as error:
        raise NftError("run nft", error.errno or 0) from error
    except subprocess.TimeoutExpired as error:
        raise NftError("run nft", 110, f"no answer in {_TIMEOUT_SECONDS} s") from error
    if done.returncode:
        raise NftError(f"nft {' '.join(arguments)}", 22, done.stderr.strip())
    return done.stdout
