"""IPv6 as a router has it, without what that would do to the node: settings that nobody else asks for."""

from __future__ import annotations

import errno
from socket import AF_INET6

from podwire.kernel import netns
from podwire.kernel.links import RouteSocket
from podwire.kernel.netlink import KernelError
from podwire.kernel.routes import PROTOCOL_RA


def forward6(socket: RouteSocket) -> None:
    """IPv6 is forwarded. Interfaces that have learned routes from routers go on learning: as a router the kernel would
    forget them (`accept_ra` 2, Documentation/networking/ip-sysctl.rst). Raises KernelError."""
    if netns.read_sysctl("net/ipv6/conf/all/forwarding") == "1":
        return
    learned = {route.index for route in socket.routes(AF_INET6) if route.protocol == PROTOCOL_RA}
    for link in socket.links() if learned else ():
        name = f"net/ipv6/conf/{link.name}/accept_ra"
        if link.index in learned and netns.read_sysctl(name) == "1":
            netns.write_sysctl(name, "2")
    netns.write_sysctl("net/ipv6/conf/all/forwarding", "1")


def distrust(name: str) -> None:
    """No router is believed on the interface, whether IPv6 is spoken there or not. Raises KernelError."""
    try:
        netns.put_sysctl(f"net/ipv6/conf/{name}/accept_ra", "0")
    except KernelError as error:
        if error.errno != errno.ENOENT:  # a kernel without IPv6
            raise
