"""The agent's image, assembled on this machine: what deploy/Containerfile builds, without a registry and a builder.

In it: this interpreter with the standard library, the packages the agent needs, nft, the shared objects of all these,
the CNI shim; no shell, no package tools. Byte code is compiled beforehand and trusted unread (PEP 552, unchecked
hash): the root is read-only, and the layer's times are zero.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from podwire.cni.build import build
from podwire.kubelet import imagewriter
from podwire.kubelet.hostroot import SEARCH, libraries_in
from podwire.kubelet.image import ImageError
from podwire.kubelet.imagewriter import Entry, NewImage, folder

HOME = "opt/podwire/python"
SHIM = "usr/lib/podwire/podwire-shim"
LAB_ONLY = frozenset({"cryptography", "cffi", "pycparser", "pexpect", "ptyprocess"})
"""Dependencies of the lab alone."""
_UNUSED = (
    "test", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "site-packages", "config-*", "__pycache__",
    "pydoc_data", "distutils", "_tkinter*", "_test*", "xxlimited*", "_sqlite3*", "sqlite3", "_curses*", "readline*",
    "nis.*",
)  # fmt: skip
"""Of the standard library."""
_FOLDERS = (
    "etc/podwire", "etc/cni/net.d", "opt/cni/bin", "run/podwire", "run/netns", "var/lib/podwire", "host/proc/sys/net",
    "proc", "sys", "dev", "tmp",
)  # fmt: skip
_START = "#!/{home}/bin/python3 -P\nimport sys\n\nfrom podwire.cli.main import main\n\nsys.exit(main())\n"
_FORMAT = "1"


def ensure(cache: Path, names: Iterable[str], root: Path | None = None, checkout: Path | None = None) -> Path:
    """The archive with the image under `names`, made where it is not in the cache; nft is `root`'s, or else the host's.
    An archive of other content is removed. Package and shim are those of `checkout`, a folder with another version, or
    else of this one. Raises ImageError, ShimError, OSError."""
    names = tuple(names)
    sources = _sources()
    if checkout is not None:
        sources["podwire"] = checkout / "podwire"
    shim = build(cache, checkout / "shim/podwire-shim.c" if checkout is not None else None)
    place = cache / "agent-image" / f"agent-{_key(names, sources, root)}.tar"
    if place.is_file():
        return place
    with tempfile.TemporaryDirectory(prefix="podwire-image-") as scratch:
        tree = Path(scratch)
        _interpreter(tree)
        for name, source in sources.items():
            _copy(source, tree / HOME / _library() / "site-packages" / name)
        _compile(tree)
        _programs(tree, root)
        _put(tree, SHIM, shim.read_bytes(), 0o755)
        _put(tree, "usr/bin/podwire", _START.format(home=HOME).encode(), 0o755)
        _put(tree, "etc/passwd", b"root:x:0:0:root:/:/sbin/nologin\n", 0o644)
        for path in _FOLDERS:
            (tree / path).mkdir(parents=True, exist_ok=True)
        layer: tuple[Entry, ...] = tuple(folder(tree))
        image = NewImage(
            names,
            (layer,),
            ("podwire",),
            ("agent",),
            (f"PATH=/usr/bin:/usr/sbin:/{HOME}/bin", "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1"),
        )
        place.parent.mkdir(parents=True, exist_ok=True)
        imagewriter.write(place, [image])
    for stale in set(place.parent.glob("agent-*.tar")) - {place}:
        stale.unlink(missing_ok=True)
    return place


def requirements(name: str = "podwire") -> dict[str, metadata.Distribution]:
    """What a package needs when it runs, with what that needs; not the lab's own. By normalised name."""
    found: dict[str, metadata.Distribution] = {}
    ahead = [name]
    while ahead:
        distribution = metadata.distribution(ahead.pop())
        for line in distribution.requires or ():
            wanted, _, condition = line.partition(";")
            bare = re.split(r"[\s<>=!~\[(]", wanted.strip())[0].lower().replace("_", "-")
            if "extra" in condition or bare in found or bare in LAB_ONLY:
                continue
            try:
                found[bare] = metadata.distribution(bare)
            except metadata.PackageNotFoundError:
                continue  # of another platform or version of Python
            ahead.append(bare)
    return found


