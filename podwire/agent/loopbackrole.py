"""The role `loopback`: raises a pod's lo and tells its addresses, as the reference plugin of that name.

Runtimes run it beside the pod's network, often at the same time; nothing here minds.
"""

from __future__ import annotations

from podwire.cni import spec
from podwire.cni.result import Address, Interface
from podwire.cni.spec import CniError, Request, Result
from podwire.kernel import links, netns
from podwire.kernel.links import RouteSocket


class LoopbackRole:
    """Needs nothing but the pod's namespace."""

    def add(self, request: Request, inner: int) -> Result:
        with _socket(inner) as socket:
            socket.change(links.change_link(1, up=True))
            if request.previous is not None:
                return request.previous
            held = [one.cidr for one in socket.addresses() if one.index == 1]
        return Result(
            interfaces=(Interface("lo", "00:00:00:00:00:00", sandbox=request.netns),),
            ips=tuple(Address(cidr, interface=0) for cidr in held if cidr in ("127.0.0.1/8", "::1/128")),
        )

    def delete(self, request: Request, inner: int | None) -> None:
        if inner is not None:
            with _socket(inner) as socket:
                socket.change(links.change_link(1, up=False))

    def check(self, request: Request, inner: int) -> None:
        with _socket(inner) as socket:
            link = socket.link("lo")
        if link is None or not link.up:
            raise CniError(spec.DRIFT, "the attachment is damaged", "lo is down in the pod")

    def collect(self, request: Request) -> None:
        """A namespace's lo goes with it."""

    def status(self, request: Request) -> None:
        """Always able."""


def _socket(inner: int) -> RouteSocket:
    with netns.inside(inner):
        return RouteSocket()
