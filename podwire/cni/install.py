"""The node's CNI files: the shim under each name it serves and the configuration list, put in place and taken away.

Runtimes watch the directory, so every file appears whole (written beside, then renamed; a link in its place is
replaced, never followed), the executables before the configuration that names them. A program of somebody else's is
replaced only when told so, is kept beside, and comes back. Configurations of others make way when told so: they are
renamed, so that no runtime reads them, and come back, too. On removal the configuration goes first: the node turns
NotReady and gets no new pods; the executables follow when no attachment is left that a runtime must DEL by them, and
then what made way comes back.

Nothing here is a secret: the shim needs the socket alone, so no kubeconfig and no token is ever written to these
directories.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from podwire.cni import listing
from podwire.cni.listing import PROGRAM, Entry

CONFLIST = "05-podwire.conflist"
OWN = (PROGRAM, "podwire-ipam")
REFERENCE = ("portmap", "bandwidth", "loopback", "host-local")
"""Names of the reference plugins that we serve, too."""
CALLERS = frozenset({"multus", "multus-shim", "multus-cni", "genie"})
"""Plugins that stand before others: they read the directory, or were made from our own list, and stay."""
_ASIDE = ".before-podwire"
_MANIFEST = "podwire.installed"


@dataclass(frozen=True, slots=True)
class Places:
    """Where things go on the node; socket and spool are written beside the shim when they are not the usual ones.
    Beside the spool, in `records`, the agent keeps one file for each attachment."""

    conf_dir: Path = Path("/etc/cni/net.d")
    bin_dir: Path = Path("/opt/cni/bin")
    socket: Path = Path("/run/podwire/cni.sock")
    spool: Path = Path("/var/lib/podwire/cni-spool")

    @property
    def records(self) -> Path:
        return self.spool.parent / "attachments"

    @property
    def listing(self) -> Path:
        return self.conf_dir / CONFLIST

    @property
    def manifest(self) -> Path:
        return self.bin_dir / _MANIFEST


_USUAL = Places()


@dataclass(frozen=True, slots=True)
class Step:
    """One file to be made: `content` with `mode`; None takes it away. `aside` is where what is there now is kept,
    `back` what takes the place of the one removed, `same` a file with the content, to be linked to."""

    path: Path
    content: bytes | None
    mode: int = 0o755
    aside: Path | None = None
    back: Path | None = None
    same: Path | None = None

    @property
    def words(self) -> str:
        """What the step does, for people."""
        if self.content is None:
            return f"put {self.path} back" if self.back is not None else f"remove {self.path}"
        kept = f", keep the one there as {self.aside.name}" if self.aside is not None else ""
        return f"write {self.path} (mode {self.mode:04o}){kept}"


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in their order, and programs of others that stay as they are."""

    steps: tuple[Step, ...] = ()
    foreign: tuple[Path, ...] = ()
    spools: bool = False  # the folder is needed in which the executable keeps what it could not tell the agent


@dataclass(frozen=True, slots=True)
class Seen:
    """One of our files as it is: `state` is podwire, other, or missing."""

    name: str
    path: str
    state: str
    note: str = field(default="")


def write_atomically(path: Path, content: bytes, mode: int) -> bool:
    """Make `path` hold `content` with `mode`; False when it did already. Raises OSError."""
    if _holds(path, content, mode):
        return False
    make_directory(path.parent, 0o755)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return True


def make_directory(path: Path, mode: int) -> None:
    """With its parents (0755 each), whatever the umask is; one that is there stays as it is. Raises OSError."""
    if path.is_dir():
        return
    if path.parent != path:
        make_directory(path.parent, 0o755)
    path.mkdir(exist_ok=True)
    path.chmod(mode)


def _holds(path: Path, content: bytes, mode: int) -> bool:
    try:
        return not path.is_symlink() and path.stat().st_mode & 0o7777 == mode and path.read_bytes() == content
    except OSError:
        return False  # absent or unreadable: writing it reports what is really wrong