def _sources() -> dict[str, Path]:
    """Top-level names in site-packages → where they are now."""
    import podwire

    found = {"podwire": Path(podwire.__file__).parent}
    for distribution in requirements().values():
        for file in distribution.files or ():
            top = file.parts[0]
            if top not in ("..", "__pycache__"):
                found[top] = Path(str(distribution.locate_file(top)))
    return found


def _key(names: tuple[str, ...], sources: dict[str, Path], root: Path | None) -> str:
    """Of what goes in: other packages by their version, our own pages by content."""
    parts = [_FORMAT, *names, sys.version, str(root), *sorted(sources)]
    parts += [f"{name} {found.version}" for name, found in sorted(requirements().items())]
    own = sources["podwire"]
    for page in sorted(own.rglob("*")):
        if page.is_file() and page.suffix != ".pyc":
            parts.append(f"{page.relative_to(own)} {hashlib.sha256(page.read_bytes()).hexdigest()}")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _library() -> str:
    return f"lib/python{sys.version_info.major}.{sys.version_info.minor}"


def _interpreter(tree: Path) -> None:
    """Program and standard library. Where the library lies elsewhere than beside the program (Debian), they meet."""
    program = Path(os.path.realpath(sys.executable))
    home = tree / HOME
    (home / "bin").mkdir(parents=True)
    shutil.copy(program, home / "bin/python3")
    shutil.copytree(sysconfig.get_paths()["stdlib"], home / _library(), ignore=shutil.ignore_patterns(*_UNUSED))
    (home / _library() / "site-packages").mkdir()


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "tests", "*.pyi", "*.pyx", "*.c"))
    elif source.is_file():
        shutil.copy(source, target)


def _compile(tree: Path) -> None:
    """Raises ImageError."""
    done = subprocess.run(
        [sys.executable, "-m", "compileall", "-q", "-j", "2", "--invalidation-mode", "unchecked-hash",
         "-s", str(tree), "-p", "/", str(tree / HOME)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise ImageError(f"the agent's image: byte code: {done.stdout[-500:]}{done.stderr[-500:]}")


def _programs(tree: Path, root: Path | None) -> None:
    """nft, and the shared objects of all programs and modules, side by side where the C library is: the loader looks
    there whatever paths the programs were linked with. Raises ImageError."""
    nft = next(_nft(root), None)
    if nft is None:
        raise ImageError("the agent's image: nft is neither in the private root nor on the host: install nftables")
    _put(tree, "usr/sbin/nft", nft.read_bytes(), 0o755)
    places = [str(place) for place in (root / "usr/lib").glob("*-linux-gnu")] if root is not None else []
    programs = [tree / HOME / "bin/python3", *(tree / HOME).rglob("*.so")]
    found = [*_shared(programs, []), *_shared([nft], places)]
    library = next((str(path.parent.relative_to("/")) for path in found if path.name == "libc.so.6"), "")
    if not library:
        raise ImageError(f"the agent's image: {programs[0]} is linked with no C library that ldd can find")
    for path in found:
        inside = str(path.relative_to("/")) if path.name.startswith("ld-") else f"{library}/{path.name}"
        if not (tree / inside).exists():  # the first one is the interpreter's
            _put(tree, inside, path.read_bytes(), 0o755)
    _strip([tree / HOME / "bin/python3", *tree.rglob("*.so*")])


def _strip(files: list[Path]) -> None:
    """Debugging symbols are two thirds of some interpreters."""
    if strip := shutil.which("strip", path=SEARCH):
        subprocess.run([strip, "--strip-unneeded", *map(str, files)], capture_output=True, check=False)


def _nft(root: Path | None) -> Iterator[Path]:
    for top in (Path("/"), root):
        for place in ("usr/sbin", "usr/bin", "sbin"):
            if top is not None and (top / place / "nft").is_file():
                yield top / place / "nft"


def _shared(files: list[Path], places: list[str]) -> list[Path]:
    """The shared objects that `files` need, and the loader."""
    program = shutil.which("ldd", path=SEARCH)
    if program is None:
        raise ImageError("the agent's image: ldd is missing on this machine")
    environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(places)} if places else None
    done = subprocess.run([program, *map(str, files)], env=environment, capture_output=True, text=True, check=False)
    return libraries_in(done.stdout)


def _put(tree: Path, path: str, content: bytes, mode: int) -> None:
    target = tree / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    target.chmod(mode)
