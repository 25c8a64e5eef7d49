"""A node as it was before Podwire: what its kernel holds of ours goes, and the agent's files. The agent has ended.

Pods' interfaces go first and the tables that close them last, so that no pod is open meanwhile. Settings of the whole
node that others may count on by now (forwarding, `accept_ra` 2) stay.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterable
from socket import AF_INET, AF_INET6

import msgspec

from podwire.agent.attachments import BRIDGE, DELETED, ROUTED, Attachment, read
from podwire.agent.bandwidth import IFB_PREFIX
from podwire.agent.wiring import DOOMED_GROUP
from podwire.cni import install, listing
from podwire.cni.install import Places
from podwire.cni.plan import PREFIX
from podwire.kernel import bridges, nft
from podwire.kernel.links import Link, RouteSocket
from podwire.kernel.routes import PROTOCOL_PODWIRE
from podwire.render.routing import Names

KUBENET_BRIDGE = "cbr0"
_OWN_TABLE = re.compile(r"podwire([-_].*)?")
_FILES = ("attachments", "cni-spool", "podcidr.json")
"""In the state folder; it may hold labs, too."""


class WipeError(Exception):
    """What forbids it, and the way out."""


def users(places: Places, socket: RouteSocket) -> list[str]:
    """Names of the pods (or interfaces, where no record tells) that still use our wiring. Raises KernelError."""
    records = {record.host_name: record for record in _records(places) if record.role in (ROUTED, BRIDGE)}
    found = []
    for link in _host_ends(socket, set(records)):
        record = records.get(link.name)
        if link.group != DOOMED_GROUP and (record is None or record.state != DELETED):
            named = record is not None and record.pod
            found.append(f"{record.namespace}/{record.pod}" if record is not None and named else link.name)
    return sorted(found)


def wipe(places: Places, socket: RouteSocket) -> list[str]:
    """Remove all of it, used or not; what was there, in words. Silent when called again. Raises WipeError, KernelError,
    OSError; may be called again after each."""
    _refuse_calico(places)
    records = list(_records(places))
    removed = [*_links(socket, records), *_routes(socket), *_tables()]
    for name in _FILES:
        path = places.spool.parent / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.is_symlink() or path.exists():
            path.unlink()
        else:
            continue
        removed.append(str(path))
    for path in (places.socket, places.socket.with_name("debug.sock")):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
            removed.append(str(path))
    return removed


def _refuse_calico(places: Places) -> None:
    """It calls its interfaces, tunnel and routes as we do."""
    for path in install.other_lists(places):
        if "calico" in listing.types(install.read(path) or b""):
            raise WipeError(
                f"{path}: Calico is on this node, and its interfaces, tunnel and routes have the names of ours: what"
                " is left of Podwire goes when the node boots anew"
            )


def _records(places: Places) -> Iterable[Attachment]:
    """Those that can be read."""
    for path in sorted(places.records.glob("*.json")):
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            yield read(path)


def _host_ends(socket: RouteSocket, recorded: set[str]) -> list[Link]:
    return [
        link for link in socket.links() if link.kind == "veth" and (link.name in recorded or link.name[:4] == PREFIX)
    ]


def _links(socket: RouteSocket, records: Iterable[Attachment]) -> list[str]:
    """Pods' host ends with their shapers, then bridges that carry nothing more, then the tunnel's device."""
    ours = [record for record in records if record.role in (ROUTED, BRIDGE)]
    ends = {link.index: link for link in _host_ends(socket, {record.host_name for record in ours})}
    ends |= {link.index: link for link in socket.links() if link.group == DOOMED_GROUP}
    ends |= {link.index: link for link in socket.links() if link.kind == "ifb" and link.name.startswith(IFB_PREFIX)}
    for index in ends:
        socket.delete_link(index)
    used = {port.bridge for port in bridges.ports(socket)}
    named = {record.bridge for record in ours if record.bridge}
    rest = [link for link in socket.links() if link.index not in used and _is_our_bridge(socket, link, named)]
    rest += [link for link in socket.links() if link.name == Names().tunnel and link.kind == "vxlan"]
    for link in rest:
        socket.delete_link(link.index)
    return [link.name for link in (*ends.values(), *rest)]


def _is_our_bridge(socket: RouteSocket, link: Link, named: set[str]) -> bool:
    """On record, or kubenet's with the MAC that we give it after its address."""
    if link.kind != "bridge":
        return False
    held = [address.cidr.partition("/")[0] for address in socket.addresses(AF_INET) if address.index == link.index]
    return link.name in named or (link.name == KUBENET_BRIDGE and link.mac in {bridges.mac_of(one) for one in held})


def _routes(socket: RouteSocket) -> list[str]:
    found = [route for family in (AF_INET, AF_INET6) for route in socket.routes(family)]
    ours = [route for route in found if route.protocol == PROTOCOL_PODWIRE]
    for route in ours:
        socket.drop_route(route)
    return [f"route {route.destination}" for route in ours]


def _tables() -> list[str]:
    """One transaction."""
    ours = [(family, name) for family, name in nft.tables() if _OWN_TABLE.fullmatch(name)]
    if ours:
        nft.run("".join(f"delete table {family} {name}\n" for family, name in ours))
    return [f"table {family} {name}" for family, name in ours]
