"""Attachments: which pod interface is wired how. One small file each, so that they outlive the agent.

A chain may have several of our roles for one interface, so each role's *layer* has a record of its own: "" for what
wires (or admits what another wired), "ipam" for addresses alone, else the role's name.

Written without fsync on purpose: what must survive is the agent; with the machine the wiring itself is lost.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from podwire.cni.capabilities import Bandwidth, PortMapping

log = logging.getLogger(__name__)

WIRING = "wiring"  # begun: an address may be claimed, links may exist; nobody has been told
READY = "ready"  # the runtime has (or will have) its result
DELETED = "deleted"  # DEL was answered; links and address are still to be given back

ROUTED, BRIDGE, CHAINED, IPAM = "routed", "bridge", "chained", "podwire-ipam"
CLAIMING = (ROUTED, BRIDGE, IPAM)  # the roles whose addresses are claimed on the API
_LAYERS = {ROUTED: "", BRIDGE: "", CHAINED: "", IPAM: "ipam"}

Key = tuple[str, str, str]  # container ID, interface, layer


def layer_of(role: str) -> str:
    return _LAYERS.get(role, role)


class Attachment(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one role did for one interface of one sandbox. `addresses` are bare, `gateways` beside them where the role
    has some of its own; `bridge` is the bridge's name, `masquerade` its ipMasq, and with it go the modes of the bridge
    and the port as they were configured; `nat` how host ports masquerade ("", "none" or "all"); `floating` are
    addresses that lead to the pod, `sources` prefixes that it may speak from beside its own addresses."""

    container_id: str
    interface: str
    network: str
    netns: str
    host_name: str
    pod_mac: str
    mtu: int
    handle: str
    addresses: tuple[str, ...] = ()
    namespace: str = ""
    pod: str = ""
    uid: str = ""
    state: str = WIRING
    boot: str = ""
    role: str = ROUTED
    gateways: tuple[str, ...] = ()
    bridge: str = ""
    ports: tuple[PortMapping, ...] = ()
    limits: Bandwidth | None = None
    nat: str = ""
    masquerade: bool = False
    hairpin: bool = True
    promiscuous: bool = False
    bridge_gateway: bool = True
    default_gateway: bool = True
    floating: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        return self.container_id, self.interface, layer_of(self.role)

    @property
    def owner(self) -> str:
        """Its name in tables of host ports and the like."""
        return f"{self.container_id}/{self.interface}"


def decode(raw: bytes) -> Attachment:
    """A record of this or an earlier release. Raises msgspec.MsgspecError."""
    fields: dict[str, Any] = msgspec.json.decode(raw, type=dict[str, Any])
    if "address" in fields:  # before there were several
        address = fields.pop("address")
        fields["addresses"] = [address] if address else []
    return msgspec.convert(fields, Attachment)


def read(path: Path) -> Attachment:
    """A record's file. A link is not followed, and a FIFO holds nobody up. Raises OSError, msgspec.MsgspecError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        return decode(file.read())


class Attachments:
    """The records in memory and on disk. Safe for use by several threads."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._prefix = os.fspath(directory) + "/"
        self._records: dict[Key, Attachment] = {}
        self._hosts: dict[str, dict[Key, None]] = {}  # host end → whose it is or was
        self._guard = threading.Lock()

    def load(self) -> None:
        """Read what a former agent left; an unreadable file is set aside and logged, not trusted."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in sorted(self._directory.glob("*.json")):
            try:
                record = read(path)
                if path != self._path(record.key):
                    path.rename(self._path(record.key))
            except (OSError, msgspec.MsgspecError) as error:
                log.error("attachment unreadable file=%s error=%s", path, error)
                with contextlib.suppress(OSError):
                    path.rename(path.with_suffix(".broken"))
                continue
            self._remember(record)

    def _remember(self, record: Attachment) -> None:
        former = self._records.get(record.key)
        if former is not None:
            self._hosts.get(former.host_name, {}).pop(former.key, None)
        self._records[record.key] = record
        if record.host_name:
            self._hosts.setdefault(record.host_name, {})[record.key] = None

    def put(self, record: Attachment) -> None:
        """Raises OSError (a full disk, say); then nothing has changed."""
        path = self._prefix + _name(record.key)
        temporary = path.removesuffix("json") + "new"
        try:
            _write(temporary, msgspec.json.encode(record))
            os.rename(temporary, path)  # noqa: PTH104 (twice in every ADD)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108
            raise
        with self._guard:
            self._remember(record)

    def remove(self, key: Key) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._prefix + _name(key))  # noqa: PTH108 - on the DEL path
        with self._guard:
            record = self._records.pop(key, None)
            if record is not None and (keys := self._hosts.get(record.host_name)) is not None:
                keys.pop(key, None)
                if not keys:
                    del self._hosts[record.host_name]

    def get(self, key: Key) -> Attachment | None:
        with self._guard:
            return self._records.get(key)

    def all(self, *states: str) -> list[Attachment]:
        """Records in one of the states (none given: all)."""
        with self._guard:
            return [record for record in self._records.values() if not states or record.state in states]

    def bridged(self) -> bool:
        """Pods are reached by a bridge's prefix, ours or that of who asked us for addresses alone."""
        with self._guard:
            return any(record.role in (BRIDGE, IPAM) and record.state != DELETED for record in self._records.values())

    def owner(self, host_name: str, states: Iterable[str] = (WIRING, READY)) -> Attachment | None:
        """Whose wiring has the host end of that name now."""
        with self._guard:
            mine = [self._records[key] for key in self._hosts.get(host_name, ())]
        wanted = tuple(states)
        return next((record for record in mine if record.state in wanted and not record.key[2]), None)

    def _path(self, key: Key) -> Path:
        return self._directory / _name(key)


def _name(key: Key) -> str:
    """Its file's. Neither part may contain a colon."""
    return (":".join(key) if key[2] else f"{key[0]}:{key[1]}") + ".json"


def _write(path: str, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        if os.write(descriptor, content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    finally:
        os.close(descriptor)