def plan_install(shim: bytes, text: str, places: Places, *, replace: bool = False) -> Plan:
    """What is to be done so that the files are there; nothing when they are. Reads the disk."""
    steps: list[Step] = []
    paths = places.bin_dir / f"{PROGRAM}.paths"
    if (places.socket, places.spool) != (_USUAL.socket, _USUAL.spool):
        steps.append(Step(paths, f"{places.socket}\n{places.spool}\n".encode(), 0o644))
    elif os.path.lexists(paths):
        steps.append(Step(paths, None))
    known, foreign = _remembered(places), []
    program, digest = places.bin_dir / PROGRAM, hashlib.sha256(shim).hexdigest()
    served: dict[str, Any] = {}
    for name in (*OWN, *REFERENCE):
        path = places.bin_dir / name
        ours = name in OWN or not os.path.lexists(path) or _is_ours(path, known, digest)
        aside = None if ours else path.with_name(name + _ASIDE)
        if aside is not None and not replace:
            foreign.append(path)
            continue
        steps.append(Step(path, shim, aside=aside, same=None if path == program else program))
        served[name] = {
            "digest": digest,
            "replaced": aside is not None or os.path.lexists(path.with_name(name + _ASIDE)),
        }
    steps.append(Step(places.manifest, (json.dumps(served, indent=2) + "\n").encode(), 0o644))
    steps.append(Step(places.listing, text.encode(), 0o644))
    needed = [step for step in steps if step.content is None or not _holds(step.path, step.content, step.mode)]
    return Plan(tuple(needed), tuple(foreign), spools=True)


def install(
    shim: Path,
    mtu: int,
    places: Places | None = None,
    *,
    entry: Entry | None = None,
    replace: bool = False,
) -> list[Path]:
    """Put shim and configuration in place, as the agent does at its start; the paths that changed. A list that has
    Podwire behind another plugin was asked for by a human, and stays. Raises OSError."""
    places = places or Places()
    text = listing.conflist(entry or Entry(mtu))
    current = read(places.listing)
    if current is not None and listing.is_chained(current):
        text = current.decode()
    return apply(plan_install(shim.read_bytes(), text, places, replace=replace), places)


def apply(plan: Plan, places: Places) -> list[Path]:
    """Do the steps; the paths that changed. Raises OSError; what was done till then is whole."""
    if plan.spools:
        make_directory(places.spool, 0o700)
    return [step.path for step in plan.steps if _do(step)]


def _do(step: Step) -> bool:
    if step.content is None:
        if step.back is not None:
            step.back.rename(step.path)
        else:
            step.path.unlink(missing_ok=True)
        return True
    if step.aside is not None:
        _keep(step.path, step.aside)
    if step.same is not None and _link(step.same, step):
        return True
    return write_atomically(step.path, step.content, step.mode)


def _keep(path: Path, aside: Path) -> None:
    """A second name for what is at `path`: it stays usable at every moment."""
    aside.unlink(missing_ok=True)
    os.link(path, aside, follow_symlinks=False)


def _link(source: Path, step: Step) -> bool:
    """The same file under another name, where the file system can; False when it must be written."""
    temporary = step.path.with_name(f".{step.path.name}.{os.getpid()}")
    try:
        if not _holds(source, step.content or b"", step.mode):
            return False
        temporary.unlink(missing_ok=True)
        os.link(source, temporary)
        temporary.rename(step.path)
    except OSError:
        temporary.unlink(missing_ok=True)
        return False
    return True


def plan_uninstall(places: Places) -> tuple[Plan, Plan]:
    """What to take away: the configuration now, the executables when no attachment is left. Reads the disk."""
    first = [Step(places.listing, None)] if os.path.lexists(places.listing) else []
    known, foreign = _remembered(places), []
    own = _digest(places.bin_dir / PROGRAM)
    steps: list[Step] = []
    for name in (*reversed(REFERENCE), *reversed(OWN)):
        path = places.bin_dir / name
        if not os.path.lexists(path):
            continue
        if name not in OWN and not _is_ours(path, known, own):
            foreign.append(path)
            continue
        aside = path.with_name(name + _ASIDE)
        steps.append(Step(path, None, back=aside if os.path.lexists(aside) else None))
    for path in (places.bin_dir / f"{PROGRAM}.paths", places.manifest):
        if os.path.lexists(path):
            steps.append(Step(path, None))
    for path in made_way(places):
        back = path.with_name(path.name.removesuffix(_ASIDE))
        steps.append(Step(back, None, back=path) if not os.path.lexists(back) else Step(path, None))
    return Plan(tuple(first)), Plan(tuple(steps), tuple(foreign))


