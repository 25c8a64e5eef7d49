"""Addresses kept as files of this node, in the reference host-local plugin's own format: either may go on with a
directory that the other began, even both at once.

`<dataDir>/<network>/` holds a file for each address in use, named by its canonical text, with the container ID, CRLF
and the interface's name inside (an old format has the ID alone); `last_reserved_ip.<number of the range set>`; and
`lock`, which whoever changes anything holds exclusively. Creating the address's file (O_EXCL) is the reservation.
Source: containernetworking/plugins, plugins/ipam/host-local/backend/disk.

Beyond it: the same attachment asks again and gets the same addresses; reservations of an earlier boot are freed (our
`.boot_id`, which the reference does not mind); what is held is known in memory as long as nobody else touched the
directory; symbolic links are refused; leaks can be found and released.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from podwire.ipam import hostranges
from podwire.ipam.hostranges import IP, HostLocalError, RangeSet, parse_address

LAST, LOCK, BOOT = "last_reserved_ip.", "lock", ".boot_id"
_MOST_BYTES = 1024

Owner = tuple[str, str]
"""Container ID and interface name; the old format has no interface: ""."""


@dataclass(frozen=True, slots=True)
class Given:
    """An address for an attachment: in CIDR form with its subnet's length, and the gateway."""

    cidr: str
    gateway: str


@dataclass(frozen=True, slots=True)
class Reservation:
    """A file. `since` is the time of its making (seconds since the epoch)."""

    address: str
    owner: Owner
    since: float


@dataclass(frozen=True, slots=True)
class Boot:
    """Which life of the machine this is, and when it began: reservations made before are nobody's."""

    identity: str
    began: float


def this_boot() -> Boot:
    """Of the running kernel. Raises OSError."""
    identity = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return Boot(identity, time.time() - time.clock_gettime(time.CLOCK_BOOTTIME))


