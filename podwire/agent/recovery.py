"""What an agent does first: compares its records with the kernel and finishes what its predecessor had begun.

A record says "wiring": the ADD was never answered, so it is undone. "deleted": the reaper takes it up. "ready": route
and admission are made right if they are not. Links with our names and no record go. Where nothing
is new, nothing is written.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from socket import AF_INET6

import msgspec

from podwire.agent import wiring as wire
from podwire.agent.admission import Admission, speaker_of
from podwire.agent.attachments import CHAINED, DELETED, READY, ROUTED, WIRING, Attachments
from podwire.agent.extras import Extras
from podwire.agent.reaper import Reaper
from podwire.agent.wiring import DOOMED_PREFIX, Sockets
from podwire.cni.plan import PREFIX
from podwire.kernel import netns
from podwire.kernel.delta import Delta
from podwire.kernel.links import Link
from podwire.kernel.reconcile import reconcile
from podwire.kernel.routes import TYPE_UNICAST, Route, add_route
from podwire.kernel.tables import Routes

log = logging.getLogger(__name__)

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def identity() -> str:
    """Names this boot and this network namespace: what was wired under another identity is gone with it."""
    own = netns.open_own()
    try:
        return f"{_BOOT_ID.read_text().strip()}/{netns.identity(own)[1]}"
    finally:
        os.close(own)


def restore(
    records: Attachments, sockets: Sockets, admission: Admission, reaper: Reaper, extras: Extras, boot: str
) -> bool:
    """Bring records and kernel together, before any call is served; whether the records tell of every pod there was.

    Raises KernelError.
    """
    for record in records.all(WIRING, READY):
        if record.state == WIRING or record.boot != boot:
            records.put(msgspec.structs.replace(record, state=DELETED))
    wired = [record for record in records.all(READY) if record.role == ROUTED]
    # another plugin's interface may have our prefix, too
    closed = wired + [r for r in records.all(READY) if r.role == CHAINED and r.host_name.startswith(PREFIX)]
    admission.restore(speaker_of(record) for record in closed)
    ready = {record.host_name: record.addresses for record in wired}
    kept = {record.host_name for record in records.all(READY)}
    ours = [link for link in sockets.route().links() if _is_ours(link)]
    for link in ours:
        if link.name not in kept:
            log.warning("left-over interface removed name=%s", link.name)
            wire.doom_index(sockets.route(), link.index, ())
            extras.forget(link.name)
            reaper.wake()
    _restore_routes(sockets, {link.index: ready[link.name] for link in ours if link.name in ready})
    extras.restore(records.all())
    for record in records.all(DELETED):
        reaper.add(record.key)
    known = {record.host_name for record in records.all()}
    return all(link.name in known for link in ours if link.name.startswith(PREFIX))


def _is_ours(link: Link) -> bool:
    return link.kind == "veth" and (link.name.startswith(PREFIX) or link.name.startswith(DOOMED_PREFIX))


def _restore_routes(sockets: Sockets, addresses: Mapping[int, tuple[str, ...]]) -> None:
    """Host routes of the pods: every unicast route by one of our host ends is ours."""
    rows = [wire.host_route(address, index) for index, several in addresses.items() for address in several]
    delta: Delta[str, Route] = Delta()
    delta.want({row.destination: row for row in rows if ":" not in row.destination})
    table = Routes(sockets.route(), lambda route: route.type == TYPE_UNICAST and route.index in addresses)
    for error in reconcile(delta, table):
        log.error("pod route failed error=%s", error)
    held = {(route.destination, route.index) for route in sockets.route().routes(AF_INET6)}
    missing = [row for row in rows if ":" in row.destination and (row.destination, row.index) not in held]
    sockets.route().batch([add_route(row) for row in missing])