def uninstall(places: Places | None = None) -> list[Path]:
    """Take all of it away at once, attachments or not; the paths that were there. Raises OSError."""
    return [step.path for plan in plan_uninstall(places or Places()) for step in plan.steps if _do(step)]


def attachments_left(places: Places) -> int:
    """Attachments on record that have not been deleted: a runtime will call the executable for each."""
    try:
        records = [path.read_bytes() for path in places.records.glob("*.json")]
    except OSError:
        return 0
    return sum(not _is_deleted(record) for record in records)


def _is_deleted(record: bytes) -> bool:
    try:
        return bool(json.loads(record).get("state") == "deleted")
    except (ValueError, AttributeError):
        return False


def listed_at(places: Places) -> float | None:
    """When our configuration appeared (seconds, as st_ctime); None when it is not there."""
    try:
        return places.listing.lstat().st_ctime
    except OSError:
        return None


def set_aside(places: Places, since: float | None = None) -> list[Path]:
    """Rename the configurations of others, so that no runtime reads them; which they were. One that appeared after
    `since`, when ours had been there already, was not left by a former network, and stays. Raises OSError."""
    found = [path for path in rivals(places) if since is None or path.lstat().st_ctime <= since]
    for path in found:
        path.rename(path.with_name(path.name + _ASIDE))
    return found


def rivals(places: Places) -> list[Path]:
    """Configurations of other pod networks. None where ours is not in place, or has Podwire behind another plugin; and
    not those of plugins that call further ones (`CALLERS`)."""
    own = read(places.listing)
    if own is None or listing.is_chained(own):
        return []
    return [path for path in other_lists(places) if not CALLERS & set(listing.types(read(path) or b""))]


def made_way(places: Places) -> list[Path]:
    """Where the configurations that made way are, in order."""
    try:
        return sorted(path for path in places.conf_dir.iterdir() if path.name.endswith(_ASIDE))
    except OSError:
        return []


def other_lists(places: Places) -> list[Path]:
    """Configurations of others, in the order in which runtimes look at them."""
    try:
        files = sorted(places.conf_dir.iterdir())
    except OSError:
        return []
    return [path for path in files if path.suffix in (".conf", ".conflist", ".json") and path.name != CONFLIST]


def look(places: Places) -> list[Seen]:
    """Each of our files as it is."""
    known, own = _remembered(places), _digest(places.bin_dir / PROGRAM)
    rows = [_look_at_listing(places)]
    for name in (*OWN, *REFERENCE):
        path = places.bin_dir / name
        state = "podwire" if name in OWN or _is_ours(path, known, own) else "other"
        aside = path.with_name(name + _ASIDE)
        note = f"the one before is kept as {aside.name}" if os.path.lexists(aside) else ""
        rows.append(Seen(name, str(path), state if os.path.lexists(path) else "missing", note))
    return rows


def _look_at_listing(places: Places) -> Seen:
    text = read(places.listing)
    if text is None:
        return Seen("configuration", str(places.listing), "missing", "the node is NotReady, or another plugin's")
    earlier = [path.name for path in other_lists(places) if path.name < CONFLIST]
    note = "behind another plugin" if listing.is_chained(text) else ""
    if earlier:
        note = f"not in force: runtimes take {earlier[0]}"
    return Seen("configuration", str(places.listing), "podwire", note)


def read(path: Path) -> bytes | None:
    """The file's content; None when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def _remembered(places: Places) -> Mapping[str, Any]:
    """The manifest: which programs are ours, by their digests."""
    try:
        found = json.loads(read(places.manifest) or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_ours(path: Path, known: Mapping[str, Any], own: str | None) -> bool:
    """Whether a program is the shim (of digest `own`), or what an earlier install put there."""
    row = known.get(path.name)
    put = row.get("digest") if isinstance(row, dict) else None
    digest = _digest(path)
    return digest is not None and digest in (own, put)


def _digest(path: Path) -> str | None:
    """None for what is no file of its own: a symbolic link is somebody's choice."""
    content = None if path.is_symlink() else read(path)
    return None if content is None else hashlib.sha256(content).hexdigest()