class Store:
    """One network's directory. Threads and processes may use it at the same time. Methods raise OSError, and
    HostLocalError for what is refused."""

    def __init__(self, data_dir: str, network: str, boot: Boot | None = None) -> None:
        self._path = Path(data_dir) / network
        self._boot = boot
        self._guard = threading.Lock()
        self._held: dict[str, Reservation] = {}
        self._mark = 0  # the directory's time of change when `_held` was true

    def assign(self, owner: Owner, sets: Sequence[RangeSet], wanted: Sequence[IP] = ()) -> list[Given]:
        """One address of each set: those the owner holds already, the wanted ones, else the next free. All or none."""
        with self._locked() as folder:
            rest = list(wanted)
            fresh: list[str] = []
            given = []
            try:
                for number, one in enumerate(sets):
                    try:
                        address, new = self._take(folder, owner, number, one, rest)
                    except HostLocalError as error:
                        text = f"failed to allocate for range {number}: {error}"
                        raise HostLocalError(text, exhausted=error.exhausted) from None
                    where = one.over(address)
                    assert where is not None
                    fresh += [str(address)] if new else []
                    given.append(Given(f"{address}/{where.subnet.prefixlen}", str(where.gateway)))
                if rest:
                    raise HostLocalError("failed to allocate all requested IPs: " + " ".join(map(str, rest)))
            except BaseException:
                for text in fresh:
                    self._remove(folder, text)
                raise
            return given

    def release(self, owner: Owner) -> list[str]:
        """The owner's addresses, now free."""
        with self._locked() as folder:
            return [text for text in self._of(owner) if self._remove_if(folder, text, lambda found: _is(found, owner))]

    def held(self, owner: Owner) -> list[str]:
        """The owner's addresses."""
        with self._locked():
            return self._of(owner)

    def reservations(self) -> list[Reservation]:
        """All of them, in the order of addresses."""
        with self._locked():
            return sorted(self._held.values(), key=lambda one: _sorted(one.address))

    def leaks(self, live: Collection[Owner]) -> list[Reservation]:
        """Reservations of attachments that do not live (any more). An old file without an interface is live while any
        interface of its container is."""
        containers = {container for container, _ in live}
        return [one for one in self.reservations() if not _lives(one.owner, live, containers)]

    def collect(self, live: Collection[Owner]) -> list[Reservation]:
        """Release what `leaks` names, in one go."""
        containers = {container for container, _ in live}
        with self._locked() as folder:
            dead = [one for one in self._held.values() if not _lives(one.owner, live, containers)]
            return [one for one in dead if self._remove_if(folder, one.address, one.owner.__eq__)]

    def release_address(self, address: str) -> Reservation | None:
        """Free one address, whoever holds it; what was there."""
        parsed = parse_address(address)
        with self._locked() as folder:
            known = self._held.get(str(parsed))
            if known is not None:
                self._remove(folder, known.address)
            return known

    # -- one change -----------------------------------------------------------------------------------------------

    def _take(self, folder: int, owner: Owner, number: int, one: RangeSet, rest: list[IP]) -> tuple[IP, bool]:
        """An address of the set and whether it is new; takes it out of `rest` if it was asked for."""
        asked = next((address for address in rest if one.over(address) is not None), None)
        mine = [address for text in self._of(owner) if (address := parse_address(text)) and one.over(address)]
        if asked is not None:
            rest.remove(asked)
            where = one.over(asked)
            if where is not None and asked == where.gateway:
                raise HostLocalError(f"requested ip {asked} is subnet's gateway")
            if mine and asked not in mine:
                raise HostLocalError(f"{mine[0]} has been allocated to {owner[0]}, duplicate allocation is not allowed")
            if not mine and not self._reserve(folder, asked, owner, number):
                raise HostLocalError(f"requested IP address {asked} is not available in range set {one}")
            return asked, not mine
        if mine:
            return mine[0], False
        for address, _ in hostranges.free(one, self._held, self._last(folder, number)):
            if self._reserve(folder, address, owner, number):
                return address, True
        raise HostLocalError(f"no IP addresses available in range set: {one}", exhausted=True)

    def _reserve(self, folder: int, address: IP, owner: Owner, number: int) -> bool:
        """Make the address's file; False when there is one (a directory or link of that name counts)."""
        text = str(address)
        try:
            file = os.open(
                text, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder
            )
        except FileExistsError:
            return False
        try:
            try:
                _write(file, f"{owner[0]}\r\n{owner[1]}".encode())
            finally:
                os.close(file)
            self._put_last(folder, number, text)
        except BaseException:
            with suppress(OSError):
                os.unlink(text, dir_fd=folder)
            raise
        self._held[text] = Reservation(text, owner, time.time())
        return True

    def _put_last(self, folder: int, number: int, text: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(f"{LAST}{number}", flags, 0o600, dir_fd=folder)
        try:
            _write(file, text.encode())
        finally:
            os.close(file)

    def _last(self, folder: int, number: int) -> IP | None:
        text = _read(folder, f"{LAST}{number}")
        return parse_address(text.strip()) if text else None

    def _of(self, owner: Owner) -> list[str]:
        exact = [text for text, one in self._held.items() if one.owner == owner]
        return sorted(exact or [text for text, one in self._held.items() if one.owner == (owner[0], "")], key=_sorted)

    def _remove_if(self, folder: int, text: str, expected: Callable[[Owner], bool]) -> bool:
        """Remove the file if it still says what we believe: it may have been given to somebody else meanwhile."""
        found = _owner(_read(folder, text) or "")
        if found is None or not expected(found):
            self._held.pop(text, None)
            return False
        self._remove(folder, text)
        return True

    def _remove(self, folder: int, text: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(text, dir_fd=folder)
        self._held.pop(text, None)

    # -- the directory --------------------------------------------------------------------------------------------

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """A descriptor of the directory, with the lock held and `_held` true."""
        with self._guard:
            folder = self._open()
            try:
                lock = _open(folder, LOCK, os.O_RDWR | os.O_CREAT)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    self._learn(folder)
                    mark = self._mark
                    try:
                        yield folder
                    finally:
                        if os.fstat(folder).st_mtime_ns != mark:
                            self._sign(folder)
                finally:
                    os.close(lock)  # which unlocks
            finally:
                os.close(folder)

    def _open(self) -> int:
        self._path.mkdir(mode=0o755, parents=True, exist_ok=True)
        try:
            return os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise HostLocalError(f"{self._path} is not a directory but a symbolic link or file; refused") from None
            raise

    def _sign(self, folder: int) -> None:
        """Give the directory a time of change that nobody else would: the next change, however soon, shows.

        (The kernel's own times are those of the last clock tick: two changes in one tick look alike.)
        """
        self._mark = time.time_ns() | 1
        try:
            os.utime(folder, ns=(self._mark, self._mark))
            self._mark = os.fstat(folder).st_mtime_ns
        except OSError:
            self._mark = 0  # not ours to sign: read it anew each time

    def _learn(self, folder: int) -> None:
        if self._mark and os.fstat(folder).st_mtime_ns == self._mark:
            return
        before, self._held = self._held, {}
        with os.scandir(folder) as entries:
            for entry in entries:
                address = parse_address(entry.name)
                if address is None or str(address) != entry.name:
                    continue
                status = entry.stat(follow_symlinks=False)
                known = before.get(entry.name)
                if known is None or status.st_mtime != known.since:
                    text = _read(folder, entry.name) if stat.S_ISREG(status.st_mode) else None
                    known = Reservation(entry.name, _owner(text or "") or ("", ""), status.st_mtime)
                self._held[entry.name] = known
        self._forget_earlier_boot(folder)
        self._sign(folder)

    def _forget_earlier_boot(self, folder: int) -> None:
        if self._boot is None or _read(folder, BOOT) == self._boot.identity:
            return
        if _read(folder, BOOT) is not None:
            for one in [one for one in self._held.values() if one.since < self._boot.began]:
                self._remove(folder, one.address)
        file = _open(folder, BOOT, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            _write(file, self._boot.identity.encode())
        finally:
            os.close(file)


def stores(data_dir: str) -> list[str]:
    """Networks that have a directory below `data_dir`."""
    with suppress(OSError), os.scandir(data_dir) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    return []


def dns_of(path: str) -> dict[str, object]:
    """A resolv.conf as a result's dns; nothing for an empty path. Raises HostLocalError."""
    if not path:
        return {}
    try:
        return hostranges.parse_resolv_conf(Path(path).read_text(errors="replace"))
    except OSError as error:
        raise HostLocalError(f"ipam.resolvConf: open {path}: {error.strerror}") from None


def _open(folder: int, name: str, flags: int) -> int:
    try:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise HostLocalError(f"{name} is a symbolic link; refused") from None
        raise


def _read(folder: int, name: str) -> str | None:
    """A small file's text; None when there is none, or when it is no regular file."""
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return None
        return os.read(file, _MOST_BYTES).decode(errors="replace")
    finally:
        os.close(file)


def _write(file: int, content: bytes) -> None:
    if os.write(file, content) != len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _owner(text: str) -> Owner | None:
    lines = text.strip().split("\r\n")
    return (lines[0].strip(), lines[1].strip() if len(lines) > 1 else "") if lines[0] else None


def _is(found: Owner, owner: Owner) -> bool:
    return found in (owner, (owner[0], ""))


def _lives(owner: Owner, live: Collection[Owner], containers: Collection[str]) -> bool:
    return owner[0] in containers if not owner[1] else owner in live


def _sorted(text: str) -> tuple[int, int]:
    address = parse_address(text)
    assert address is not None
    return address.version, int(address)
