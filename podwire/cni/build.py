"""Makes the shim: the C program compiled statically into the cache, or the Python fall-back without a compiler."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from podwire.cni.install import write_atomically

NAME = "podwire-shim"
_FLAGS = ("-Os", "-static", "-s", "-Wall")


class ShimError(Exception):
    """No shim could be made; the compiler's words."""


def source() -> Path:
    """The C source: beside the package in a checkout, inside it when installed from a wheel."""
    package = Path(__file__).resolve().parent
    checkout = package.parent.parent / "shim" / "podwire-shim.c"
    return checkout if checkout.exists() else package / "podwire-shim.c"


def build(cache: Path) -> Path:
    """Path of an up-to-date shim under `cache`/bin, compiled when the source changed. Raises ShimError."""
    target = cache / "bin" / NAME
    stamp = cache / "bin" / f".{NAME}.digest"
    found = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    compiler = found if source().exists() else None
    text = source().read_bytes() if compiler else fallback().encode()
    digest = hashlib.sha256(text + repr((compiler, _FLAGS)).encode()).hexdigest()
    if target.exists() and stamp.exists() and stamp.read_text() == digest:
        return target
    content = _compile(compiler, text) if compiler else text
    write_atomically(target, content, 0o755)
    write_atomically(stamp, digest.encode(), 0o644)
    return target


def _compile(compiler: str, text: bytes) -> bytes:
    with tempfile.TemporaryDirectory(prefix="podwire-shim-") as scratch:
        output = Path(scratch) / NAME
        done = subprocess.run(
            [compiler, *_FLAGS, "-x", "c", "-", "-o", os.fspath(output)], input=text, capture_output=True, check=False
        )
        if done.returncode:
            raise ShimError(f"{compiler} failed: {done.stderr.decode(errors='replace').strip()}")
        return output.read_bytes()


def fallback() -> str:
    """The Python shim with this interpreter's path in its first line."""
    body = Path(__file__).with_name("fallback_shim.txt").read_text()
    return f"#!{os.path.realpath(sys.executable)} -ISE\n{body}"
