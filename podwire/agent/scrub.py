"""The removal of what a node's kernel or host-local's files have and nobody needs: called for what a check found."""

from __future__ import annotations

from podwire.agent import attachments, wiring
from podwire.agent.config import AgentConfig
from podwire.agent.wiring import Sockets
from podwire.cni.plan import PREFIX
from podwire.ipam import hostlocal
from podwire.kernel.links import RouteSocket
from podwire.kernel.netlink import KernelError
from podwire.kernel.routes import Route


class InUse(Exception):
    """An attachment has it; nothing was done."""


def scrub(config: AgentConfig, interface: str, address: str) -> str:
    """Remove the route to `address` by a host end, and the host end when no attachment on record has it; what was done,
    in words. Raises InUse when an attachment has that address, KernelError."""
    living = [record for record in _records(config) if record.state != attachments.DELETED]
    owner = next((record for record in living if record.host_name == interface), None)
    if owner is not None and (not address or address in owner.addresses):
        raise InUse(f"{interface} is that of {owner.namespace}/{owner.pod}; delete the Pod")
    if not interface.startswith(PREFIX):
        raise InUse(f"{interface} is no interface of ours")
    with Sockets().route() as socket:
        link = socket.link(interface)
        if link is None:
            return f"interface {interface} is gone already"
        if owner is None and link.kind == "veth":
            wiring.doom_index(socket, link.index, ())
            wiring.reap(socket)
            return f"removed interface {interface}"
        return _drop(socket, address, link.index, interface)


def _drop(socket: RouteSocket, address: str, index: int, interface: str) -> str:
    try:
        socket.drop_route(Route(f"{address}/{128 if ':' in address else 32}", index=index))
    except KernelError as error:
        if error.errno != 3:  # ESRCH: it is gone
            raise
    return f"removed the route to {address} by {interface}"


def _records(config: AgentConfig) -> list[attachments.Attachment]:
    return [attachments.read(path) for path in config.attachments.glob("*.json")]


def remove_file(directory: str, network: str, address: str, owner: str) -> str:
    """Free an address that host-local keeps, if it is still kept for `owner` (container/interface; "" for anyone).
    Raises InUse, OSError, HostLocalError."""
    store = hostlocal.Store(directory, network)
    there = next((one for one in store.reservations() if one.address == address), None)
    if there is None:
        return f"{directory}/{network}/{address} is gone already"
    if owner and "/".join(there.owner) != owner:
        raise InUse(f"{address} was freed and given to container {there.owner[0]} meanwhile")
    store.release_address(address)
    return f"removed {directory}/{network}/{address}"
