"""Makes the shim: the C program compiled statically into the cache, or the Python fall-back without a compiler."""

from __future__ import annotations

import contextlib
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
_BARE = (
    "-nostdlib",
    "-ffreestanding",
    "-fno-stack-protector",
    "-fno-tree-loop-distribute-patterns",
    "-Wl,--build-id=none",
)
"""Without a C library, for the processors that the source knows; for others the library is linked in."""
_MANNERS = (_BARE, ("-DWITH_LIBC",))


class ShimError(Exception):
    """No shim could be made; the compiler's words."""


def source() -> Path:
    """The C source: beside the package in a checkout, inside it when installed from a wheel."""
    package = Path(__file__).resolve().parent
    checkout = package.parent.parent / "shim" / "podwire-shim.c"
    return checkout if checkout.exists() else package / "podwire-shim.c"


def build(cache: Path, page: Path | None = None) -> Path:
    """Path of an up-to-date shim under `cache`/bin, compiled when the source (or `page`, another version's) changed.
    Raises ShimError."""
    page = page or source()
    target = cache / "bin" / NAME
    stamp = cache / "bin" / f".{NAME}.digest"
    found = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    compiler = found if page.exists() else None
    text = page.read_bytes() if compiler else fallback().encode()
    digest = hashlib.sha256(text + repr((compiler, _FLAGS, _MANNERS)).encode()).hexdigest()
    if target.exists() and stamp.exists() and stamp.read_text() == digest:
        return target
    content = _compile(compiler, text) if compiler else text
    write_atomically(target, content, 0o755)
    write_atomically(stamp, digest.encode(), 0o644)
    return target


def _compile(compiler: str, text: bytes) -> bytes:
    with tempfile.TemporaryDirectory(prefix="podwire-shim-") as scratch:
        output = Path(scratch) / NAME
        words = b""
        for manner in _MANNERS:
            line = [compiler, *_FLAGS, *manner, "-x", "c", "-", "-o", os.fspath(output)]
            done = subprocess.run(line, input=text, capture_output=True, check=False)
            if done.returncode == 0:
                return output.read_bytes()
            words = words or done.stderr
        raise ShimError(f"{compiler} failed: {words.decode(errors='replace').strip()}")


def fallback() -> str:
    """The Python shim: its first line is the interpreter's path, then the compiled program, for that very interpreter,
    and the source for any other that may come to that path one day. Raises ShimError.

    Compiling takes as long as ten calls of the agent, and so does loading `_socket` from a file where it is not
    builtin: in distributions' interpreters it is.
    """
    body = Path(__file__).with_name("fallback_shim.txt").read_text()
    program, number, compiled = _interpreter(body)
    return (
        f"#!{program} -ISE\n# What shim/podwire-shim.c does, in Python: the source comes behind its compiled form.\n"
        f"import marshal\nimport sys\n\n"
        f"exec(marshal.loads({compiled!r}) if sys.hexversion == {number} else {body!r})\n"
    )


_COMPILE = """
import marshal, sys
code = marshal.dumps(compile(sys.stdin.read(), "podwire", "exec", dont_inherit=True, optimize=2))
sys.stdout.buffer.write(b"%d %d " % ("_socket" in sys.builtin_module_names, sys.hexversion) + code)
"""


def _interpreter(body: str) -> tuple[str, int, bytes]:
    """Path, version and code of `body`, of the distribution's interpreter if it has sockets built in, else of this one.
    Raises ShimError."""
    own = os.path.realpath(sys.executable)
    for program in (os.path.realpath("/usr/bin/python3"), own):
        with contextlib.suppress(OSError):
            done = subprocess.run(
                [program, "-ISE", "-c", _COMPILE], input=body.encode(), capture_output=True, check=False
            )
            if done.returncode == 0:
                builtin, number, code = done.stdout.split(b" ", 2)
                if builtin == b"1" or program == own:
                    return program, int(number), code
    raise ShimError(f"{own} cannot compile the shim")
